//! Asks for what must be refused, in every way there is, and looks whether it
//! left a trace.

use std::net::SocketAddr;

use aether_core::state::row_hash;
use aether_proto::errors;
use aether_proto::v1;
use aether_proto::v1::cluster_client::ClusterClient;
use aether_proto::v1::slices_client::SlicesClient;
use aether_tests::{PATIENCE, Stage, rest};
use serde_json::{Value, json};
use tokio::time::Instant;
use tonic::{Code, Status};

/// Which family a refusal belongs to.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// The request makes no sense.
    Invalid,
    /// What it names does not exist.
    NotFound,
    /// The present state does not allow it.
    State,
    /// The record is not what the request expects.
    Precondition,
}

impl Kind {
    fn exit(self) -> i32 {
        match self {
            Self::Invalid => 2,
            Self::NotFound => 4,
            Self::State | Self::Precondition => 5,
        }
    }

    fn http(self) -> u16 {
        match self {
            Self::Invalid => 400,
            Self::NotFound => 404,
            Self::State => 409,
            Self::Precondition => 412,
        }
    }

    fn grpc(self) -> Code {
        match self {
            Self::Invalid => Code::InvalidArgument,
            Self::NotFound => Code::NotFound,
            Self::State => Code::FailedPrecondition,
            Self::Precondition => Code::Aborted,
        }
    }
}

/// One way to ask.
pub enum Ask {
    /// A verb of the command line.
    Cli(String),
    /// GET of a path.
    Get(String),
    /// POST of a body to a path, with more headers.
    Post(String, Value, Vec<(&'static str, String)>),
    /// `Slices.Deploy`, by gRPC and by REST.
    Deploy(&'static str, u32),
    /// `Slices.Scale`, likewise.
    Scale(&'static str, u32),
    /// `Slices.Undeploy`, likewise.
    Undeploy(&'static str),
}

/// A verb.
pub fn cli(words: impl Into<String>) -> Ask {
    Ask::Cli(words.into())
}

/// A GET.
pub fn get(path: impl Into<String>) -> Ask {
    Ask::Get(path.into())
}

/// A POST.
pub fn post(path: impl Into<String>, body: Value) -> Ask {
    Ask::Post(path.into(), body, Vec::new())
}

/// What a row of a table says: the family, the machine-readable code, a
/// distinctive part of the message, and the ways to ask.
pub type Row = (Kind, &'static str, &'static str, Vec<Ask>);

/// A cluster of one node that is asked.
pub struct Desk {
    /// The cluster.
    pub stage: Stage,
}

impl Desk {
    /// Where REST is spoken.
    pub fn http(&self) -> SocketAddr {
        self.stage.cluster.nodes[0].addresses.http
    }

    /// Asks everything in a table; each row must be refused as it says and
    /// change nothing. `when` says in which state that is, for the message.
    pub async fn refuses(&self, when: &str, rows: Vec<Row>) {
        let mut wrong = Vec::new();
        for (kind, code, says, asks) in rows {
            for ask in asks {
                // What agents report of their instances goes on meanwhile. A
                // refusal that left a trace would do so each time.
                let mut traces = 0;
                while traces < 3 {
                    let before = self.rows().await;
                    let (asked, problem) = self.ask(&ask, kind, code, says).await;
                    let problem = problem.map(|problem| format!("{when}: {asked}: {problem}"));
                    wrong.extend(problem.filter(|_| traces == 0));
                    if self.rows().await == before {
                        break;
                    }
                    traces += 1;
                    println!("{when}: {asked}: rows changed meanwhile, asking again");
                    if traces == 3 {
                        wrong.push(format!("{when}: {asked}: the state changed"));
                    }
                }
            }
        }
        assert!(wrong.is_empty(), "{} are wrong:\n{}", wrong.len(), wrong.join("\n"));
    }

    /// Likewise while the coordinator moves an update on, so that the rows do
    /// not rest: each row must be refused as it says.
    pub async fn refuses_amid_change(&self, when: &str, rows: Vec<Row>) {
        let mut wrong = Vec::new();
        for (kind, code, says, asks) in rows {
            for ask in asks {
                let (asked, problem) = self.ask(&ask, kind, code, says).await;
                wrong.extend(problem.map(|problem| format!("{when}: {asked}: {problem}")));
            }
        }
        assert!(wrong.is_empty(), "{} are wrong:\n{}", wrong.len(), wrong.join("\n"));
    }

    /// Does something that must leave no trace, again if agents reported of
    /// their instances meanwhile: what leaves one does so each time.
    pub async fn unchanged_by(&self, what: &str, act: impl AsyncFn()) {
        for _ in 0..3 {
            let before = self.rows().await;
            act().await;
            if self.rows().await == before {
                return;
            }
            println!("{what}: rows changed meanwhile, again");
        }
        panic!("{what}: the state changed");
    }

    /// Every node runs, and none has panicked.
    pub fn assert_well(&self) {
        for node in &self.stage.cluster.nodes {
            let log = std::fs::read_to_string(node.log()).expect("a node has a log");
            assert!(!log.contains("panicked"), "{}: {log}", node.name);
            assert!(node.is_alive(), "{} ended: {log}", node.name);
        }
    }

    /// The hash over all rows but `meta/cluster`, which holds the log position
    /// and so moves with every entry.
    pub async fn rows(&self) -> u128 {
        let mut client = ClusterClient::new(self.stage.cluster.channel(0));
        let deadline = Instant::now() + PATIENCE;
        loop {
            let key = "meta/cluster".to_owned();
            let meta =
                client.kv_get(v1::KvGetRequest { key, stale: false }).await.unwrap().into_inner();
            let status = client.status(v1::StatusRequest::default()).await.unwrap().into_inner();
            let position: Value = serde_json::from_str(&meta.value_json).unwrap();
            if position["index"] == status.applied {
                let all = u128::from_str_radix(&status.state_hash, 16).unwrap();
                return all.wrapping_sub(row_hash("meta/cluster", meta.value_json.as_bytes()));
            }
            assert!(Instant::now() < deadline, "the log never rests: {position}");
        }
    }

    /// Asks in one way; what was asked, and what is wrong about the answer.
    async fn ask(&self, ask: &Ask, kind: Kind, code: &str, says: &str) -> (String, Option<String>) {
        let judge = |ok: bool, said: &str| {
            (!ok || !said.contains(says))
                .then(|| format!("expected {kind:?} {code} with '{says}', got: {said}"))
        };
        match ask {
            Ask::Cli(words) => {
                let split: Vec<&str> = words.split_whitespace().collect();
                let said = self.stage.cluster.cli(&split).await.unwrap();
                let clean = said.stdout.is_empty() && !said.stderr.contains("panicked");
                let ok = said.code == Some(kind.exit()) && clean;
                let all = format!("{:?} {}{}", said.code, said.stdout, said.stderr);
                (format!("aether {words}"), judge(ok, &all))
            }
            Ask::Get(path) => {
                let answer = rest::get(self.http(), path).await.unwrap();
                (format!("GET {path}"), judge_rest(&answer, kind, code, judge))
            }
            Ask::Post(path, body, headers) => {
                let mut all = vec![("content-type", "application/json")];
                all.extend(headers.iter().map(|(name, value)| (*name, value.as_str())));
                let sent = rest::send(self.http(), "POST", path, &all, body.to_string());
                let asked = format!("POST {path} {body}");
                (asked, judge_rest(&sent.await.unwrap(), kind, code, judge))
            }
            Ask::Deploy(artifact, instances) => {
                let message = v1::DeployRequest {
                    artifact: (*artifact).to_owned(),
                    instances: Some(*instances),
                    ..Default::default()
                };
                let status = self.slices().deploy(message).await.err();
                let body = json!({"artifact": artifact, "instances": instances}).to_string();
                let answer = rest::post(self.http(), "/api/slices", body).await.unwrap();
                let asked = format!("Deploy {artifact} {instances}");
                (asked, judge_both(status, &answer, kind, code, judge))
            }
            Ask::Scale(slice, instances) => {
                let (slice, instances) = ((*slice).to_owned(), *instances);
                let asked = format!("Scale {slice} {instances}");
                let path = format!("/api/slices/{slice}/scale");
                let message = v1::ScaleRequest { slice, instances, ..Default::default() };
                let status = self.slices().scale(message).await.err();
                let body = json!({"instances": instances}).to_string();
                let answer = rest::post(self.http(), &path, body).await.unwrap();
                (asked, judge_both(status, &answer, kind, code, judge))
            }
            Ask::Undeploy(slice) => {
                let message =
                    v1::UndeployRequest { slice: (*slice).to_owned(), ..Default::default() };
                let status = self.slices().undeploy(message).await.err();
                // REST has the version beside the slice.
                let path = match slice.splitn(3, ':').collect::<Vec<_>>()[..] {
                    [group, name, version] => {
                        format!("/api/slices/{group}:{name}?version={version}")
                    }
                    _ => format!("/api/slices/{slice}"),
                };
                let answer = rest::send(self.http(), "DELETE", &path, &[], "").await.unwrap();
                let asked = format!("Undeploy {slice}");
                (asked, judge_both(status, &answer, kind, code, judge))
            }
        }
    }

    fn slices(&self) -> SlicesClient<tonic::transport::Channel> {
        SlicesClient::new(self.stage.cluster.channel(0))
    }
}

fn judge_rest(
    answer: &rest::Answer,
    kind: Kind,
    code: &str,
    judge: impl Fn(bool, &str) -> Option<String>,
) -> Option<String> {
    match answer.problem() {
        Ok((said_code, error)) => {
            let ok = answer.status == kind.http() && said_code == code;
            judge(ok, &format!("{} {said_code}: {error}", answer.status))
        }
        Err(error) => judge(false, &error.to_string()),
    }
}

/// One question, asked in two protocols.
fn judge_both(
    status: Option<Status>,
    answer: &rest::Answer,
    kind: Kind,
    code: &str,
    judge: impl Fn(bool, &str) -> Option<String>,
) -> Option<String> {
    judge_grpc(status, kind, code, &judge).or_else(|| judge_rest(answer, kind, code, &judge))
}

fn judge_grpc(
    status: Option<Status>,
    kind: Kind,
    code: &str,
    judge: impl Fn(bool, &str) -> Option<String>,
) -> Option<String> {
    match status {
        Some(status) => {
            let ok = status.code() == kind.grpc() && code_of(&status) == code;
            let said = format!("{:?} {}: {}", status.code(), code_of(&status), status.message());
            judge(ok, &said)
        }
        None => judge(false, "it was carried out"),
    }
}

/// The machine-readable code of a status.
pub fn code_of(status: &Status) -> String {
    errors::code_of(status).unwrap_or_default()
}
