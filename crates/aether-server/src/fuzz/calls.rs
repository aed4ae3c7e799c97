//! Calls of every method over a voter that works, in process: frames with
//! changed messages go through decoding, handler, log and coordinator.

use std::panic;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use aether_agent::artifact::ArtifactStore;
use aether_core::level::FEATURE_LEVEL_MAX;
use aether_core::lint::lint;
use aether_fuzz::proptest::prelude::*;
use aether_fuzz::proptest::sample::select;
use aether_fuzz::{CASES, Mutation, Shown, bytes, check, mutations};
use aether_replica::{Replica, Voter};
use http_body_util::{BodyExt, Full};
use tonic::codegen::Service;
use tonic::service::Routes;
use tonic::{Code, Status};

use super::messages::{Call, calls};
use super::{LEASE, commands};
use crate::deadline::Deadline;
use crate::{Config, Server, StateMachine};

/// No answer takes this long unless something hangs.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long a stream is listened to.
const STREAM_PATIENCE: Duration = Duration::from_secs(1);

struct Node {
    runtime: tokio::runtime::Runtime,
    server: Server,
    clients: Routes,
    peers: Routes,
    _replica: Replica,
    _dir: tempfile::TempDir,
}

impl Node {
    fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let dir = tempfile::tempdir().unwrap();
        let (replica, server) = runtime.block_on(async {
            let (machine, published) = StateMachine::new();
            let changes = machine.watched();
            let config = aether_replica::Config {
                node_name: "n1".to_owned(),
                data_dir: dir.path().join("replica"),
                voters: vec![Voter { name: "n1".to_owned(), peer_addr: "127.0.0.1:1".to_owned() }],
                feature_level_max: FEATURE_LEVEL_MAX,
                ..aether_replica::Config::default()
            };
            let replica = Replica::open(config, machine).await.unwrap();
            let store = ArtifactStore::open_dir(&dir.path().join("artifacts")).unwrap();
            let config = Config {
                node: "n1".parse().unwrap(),
                session_lease: LEASE,
                agent_lease: LEASE,
                table_age_max: Duration::from_secs(600),
                node_lost: Duration::from_secs(30),
                gate_programs: crate::GatePrograms::None,
            };
            let server = Server::start(config, replica.handle(), published, changes, store);
            let mut leadership = replica.handle().leadership();
            let leads = leadership.wait_for(|now| now.is_leader && now.ready);
            drop(tokio::time::timeout(PATIENCE, leads).await.expect("it leads alone").unwrap());
            for command in commands() {
                // The coordinator may have assigned the instances already.
                drop(server.control.write(Deadline::default(), "test", "", command).await);
            }
            (replica, server)
        });
        let (clients, peers) = (server.client_routes(), server.peer_routes(Routes::default()));
        Self { runtime, server, clients, peers, _replica: replica, _dir: dir }
    }

    /// Code and message with which a call with these bytes as its body is
    /// answered, or `Ok` with its first message.
    fn call(&self, path: &str, body: Vec<u8>) -> (Code, String) {
        let request = http::Request::post(path)
            .header("content-type", "application/grpc")
            .body(tonic::body::Body::new(Full::new(bytes::Bytes::from(body))))
            .unwrap();
        let of_peers = path.starts_with("/aether.peer.");
        let mut routes = if of_peers { self.peers.clone() } else { self.clients.clone() };
        self.runtime.block_on(async {
            let answered = tokio::time::timeout(PATIENCE, async {
                let response = routes.call(request).await.unwrap();
                if let Some(status) = Status::from_header_map(response.headers()) {
                    return (status.code(), status.message().to_owned());
                }
                let mut body = response.into_body();
                // A stream may have nothing to say yet; all others have answered.
                let frame = tokio::time::timeout(STREAM_PATIENCE, body.frame()).await;
                let frame = frame.ok().flatten().and_then(Result::ok);
                let trailers = frame.as_ref().and_then(|frame| frame.trailers_ref());
                let status = trailers.and_then(Status::from_header_map);
                let status = status.unwrap_or_else(|| Status::ok(""));
                (status.code(), status.message().to_owned())
            });
            answered.await.unwrap_or_else(|_| panic!("{path} is not answered"))
        })
    }
}

fn framed(messages: &[Vec<u8>]) -> Vec<u8> {
    let mut body = Vec::new();
    for message in messages {
        body.push(0);
        body.extend((message.len() as u32).to_be_bytes());
        body.extend(message);
    }
    body
}

/// A call of which one message, or the frames around them, are changed.
fn changed() -> impl Strategy<Value = (&'static str, Shown)> {
    let change = |(path, mut messages): Call, at: usize, changes: Vec<Mutation>, frames: bool| {
        if frames {
            let mut body = framed(&messages);
            changes.iter().for_each(|change| change.apply(&mut body));
            return (path, Shown(body));
        }
        let at = at % messages.len();
        changes.iter().for_each(|change| change.apply(&mut messages[at]));
        (path, Shown(framed(&messages)))
    };
    let valid = (select(calls()), any::<usize>(), mutations(3), prop::bool::weighted(0.1))
        .prop_map(move |(call, at, changes, frames)| change(call, at, changes, frames));
    let any_message = (select(calls()), bytes(60))
        .prop_map(|((path, _), message)| (path, Shown(framed(&[message.0]))));
    prop_oneof![8 => valid, 1 => any_message]
}

#[test]
fn every_method_answers_any_call_and_the_node_goes_on() {
    static PANICS: AtomicUsize = AtomicUsize::new(0);
    let before = Arc::new(panic::take_hook());
    let told = Arc::clone(&before);
    panic::set_hook(Box::new(move |info| {
        PANICS.fetch_add(1, Ordering::Relaxed);
        told(info);
    }));
    let node = Node::start();
    let mut done = Vec::new();
    for (path, messages) in calls() {
        let (code, message) = node.call(path, framed(&messages));
        assert_ne!(code, Code::Unimplemented, "{path} is not there: {message}");
        done.extend((code == Code::Ok).then_some(path));
    }
    // The others are refused by what they meet, such as a session of a later life.
    assert!(done.len() * 2 > calls().len(), "only {done:?} are carried out as they are");
    check(2 * CASES, changed(), |(path, body)| {
        let (code, message) = node.call(path, body.0);
        let ours = matches!(code, Code::Internal | Code::Unknown | Code::DataLoss);
        assert!(!ours || is_of_tonic(&message), "{path} answers {code:?}: {message}");
        assert_eq!(PANICS.load(Ordering::Relaxed), 0, "a task of the node panicked");
        let state = node.server.control.local().state.clone();
        assert_eq!(lint(&state), Vec::<String>::new());
        assert!(node.server.is_ready());
    });
    // It still works.
    let status = framed(&[Vec::new()]);
    assert_eq!(node.call("/aether.v1.Cluster/Status", status).0, Code::Ok);
}

/// Whether this is what tonic says, by itself and with these codes, of bytes that
/// are no frame or no message.
fn is_of_tonic(message: &str) -> bool {
    ["failed to decode", "protocol error", "Missing request message", "Unexpected EOF"]
        .iter()
        .any(|words| message.contains(words))
}
