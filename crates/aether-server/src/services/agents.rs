//! Assignments down, observations up.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use aether_core::apply::INSTANCES_MAX;
use aether_core::ids::{NodeName, RevisionNo};
use aether_core::records::{ConfigRevisionRecord, Desired, InstanceRecord};
use aether_core::state::State;
use aether_proto::v1::agent_up::Message;
use aether_proto::v1::agents_server::Agents;
use aether_proto::{MESSAGE_BYTES_MAX, v1};
use futures::StreamExt;
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::{Request, Response, Status, Streaming};

use super::Streamed;
use super::archives::{self, Archives, Lists};
use super::streams::{self, Down, KeepAlive};
use crate::control::Control;
use crate::coordinator::agent_news;
use crate::hub::Hub;
use crate::status;

/// Messages queued towards one agent. Each holds everything, so more would
/// only be older.
const QUEUED_MAX: usize = 2;

/// Most labels of a node.
const LABELS_MAX: usize = 64;
/// Longest key or value of a label in bytes.
const LABEL_BYTES_MAX: usize = 64;

/// What the configurations in one message may count together: half of a message, the
/// rest of which is for the instances.
const CONFIGS_BYTES_MAX: u64 = (MESSAGE_BYTES_MAX / 2) as u64;

/// The `Agents` service.
#[derive(Clone)]
pub struct AgentsService {
    control: Control,
    hub: Arc<Hub>,
    lease: Duration,
    lists: Arc<Lists>,
}

impl AgentsService {
    /// Over the node's parts; `lease` is what agents are told.
    pub fn new(control: Control, hub: Arc<Hub>, lease: Duration) -> Self {
        Self { control, hub, lease, lists: Arc::default() }
    }

    /// Sends the node's desired set, and up to which report the state holds what
    /// was said; again whenever one of both changes.
    async fn push(
        self,
        node: NodeName,
        hello: v1::AgentHello,
        mut reports: watch::Receiver<Reported>,
        to: Down<v1::AgentDown>,
    ) -> Result<(), Status> {
        let mut states = self.control.watch();
        let takes_configs = hello.takes_configs;
        let mut last: Option<(Vec<v1::Assignment>, u64)> = None;
        let mut taken = 0;
        let mut archives = Archives::default();
        let mut list_at = Instant::now();
        let mut alive = KeepAlive::new(Arc::clone(&self.hub), self.lease);
        loop {
            let state = states.borrow_and_update().state.clone();
            let message = (assignments(&state, &node, takes_configs), {
                let reported = reports.borrow_and_update();
                if reported.asked > taken && reported.is_held_by(&state, &hello) {
                    taken = reported.asked;
                }
                taken
            });
            if list_at <= Instant::now() {
                list_at = Instant::now() + archives::LIST_EVERY;
                let listed = self.lists.known(&state).list(&reports.borrow().report.holds_sha256);
                if listed != archives {
                    archives = listed;
                    last = None;
                }
            }
            if last.as_ref() != Some(&message) {
                last = Some(message.clone());
                let directive = self.directive(&state, message, &archives);
                if to.send(Ok(directive)).await.is_err() {
                    return Ok(());
                }
            }
            tokio::select! {
                changed = states.changed() => if changed.is_err() { return Ok(()) },
                // The other end is gone with its stream, as is this one then.
                Ok(()) = reports.changed() => {}
                () = to.closed() => return Ok(()),
                due = alive.due() => {
                    due?;
                    last = None;
                }
            }
        }
    }

    fn directive(
        &self,
        state: &State,
        (assignments, taken): (Vec<v1::Assignment>, u64),
        archives: &Archives,
    ) -> v1::AgentDown {
        let configs = configs(state, &assignments);
        v1::AgentDown {
            incarnation: state.meta.incarnation,
            term: 0,
            index: state.meta.index,
            lease_ms: self.lease.as_millis() as u64,
            assignments,
            taken,
            needed_sha256: archives.needed.clone(),
            unnamed_sha256: archives.unnamed.clone(),
            lists_archives: archives.listed,
            configs: configs.into_values().map(|config| wire(&config)).collect(),
        }
    }

    async fn listen(
        self,
        node: String,
        connection: u64,
        mut from: Streaming<v1::AgentUp>,
        reports: watch::Sender<Reported>,
    ) {
        while let Some(Ok(up)) = from.next().await {
            if let Some(Message::Report(report)) = up.message {
                reports.send_modify(|last| last.replace(report.clone()));
                if !self.hub.agent_report(&node, connection, report) {
                    return;
                }
            }
        }
        self.hub.agent_lost(&node, connection);
    }
}

/// What an agent reported last on one stream.
#[derive(Default)]
struct Reported {
    report: v1::AgentReport,
    /// The last receipt that it asked for. A report after that one says at
    /// least as much.
    asked: u64,
}

impl Reported {
    fn replace(&mut self, report: v1::AgentReport) {
        self.asked = self.asked.max(report.receipt);
        self.report = report;
    }

    /// Whether the state knows all of it.
    fn is_held_by(&self, state: &State, hello: &v1::AgentHello) -> bool {
        agent_news(hello, &self.report, state).is_empty()
    }
}

/// Labels are replicated: as many, and as long, as a node's own configuration
/// may have.
fn check_labels(hello: &v1::AgentHello) -> Result<(), Status> {
    let fits = |text: &String| text.len() <= LABEL_BYTES_MAX && !text.chars().any(char::is_control);
    let all_fit = hello.labels.iter().all(|(key, value)| fits(key) && fits(value));
    if hello.labels.len() > LABELS_MAX || !all_fit {
        let most = format!("at most {LABELS_MAX} of at most {LABEL_BYTES_MAX} printable bytes");
        return Err(status::invalid("labels", format!("must be {most}")));
    }
    Ok(())
}

/// Everything that a node should run, ordered by instance. An instance whose
/// configuration the agent would not lay, or that no longer fits into a message, is
/// told without a manifest: so it is not started, and says why.
fn assignments(state: &State, node: &NodeName, takes_configs: bool) -> Vec<v1::Assignment> {
    let mut assignments: Vec<v1::Assignment> =
        state.instances_on(node).filter_map(|instance| assignment(state, instance)).collect();
    let mut bytes = 0;
    let mut named = BTreeSet::new();
    for assignment in assignments.iter_mut().filter(|a| !a.config_sha256.is_empty()) {
        let Some(config) = config_named(state, assignment) else { continue };
        if !takes_configs {
            withhold(assignment, "this node's agent is older than configurations of slices");
            continue;
        }
        if !named.contains(&assignment.config_sha256) {
            let weight = config.content.weight();
            if bytes + weight > CONFIGS_BYTES_MAX {
                let most = CONFIGS_BYTES_MAX;
                let problem = format!("the configurations of this node exceed {most} bytes");
                withhold(assignment, &problem);
                continue;
            }
            bytes += weight;
            named.insert(assignment.config_sha256.clone());
        }
    }
    assignments
}

/// Leaves out what an instance needs to start. An agent of any release says of it
/// that the field of this name is none of a manifest.
fn withhold(assignment: &mut v1::Assignment, why: &str) {
    assignment.manifest_json = serde_json::json!({ why: true }).to_string();
    assignment.config_sha256.clear();
}

/// The configuration of an assignment's revision.
fn config_named<'a>(
    state: &'a State,
    assignment: &v1::Assignment,
) -> Option<&'a Arc<ConfigRevisionRecord>> {
    let slice = assignment.slice.parse().ok()?;
    let revision = state.revisions.get(&(slice, RevisionNo(assignment.revision)))?;
    state.config_of(revision)
}

/// What assignments name, by digest.
fn configs(
    state: &State,
    assignments: &[v1::Assignment],
) -> BTreeMap<String, Arc<ConfigRevisionRecord>> {
    let named = assignments.iter().filter(|assignment| !assignment.config_sha256.is_empty());
    let named = named.filter_map(|assignment| config_named(state, assignment));
    named.map(|config| (config.digest.clone(), Arc::clone(config))).collect()
}

fn wire(record: &ConfigRevisionRecord) -> v1::InstanceConfig {
    let files = record.content.files.iter();
    v1::InstanceConfig {
        sha256: record.digest.clone(),
        files: files.map(|(path, text)| (path.clone(), text.to_string())).collect(),
        env: record.content.env.clone(),
    }
}

fn assignment(state: &State, instance: &InstanceRecord) -> Option<v1::Assignment> {
    let revision = state.revisions.get(&(instance.slice.clone(), instance.revision))?;
    let artifact = instance.slice.base().at(revision.version.clone());
    let known = state.artifacts.get(&artifact);
    let holders = known.iter().flat_map(|known| &known.held_by);
    Some(v1::Assignment {
        instance_id: instance.id.to_string(),
        slice: instance.slice.to_string(),
        revision: instance.revision.0,
        artifact: artifact.to_string(),
        sha256: revision.digest.clone(),
        size_bytes: known.map_or(0, |known| known.size_bytes),
        manifest_json: serde_json::to_string(&*revision.manifest).ok()?,
        desired: match instance.desired {
            Desired::Run => "RUN",
            Desired::Drain => "DRAIN",
            Desired::Stop => "STOP",
        }
        .to_owned(),
        holders: holders
            .filter_map(|holder| state.nodes.get(holder))
            .map(|holder| holder.address.to_string())
            .collect(),
        config_sha256: state.config_of(revision).map_or_else(String::new, |c| c.digest.clone()),
        reload: instance.reload.as_ref().map_or(0, |reload| reload.at),
    })
}

#[tonic::async_trait]
impl Agents for AgentsService {
    type AttachStream = Streamed<v1::AgentDown>;

    async fn attach(
        &self,
        request: Request<Streaming<v1::AgentUp>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let mut from = request.into_inner();
        let Some(v1::AgentUp { message: Some(Message::Hello(hello)) }) =
            streams::first(&mut from).await?
        else {
            return Err(streams::no_hello());
        };
        streams::check_protocol(hello.protocol)?;
        let node: NodeName = status::parsed("node", &hello.node)?;
        let address = hello.address.parse::<std::net::SocketAddr>();
        address.map_err(|e| status::invalid("address", e))?;
        if hello.instances_max > INSTANCES_MAX {
            let problem = format!("{} is more than {INSTANCES_MAX}", hello.instances_max);
            return Err(status::invalid("instances_max", problem));
        }
        check_labels(&hello)?;
        let connection = self.hub.agent_hello(hello.clone()).ok_or_else(streams::overtaken)?;
        let (reports, reported) = watch::channel(Reported::default());
        tokio::spawn(self.clone().listen(node.to_string(), connection, from, reports));
        Ok(streams::answer(QUEUED_MAX, |to| self.clone().push(node, hello, reported, to)))
    }
}

#[cfg(test)]
mod tests {
    use aether_core::command::Command;
    use aether_core::manifest::Manifest;

    use super::*;
    use crate::testing::apply;

    /// Slices of these names, each with one instance and a configuration of about so
    /// many bytes, equal for all.
    fn world(names: &[String], bytes: usize) -> State {
        let mut state = State::default();
        apply(&mut state, Command::RaiseFeatureLevel { to: aether_core::level::FEATURE_LEVEL_MAX });
        apply(
            &mut state,
            Command::RegisterNode {
                node: "n1".parse().unwrap(),
                address: "127.0.0.1:1".parse().unwrap(),
                labels: BTreeMap::new(),
                instances_max: 1_000,
            },
        );
        let text = "artifact = 'org.example:a:1.0.0'\n[run]\ncommand = ['./a']\n";
        apply(
            &mut state,
            Command::RegisterArtifact {
                artifact: "org.example:a:1.0.0".parse().unwrap(),
                digest: "0".repeat(64),
                size_bytes: 1,
                manifest: Manifest::parse(text).unwrap().into(),
                holder: "n1".parse().unwrap(),
                others: BTreeSet::new(),
            },
        );
        for (k, name) in names.iter().enumerate() {
            let slice: aether_core::coordinates::SliceName = name.parse().unwrap();
            let files = (0..bytes.div_ceil(60_000)).map(|part| {
                let text = format!("{k}{}", "x".repeat(bytes.min(60_000)));
                (format!("f{part}"), text.into())
            });
            let (files, env, if_latest) = (files.collect(), BTreeMap::new(), None);
            let push = Command::PushConfig { slice: slice.clone(), files, env, if_latest };
            apply(&mut state, push);
            let version = "1.0.0".parse().unwrap();
            apply(&mut state, Command::Deploy { slice: slice.clone(), version, instances: 1 });
            let key = (slice.clone(), RevisionNo(1));
            let target_modified = state.targets[&key].modified;
            let placements = vec!["n1".parse().unwrap()];
            let revision = RevisionNo(1);
            apply(&mut state, Command::Assign { slice, revision, placements, target_modified });
        }
        state
    }

    #[test]
    fn a_configuration_is_sent_once_with_those_that_name_it() {
        let names: Vec<String> = (0..2).map(|k| format!("org.example:a@e{k}")).collect();
        let state = world(&names, 100);
        let told = assignments(&state, &"n1".parse().unwrap(), true);
        let sent = configs(&state, &told);
        assert_eq!((told.len(), sent.len()), (2, 2));
        for assignment in &told {
            let record = &sent[&assignment.config_sha256];
            assert_eq!(wire(record).files.len(), 1);
            assert!(serde_json::from_str::<Manifest>(&assignment.manifest_json).is_ok());
        }
    }

    #[test]
    fn an_agent_that_lays_no_configurations_starts_nothing_that_needs_one() {
        let state = world(&["org.example:a".to_owned()], 100);
        let told = assignments(&state, &"n1".parse().unwrap(), false);
        assert_eq!(told[0].desired, "RUN", "it can still be told to stop");
        let read = serde_json::from_str::<Manifest>(&told[0].manifest_json).unwrap_err();
        assert!(read.to_string().contains("older than configurations"), "{read}");
        assert!(configs(&state, &told).is_empty());
    }

    #[test]
    fn what_no_longer_fits_is_withheld_and_the_rest_is_told() {
        let names: Vec<String> = (0..40).map(|k| format!("org.example:a@e{k}")).collect();
        let state = world(&names, 240_000);
        let told = assignments(&state, &"n1".parse().unwrap(), true);
        let fits = told.iter().filter(|a| !a.config_sha256.is_empty()).count();
        assert_eq!((told.len(), fits), (40, 34), "8 MiB in parts of 240 kB");
        let withheld = told.iter().find(|a| a.config_sha256.is_empty()).unwrap();
        let read = serde_json::from_str::<Manifest>(&withheld.manifest_json).unwrap_err();
        assert!(read.to_string().contains("exceed 8388608 bytes"), "{read}");
    }
}
