//! `Slices.Logs`: whose lines a request means, and getting them from the nodes
//! that have them.
//!
//! Instances that exist are known from the state. Of one that is gone only the
//! nodes know: an instance that the state does not know, and a version, are
//! asked for at every node. Whoever does not answer in time is named, and holds
//! up nobody's lines.

mod relay;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use aether_core::coordinates::{SliceName, SliceReference, Version};
use aether_core::duration::Millis;
use aether_core::ids::{InstanceId, NodeName};
use aether_core::records::{InstanceRecord, NodeRecord};
use aether_core::state::State;
use aether_proto::v1;
use futures::future::join_all;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tonic::Status;

use self::relay::{Begin, Relay};
use crate::control::Control;
use crate::deadline::Deadline;
use crate::status;

/// Log lines shown per instance and stream unless asked otherwise.
const TAIL: u32 = 100;
/// Most log lines per instance and stream that can be asked for at once.
const TAIL_MAX: u32 = 10_000;
/// Lines queued towards one reader.
const QUEUED_MAX: usize = 256;
/// How long a node may take to say whose logs it has: a look into some hundred
/// small files.
const FIND_MAX: Duration = Duration::from_secs(2);
/// Most instances of a version that are gone and shown, the last ones.
const GONE_MAX: usize = 16;

/// What a client gets.
type Lines = mpsc::Sender<Result<v1::LogLine, Status>>;

/// A note for the person who reads.
fn note(node: &str, text: String) -> v1::LogLine {
    v1::LogLine {
        node: node.to_owned(),
        stream: "aether".to_owned(),
        line: text,
        ..Default::default()
    }
}

/// Whose lines are meant.
#[derive(Debug, Clone)]
enum Target {
    Instance(InstanceId),
    Slice(SliceName),
    Version(SliceName, Version),
}

impl Target {
    fn parse(text: &str) -> Result<Self, Status> {
        if !text.contains(':') {
            let id = status::parsed("target", text)?;
            return Ok(Self::Instance(id));
        }
        let reference: SliceReference = status::parsed("target", text)?;
        Ok(match reference.version {
            None => Self::Slice(reference.slice),
            Some(version) => Self::Version(reference.slice, version),
        })
    }

    /// What is meant of what exists.
    fn present<'a>(&'a self, state: &'a State) -> Vec<&'a InstanceRecord> {
        let all = |slice| state.instances_of(slice).map(|record| &**record);
        match self {
            Self::Instance(id) => state.instances.get(id).map(|r| &**r).into_iter().collect(),
            Self::Slice(slice) => all(slice).collect(),
            Self::Version(slice, version) => {
                let is_of = |record: &&InstanceRecord| {
                    let revision = state.revisions.get(&(slice.clone(), record.revision));
                    revision.is_some_and(|revision| revision.version == *version)
                };
                all(slice).filter(is_of).collect()
            }
        }
    }

    /// Whether more instances of it may come.
    fn may_grow(&self, state: &State) -> bool {
        match self {
            Self::Instance(_) => false,
            Self::Slice(slice) | Self::Version(slice, _) => state.slices.contains_key(slice),
        }
    }

    /// What nodes are asked for; nothing where the state tells all.
    fn question(&self) -> Option<v1::FindLogsRequest> {
        match self {
            Self::Instance(id) => {
                Some(v1::FindLogsRequest { instance_id: id.to_string(), ..Default::default() })
            }
            Self::Slice(_) => None,
            Self::Version(slice, version) => Some(v1::FindLogsRequest {
                slice: slice.to_string(),
                version: version.to_string(),
                ..Default::default()
            }),
        }
    }

    /// Why there is nothing to show of this target, written as `text`.
    fn nothing(&self, state: &State, text: &str) -> Status {
        let (slice, problem) = match self {
            Self::Instance(id) => {
                return status::no_such(
                    "instance",
                    id.as_str(),
                    format!(
                        "instance {id} does not exist, and no node keeps its logs; 'aether \
                         slices' lists those that exist"
                    ),
                );
            }
            Self::Slice(slice) => (
                slice,
                format!("{text} has no instances; name a version to see logs of removed ones"),
            ),
            Self::Version(slice, _) => (
                slice,
                format!(
                    "{text} has no instances, and no node keeps logs of removed ones; 'aether \
                     slices' lists those that exist"
                ),
            ),
        };
        match state.slices.contains_key(slice) {
            true => status::not_found("no_instances", problem),
            false => super::slices::unknown(slice),
        }
    }
}

/// Logs of an instance that is gone.
#[derive(Debug, Clone)]
struct Gone {
    id: InstanceId,
    node: NodeName,
    version: String,
    gone_ms: Option<u64>,
}

impl Gone {
    fn note(&self) -> v1::LogLine {
        let version = match self.version.as_str() {
            "" => String::new(),
            version => format!(" ({version})"),
        };
        let since = match self.gone_ms {
            Some(ms) if ms >= 1_000 => format!("been gone for {}", Millis(ms - ms % 1_000)),
            _ => "just gone".to_owned(),
        };
        let text = format!(
            "instance {}{version} has {since}; node {} keeps its last lines",
            self.id, self.node
        );
        note(self.node.as_str(), text)
    }
}

/// What the nodes said.
#[derive(Debug, Default)]
struct Answers {
    /// The last ones first.
    gone: Vec<Gone>,
    /// Who did not answer, and why.
    silent: Vec<(NodeName, String)>,
}

impl Answers {
    fn silent_notes(&self) -> impl Iterator<Item = v1::LogLine> {
        self.silent.iter().map(|(node, problem)| {
            let text = format!(
                "node {node} does not answer ({problem}); logs of removed instances that it \
                 keeps are not shown"
            );
            note(node.as_str(), text)
        })
    }
}

async fn ask(
    node: &NodeRecord,
    question: v1::FindLogsRequest,
) -> Result<Vec<v1::FoundLogs>, String> {
    let mut client = relay::client(node.address)?;
    match client.find(question).await {
        Ok(answer) => Ok(answer.into_inner().found),
        Err(status) => Err(relay::problem(&status)),
    }
}

/// Asks all nodes at once for logs of instances that the state does not know.
async fn ask_all(state: &State, question: &v1::FindLogsRequest, deadline: Deadline) -> Answers {
    let patience = deadline.within(FIND_MAX);
    let answers = join_all(state.nodes.values().map(|node| async move {
        let answer = timeout(patience, ask(node, question.clone())).await;
        let late = |_| Err(format!("not within {}", Millis(patience.as_millis() as u64)));
        (node.name.clone(), answer.unwrap_or_else(late))
    }));
    let mut all = Answers::default();
    for (node, answer) in answers.await {
        match answer {
            Ok(found) => all.gone.extend(found.into_iter().filter_map(|found| {
                let id: InstanceId = found.instance_id.parse().ok()?;
                let (version, gone_ms) = (found.version, found.gone_ms);
                let is_gone = !state.instances.contains_key(&id);
                is_gone.then(|| Gone { id, node: node.clone(), version, gone_ms })
            })),
            Err(problem) => all.silent.push((node, problem)),
        }
    }
    all.gone.sort_by_key(|gone| gone.gone_ms);
    all
}

/// Answers a request with the lines of everyone that it means.
///
/// # Errors
/// When the request makes no sense, when there are no such logs, or when there
/// are none at the nodes that answered and others did not.
pub async fn logs(
    control: Control,
    deadline: Deadline,
    request: v1::LogsRequest,
) -> Result<mpsc::Receiver<Result<v1::LogLine, Status>>, Status> {
    let tail = request.tail.unwrap_or(TAIL);
    if tail > TAIL_MAX {
        return Err(status::invalid("tail", format!("{tail} is more than {TAIL_MAX}")));
    }
    let target = Target::parse(&request.target)?;
    let read = control.read(false, deadline).await;
    let state = &read.published.state;
    let (to, lines) = mpsc::channel(QUEUED_MAX);
    let relays = Relays {
        control,
        target,
        follow: request.follow,
        tail,
        to,
        tasks: JoinSet::new(),
        known: BTreeSet::new(),
        started: 0,
        failures: Vec::new(),
    };
    if !relays.target.present(state).is_empty() {
        let published = Arc::clone(&read.published);
        tokio::spawn(async move { relays.of_present(&published.state, deadline).await });
        return Ok(lines);
    }
    let answers = match relays.target.question() {
        Some(question) => ask_all(state, &question, deadline).await,
        None => Answers::default(),
    };
    if answers.gone.is_empty() {
        if answers.silent.is_empty() {
            return Err(relays.target.nothing(state, &request.target));
        }
        let silent: Vec<String> =
            answers.silent.iter().map(|(node, problem)| format!("{node}: {problem}")).collect();
        return Err(status::unavailable(format!(
            "{} has no instances, and not all nodes that may keep logs of removed ones answer: {}",
            request.target,
            silent.join("; ")
        )));
    }
    tokio::spawn(async move { relays.of_gone(answers).await });
    Ok(lines)
}

/// Gets the lines of one request.
struct Relays {
    control: Control,
    target: Target,
    follow: bool,
    tail: u32,
    to: Lines,
    tasks: JoinSet<Result<(), String>>,
    /// Whose lines are or were got, as far as they can come up again.
    known: BTreeSet<InstanceId>,
    started: usize,
    failures: Vec<String>,
}

/// The client has gone.
struct Unread;

impl Relays {
    /// Shows what exists. Of a version, what is gone is mentioned.
    async fn of_present(mut self, state: &State, deadline: Deadline) {
        self.start_new(state, Begin::Tail(self.tail));
        let _ = async {
            if let (Target::Version(..), Some(question)) = (&self.target, self.target.question()) {
                let answers = ask_all(state, &question, deadline).await;
                for note in answers.silent_notes() {
                    self.say(note).await?;
                }
                self.mention(&answers.gone, "removed").await?;
            }
            self.run().await
        }
        .await;
    }

    /// Shows what is gone.
    async fn of_gone(mut self, answers: Answers) {
        let (shown, older) = answers.gone.split_at(answers.gone.len().min(GONE_MAX));
        let _ = async {
            for note in answers.silent_notes() {
                self.say(note).await?;
            }
            self.mention(older, "removed earlier").await?;
            let mut nodes: BTreeMap<NodeName, Vec<InstanceId>> = BTreeMap::new();
            for gone in shown.iter().rev() {
                self.say(gone.note()).await?;
                nodes.entry(gone.node.clone()).or_default().push(gone.id.clone());
            }
            for (node, ids) in nodes {
                self.start(node, ids, Begin::Tail(self.tail));
            }
            self.run().await
        }
        .await;
    }

    async fn say(&self, line: v1::LogLine) -> Result<(), Unread> {
        self.to.send(Ok(line)).await.map_err(|_| Unread)
    }

    /// Says of whom there are logs that are not shown.
    async fn mention(&self, gone: &[Gone], what: &str) -> Result<(), Unread> {
        if gone.is_empty() {
            return Ok(());
        }
        let ids: Vec<&str> = gone.iter().take(GONE_MAX).map(|gone| gone.id.as_str()).collect();
        let more = if gone.len() > GONE_MAX { ", …" } else { "" };
        let text = format!(
            "there are logs of {} {what} instances too; 'aether logs ID' shows them: {}{more}",
            gone.len(),
            ids.join(", ")
        );
        self.say(note("", text)).await
    }

    fn start(&mut self, node: NodeName, ids: Vec<InstanceId>, begin: Begin) {
        let (control, to) = (self.control.clone(), self.to.clone());
        let relay = Relay::new(control, node, ids, self.follow, begin, to);
        self.started += 1;
        self.tasks.spawn(relay.run());
    }

    /// Starts to read what exists and was not seen before.
    fn start_new(&mut self, state: &State, begin: Begin) {
        // An id that has gone does not come back.
        self.known.retain(|id| state.instances.contains_key(id));
        let mut nodes: BTreeMap<NodeName, Vec<InstanceId>> = BTreeMap::new();
        for record in self.target.present(state) {
            if self.known.insert(record.id.clone()) {
                nodes.entry(record.node.clone()).or_default().push(record.id.clone());
            }
        }
        for (node, ids) in nodes {
            self.start(node, ids, begin);
        }
    }

    /// Until everyone's last line was sent.
    async fn run(mut self) -> Result<(), Unread> {
        let mut states = self.control.watch();
        loop {
            let mut may_grow = false;
            if self.follow {
                let published = Arc::clone(&states.borrow_and_update());
                self.start_new(&published.state, Begin::First);
                may_grow = self.target.may_grow(&published.state);
            }
            if self.tasks.is_empty() && !may_grow {
                return self.end().await;
            }
            tokio::select! {
                Some(ended) = self.tasks.join_next() => match ended {
                    Ok(Err(problem)) if self.follow => self.say(note("", problem)).await?,
                    Ok(Err(problem)) => self.failures.push(problem),
                    Ok(Ok(())) => {}
                    Err(panicked) => self.failures.push(panicked.to_string()),
                },
                changed = states.changed(), if self.follow => if changed.is_err() {
                    return self.end().await; // The node ends.
                },
                () = self.to.closed() => return Err(Unread),
            }
        }
    }

    /// Says what could not be read. Nothing at all is a failure of the request.
    async fn end(mut self) -> Result<(), Unread> {
        let failures = std::mem::take(&mut self.failures);
        if failures.len() == self.started && self.started > 0 {
            let failed = status::unavailable(failures.join("; "));
            return self.to.send(Err(failed)).await.map_err(|_| Unread);
        }
        for problem in failures {
            self.say(note("", problem)).await?;
        }
        Ok(())
    }
}
