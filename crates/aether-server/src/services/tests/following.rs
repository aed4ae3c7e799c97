//! Events, and records that are listed and watched.

use aether_core::audit::AuditPosition;
use aether_core::ids::NodeName;
use aether_replica::Changes;
use tonic::Status;

use super::*;
use crate::services::Streamed;
use crate::services::following::{Places, Pulse};
use crate::services::kv::Kv;
use crate::services::reading;

type Told = Result<v1::EventsResponse, Status>;

impl Node {
    async fn events(
        &self,
        request: v1::EventsRequest,
    ) -> Result<Streamed<v1::EventsResponse>, Status> {
        Ok(self.cluster.events(Request::new(request)).await?.into_inner())
    }

    async fn kv_watch(&self, prefix: &str, from_index: Option<u64>) -> Result<Watched, Status> {
        let request = v1::KvWatchRequest { prefix: prefix.to_owned(), from_index };
        Ok(Watched(self.cluster.kv_watch(Request::new(request)).await?.into_inner()))
    }

    async fn kv_list(&self, request: v1::KvListRequest) -> Result<v1::KvListResponse, Status> {
        self.cluster.kv_list(Request::new(request)).await.map(|page| page.into_inner())
    }

    /// Writes an audit record.
    async fn silent(&self, is_silent: bool) {
        let lifecycle = match is_silent {
            true => NodeLifecycle::Unreachable,
            false => NodeLifecycle::Ready,
        };
        let node: NodeName = "n1".parse().unwrap();
        self.write(Command::SetNodeLifecycle { node, lifecycle }).await;
    }
}

async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("it comes")
}

/// The next event; marks are passed over.
async fn next_event(told: &mut Streamed<v1::EventsResponse>) -> v1::Event {
    within(async {
        loop {
            let told: Told = told.next().await.expect("it goes on");
            if let Some(event) = told.unwrap().event {
                return event;
            }
        }
    })
    .await
}

/// All that exist, and the mark after them.
async fn existing(mut told: Streamed<v1::EventsResponse>) -> (Vec<v1::Event>, v1::EventsResponse) {
    let mut events = Vec::new();
    loop {
        let told = within(told.next()).await.expect("a mark comes before the end").unwrap();
        match told.event {
            Some(event) => events.push(event),
            None => return (events, told),
        }
    }
}

fn positions(events: &[v1::Event]) -> Vec<AuditPosition> {
    events.iter().map(|event| AuditPosition::new(event.index, event.n)).collect()
}

fn asked(subject: &str) -> v1::EventsRequest {
    v1::EventsRequest { subject: subject.to_owned(), ..Default::default() }
}

#[tokio::test]
async fn events_come_oldest_first_as_many_as_are_asked_for_and_after_a_position() {
    let node = Node::start().await;
    let update = node.update().await;
    for is_silent in [true, false, true, false] {
        node.silent(is_silent).await;
    }
    let (all, mark) = existing(node.events(asked("")).await.unwrap()).await;
    let kept: Vec<_> = node.state().audit.keys().copied().collect();
    assert_eq!(positions(&all), kept);
    let last = all.last().unwrap();
    let at = mark.position.unwrap();
    assert_eq!((at.index, at.n), (last.index, last.n));
    assert!(!mark.as_of.unwrap().stale);
    assert_eq!((last.kind.as_str(), last.id.as_str()), ("node", "n1"));
    assert_eq!((last.actor.as_str(), last.event.as_str()), ("test", "reports again"));

    let two = v1::EventsRequest { last: Some(2), ..asked("node") };
    let (two, _) = existing(node.events(two).await.unwrap()).await;
    assert_eq!(positions(&two), kept[kept.len() - 2..]);
    let subject = format!("update/{}", update.id);
    let (of_update, mark) = existing(node.events(asked(&subject)).await.unwrap()).await;
    assert_eq!(of_update.len(), update.history.len());
    assert!(of_update.iter().all(|event| event.id == update.id.as_str()));
    assert_eq!(mark.position.unwrap().index, last.index, "what does not fit was looked at too");
    let after = v1::EventsRequest {
        after: Some(v1::EventPosition { index: kept[1].index, n: kept[1].n }),
        ..asked("")
    };
    let (later, _) = existing(node.events(after).await.unwrap()).await;
    assert_eq!(positions(&later), kept[2..]);

    let refused = node.events(asked("colour/red")).await.err().unwrap();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let far = v1::EventPosition { index: node.state().meta.index + 1, n: 0 };
    let refused = node.events(v1::EventsRequest { after: Some(far), ..asked("") }).await;
    let refused = refused.err().unwrap();
    assert_eq!(refused.code(), Code::OutOfRange);
    assert_eq!(aether_proto::errors::code_of(&refused).unwrap(), "future_position");

    node.replica.shutdown().await;
    let (all, mark) = existing(node.events(asked("")).await.unwrap()).await;
    assert_eq!(positions(&all), kept);
    assert!(mark.as_of.unwrap().stale, "the leader could not be asked");
    let later = node.events(v1::EventsRequest { after: Some(far), ..asked("") }).await;
    assert_eq!(later.err().unwrap().code(), Code::Unavailable, "it may exist all the same");
}

#[tokio::test]
async fn a_follower_of_events_gets_each_once_and_in_order() {
    let node = Node::start().await;
    node.silent(true).await;
    let follow = v1::EventsRequest { follow: true, ..asked("node") };
    let mut told = node.events(follow.clone()).await.unwrap();
    let mut seen = vec![next_event(&mut told).await];
    for round in 0..40 {
        node.silent(round % 2 == 1).await;
    }
    while seen.len() < 41 {
        seen.push(next_event(&mut told).await);
    }
    // The first one is of the feature level.
    let kept: Vec<_> = node.state().audit.keys().skip(1).copied().collect();
    assert_eq!(positions(&seen), kept);
    let middle = v1::EventPosition { index: seen[20].index, n: seen[20].n };
    let mut rest = node.events(v1::EventsRequest { after: Some(middle), ..follow }).await.unwrap();
    for event in &seen[21..] {
        assert_eq!(next_event(&mut rest).await, *event);
    }
}

#[tokio::test]
async fn a_node_that_reaches_no_leader_says_so_and_then_ends_its_streams() {
    let node = Node::start().await;
    let short = Duration::from_millis(100);
    let mut pulse = Pulse::every(short, short, node.control.clone());
    assert!(within(pulse.beat()).await.unwrap());
    node.replica.shutdown().await;
    assert!(!within(pulse.beat()).await.unwrap(), "it may come back at once");
    assert_eq!(within(pulse.beat()).await.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn pages_of_records_have_all_of_them_once() {
    let node = Node::start().await;
    node.update().await;
    let rows = node.state().rows();
    let mut request = v1::KvListRequest { page_size: 2, ..Default::default() };
    let mut listed = Vec::new();
    loop {
        let page = node.kv_list(request.clone()).await.unwrap();
        assert!(page.entries.len() <= 2 && !page.as_of.unwrap().stale);
        let entries = page.entries.into_iter();
        listed.extend(entries.map(|entry| (entry.key, entry.value_json.into_bytes())));
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert_eq!(listed, rows);
    let token = request.page_token;
    for request in [
        v1::KvListRequest { page_token: "nonsense".to_owned(), ..Default::default() },
        v1::KvListRequest {
            prefix: "nowhere/".to_owned(),
            page_token: token,
            ..Default::default()
        },
        v1::KvListRequest { prefix: "k".repeat(513), ..Default::default() },
    ] {
        let refused = node.kv_list(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    }
    node.replica.shutdown().await;
    assert!(node.kv_list(v1::KvListRequest::default()).await.unwrap().as_of.unwrap().stale);
}

struct Watched(Streamed<v1::KvChange>);

impl Watched {
    async fn next(&mut self) -> (String, String, u64) {
        let change = within(self.0.next()).await.expect("it goes on").unwrap();
        assert_eq!(change.kind == "PUT", change.value_json.is_some());
        (change.kind, change.key, change.index)
    }
}

fn change(kind: &str, key: &str, index: u64) -> (String, String, u64) {
    (kind.to_owned(), key.to_owned(), index)
}

#[tokio::test]
async fn a_watch_begins_with_what_is_there_and_goes_on_with_every_change() {
    let node = Node::start().await;
    node.update().await;
    let begun = node.state().meta.index;
    let mut watch = node.kv_watch("nodes/", None).await.unwrap();
    assert_eq!(watch.next().await, change("PUT", "nodes/n1", begun));
    assert_eq!(watch.next().await, change("SYNCED", "", begun));
    node.silent(true).await;
    let silent = node.state().meta.index;
    assert_eq!(watch.next().await, change("PUT", "nodes/n1", silent));
    node.silent(false).await;
    let back = node.state().meta.index;
    assert_eq!(watch.next().await, change("PUT", "nodes/n1", back));

    // Gone on with elsewhere: the changes after an index, and no others.
    let mut later = node.kv_watch("nodes/", Some(silent)).await.unwrap();
    assert_eq!(later.next().await, change("PUT", "nodes/n1", back));
    assert_eq!(later.next().await, change("SYNCED", "", back));
}

/// However many entries are applied at a time.
#[tokio::test]
async fn a_watch_tells_of_each_write_under_its_own_index() {
    let node = Node::start().await;
    let begun = node.state().meta.index;
    let put = |n: usize| {
        let request = v1::KvPutRequest {
            key: format!("config/k{}", n % 3),
            value: n.to_string(),
            ..Default::default()
        };
        node.cluster.kv_put(Request::new(request))
    };
    let written = futures::future::join_all((0..200).map(put)).await;
    let mut written: Vec<(u64, String)> = written
        .into_iter()
        .enumerate()
        .map(|(n, answer)| (answer.unwrap().into_inner().index, format!("config/k{}", n % 3)))
        .collect();
    written.sort_unstable();
    let mut watch = node.kv_watch("config/", Some(begun)).await.unwrap();
    for (index, key) in written {
        assert_eq!(watch.next().await, change("PUT", &key, index));
    }
}

/// Whose records never change would otherwise fall behind what is kept.
#[tokio::test]
async fn a_watch_says_how_far_it_is_while_nothing_that_fits_changes() {
    let node = Node::start().await;
    let changes = Arc::new(Changes::default());
    changes.begin_after(node.state().meta.index);
    let kv = Kv::new(node.control.clone(), Arc::clone(&changes), Places::default());
    let pulse = Pulse::every(Duration::from_millis(20), PATIENCE, node.control.clone());
    let state = node.state();
    let begun = state.meta.index;
    let push = |to| async move { kv.push("session/", None, state, pulse, to).await };
    let mut told = reading::answer(push).into_inner();
    let synced = |told: Option<Result<v1::KvChange, Status>>| {
        let change = told.expect("it goes on").unwrap();
        assert_eq!((&*change.kind, &*change.key), ("SYNCED", ""));
        change.index
    };
    assert_eq!(synced(within(told.next()).await), begun);
    node.silent(true).await;
    let silent = node.state();
    changes.extend([], silent.meta.index);
    assert_eq!(synced(within(told.next()).await), silent.meta.index, "and not twice before");
}

#[tokio::test]
async fn a_watch_tells_of_a_row_that_goes() {
    let node = Node::start().await;
    let open = |fresh| Command::OpenSession {
        session: "s1".parse().unwrap(),
        kind: aether_core::records::SessionKind::Invoker,
        name: "caller".to_owned(),
        fresh,
        follows: 0,
    };
    node.write(open(true)).await;
    let opened = node.state().meta.index;
    let mut watch = node.kv_watch("session/", Some(opened)).await.unwrap();
    assert_eq!(watch.next().await, change("SYNCED", "", opened));
    let close = Command::CloseSession {
        session: "s1".parse().unwrap(),
        opened,
        reason: "said goodbye".to_owned(),
    };
    node.write(close).await;
    let closed = node.state().meta.index;
    assert_eq!(watch.next().await, change("DELETE", "session/s1", closed));
    let (events, _) = existing(node.events(asked("session/s1")).await.unwrap()).await;
    assert_eq!(events[0].event, "session of caller closed: said goodbye");
}

#[tokio::test]
async fn a_watch_cannot_begin_where_no_changes_are() {
    let node = Node::start().await;
    // More than is kept.
    for n in 0..140 {
        let name = format!("k{}", n % 2).parse().unwrap();
        let value = "x".repeat(64 * 1024).into();
        node.write(Command::PutConfig { name, value, if_modified: None }).await;
    }
    let now = node.state().meta.index;
    for (index, code) in [(0, "compacted"), (now + 1, "future_index")] {
        let refused = node.kv_watch("", Some(index)).await.err().unwrap();
        assert_eq!(refused.code(), Code::OutOfRange, "{index}");
        assert_eq!(aether_proto::errors::code_of(&refused).unwrap(), code);
    }
    node.replica.shutdown().await;
    let refused = node.kv_watch("", Some(now + 1)).await.err().unwrap();
    assert_eq!(refused.code(), Code::Unavailable, "it may exist all the same");
}
