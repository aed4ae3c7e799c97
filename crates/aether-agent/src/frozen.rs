//! What agents and shims of the first release keep and say to each other
//! (`tests/frozen`), and the values that it stands for. Each is written as it was
//! and read as what it was, beside the code that does so; `tests/agent/release.rs`
//! has agents and shims of today meet those of then.
//!
//! Not frozen is what nobody of another release reads: the arguments between a
//! shim and its second self (`--enter`), which are one program whatever is on the
//! disk, and its note `enter.err`; `shim.err`, which is for people; locks other than
//! of ports, which hold nothing; and what a control group is called, which a state
//! tells.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::iter::successors;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use aether_core::duration::Millis;
use aether_core::ids::Fence;
use aether_core::manifest::{
    ByteSize, Cpu, IngressRule, Liveness, Manifest, Placement, Probe, Readiness, ReloadSignal,
    Resources, Run, StopSignal,
};
use aether_core::records::{Configuration, Desired};
use aether_frozen::Frozen;
use aether_proto::v1;
use prost::Message;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::artifact::{ArtifactStore, Digest};
use crate::directive::{Assignment, Directive, Keeper, Verdict, Work};
use crate::procfs::Process;
use crate::restart::RestartPolicy;
use crate::shim::spec::{Adopted, End, Layout, Phase, ShimSpec, ShimState};
use crate::shim::{LogLimits, Restart, rotated_path};

const KEPT: &str = "Nodes of released versions have this on their disks, beside instances that run \
    on while the agent is replaced. A released file is never edited: give what is new a field with \
    a default that says what its absence meant, leave it out where it says nothing new, and freeze \
    a file that has it beside those without.";

const SAID: &str = "A shim outlives the agent that started it, so agents and shims of two releases \
    say this to each other. What a release says is never edited: give what is new a field with a \
    default, leave it out where it says nothing new, and freeze a line that has it in a file beside \
    this one. A new command has to be one that an older shim may pass over.";

const ATTACHED: &str = "Voters and agents of two releases say this to each other while a cluster is \
    upgraded node by node. Messages get fields with numbers that were never used; their words are \
    read by the other release, which may not know a new one: give what is new a field of its own, \
    and freeze a message that has it in a file beside this one.";

/// A file that is kept.
pub(crate) fn kept(name: &str) -> Frozen {
    Frozen::new(env!("CARGO_MANIFEST_DIR"), name, KEPT)
}

/// What is said on a shim's socket.
pub(crate) fn said(name: &str) -> Frozen {
    Frozen::new(env!("CARGO_MANIFEST_DIR"), name, SAID)
}

/// What agents and voters say to each other.
pub(crate) fn attached(name: &str) -> Frozen {
    Frozen::new(env!("CARGO_MANIFEST_DIR"), name, ATTACHED)
}

pub(crate) fn hex(message: &impl Message) -> String {
    message.encode_to_vec().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let byte = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
    (0..text.trim().len()).step_by(2).map(byte).collect()
}

/// Requires that the file reads as this value.
pub(crate) fn reads<T: DeserializeOwned + PartialEq + std::fmt::Debug>(file: &Frozen, as_it: &T) {
    reads_line(file, &file.bytes(), as_it);
}

/// Requires that a part of the file reads as this value.
pub(crate) fn reads_line<T: DeserializeOwned + PartialEq + std::fmt::Debug>(
    file: &Frozen,
    line: &[u8],
    as_it: &T,
) {
    match serde_json::from_slice::<T>(line) {
        Ok(read) if read == *as_it => {}
        Ok(read) => file.broken(&format!("reads as\n  {read:?}\nand not as\n  {as_it:?}")),
        Err(error) => file.broken(&format!(
            "cannot be read any more: {error}\n  {}",
            String::from_utf8_lossy(line)
        )),
    }
}

/// All of a kind, given the one after each. There is a `match` in `next`, so that
/// one more is not forgotten.
fn all<T>(first: T, next: impl Fn(&T) -> Option<T>) -> Vec<T> {
    successors(Some(first), next).collect()
}

fn stop_signals() -> Vec<StopSignal> {
    all(StopSignal::Term, |signal| match signal {
        StopSignal::Term => Some(StopSignal::Int),
        StopSignal::Int => Some(StopSignal::Quit),
        StopSignal::Quit => Some(StopSignal::Hup),
        StopSignal::Hup => Some(StopSignal::Usr1),
        StopSignal::Usr1 => Some(StopSignal::Usr2),
        StopSignal::Usr2 => None,
    })
}

fn desired() -> Vec<Desired> {
    all(Desired::Run, |desired| match desired {
        Desired::Run => Some(Desired::Drain),
        Desired::Drain => Some(Desired::Stop),
        Desired::Stop => None,
    })
}

fn phases() -> Vec<Phase> {
    all(Phase::Running, |phase| match phase {
        Phase::Running => Some(Phase::Waiting),
        Phase::Waiting => Some(Phase::Restarting),
        Phase::Restarting => Some(Phase::Stopping),
        Phase::Stopping => Some(Phase::Stopped),
        Phase::Stopped | Phase::Unknown => None, // Nobody writes the latter.
    })
}

fn ends() -> Vec<End> {
    all(End::Status(i32::MIN), |end| match end {
        End::Status(_) => Some(End::Signal("SIGSEGV".into())),
        End::Signal(_) => Some(End::OutOfMemory("64MiB".into())),
        End::OutOfMemory(_) => Some(End::NotLive("no \"answer\"".into())),
        End::NotLive(_) => Some(End::NotStarted("'é': No such file".into())),
        End::NotStarted(_) => Some(End::PortTaken("[::]:65535".parse().unwrap())),
        End::PortTaken(_) => Some(End::ShimLost),
        End::ShimLost | End::Unknown(_) => None, // Nobody writes the latter.
    })
}

/// How readiness and liveness are asked: all ways.
fn probes() -> Vec<Probe> {
    all(Probe::Http("/up".into()), |probe| match probe {
        Probe::Http(_) => Some(Probe::Grpc("a.b.C".into())),
        Probe::Grpc(_) => Some(Probe::Exec(vec!["./check".into(), "${PORT}".into()])),
        Probe::Exec(_) => Some(Probe::Tcp),
        Probe::Tcp => None,
    })
}

type Asked = (Option<String>, Option<String>, Option<Vec<String>>);

fn asked(probe: Probe) -> Asked {
    match probe {
        Probe::Http(path) => (Some(path), None, None),
        Probe::Grpc(service) => (None, Some(service), None),
        Probe::Exec(command) => (None, None, Some(command)),
        Probe::Tcp => (None, None, None),
    }
}

/// With every field set.
fn manifest(probe: Probe, stop_signal: StopSignal) -> Manifest {
    let (http, grpc, exec) = asked(probe);
    let ready = Readiness {
        http: http.clone(),
        grpc: grpc.clone(),
        exec: exec.clone(),
        interval: Millis(1),
        timeout: Millis(2_500),
        successes: u32::MAX,
        failures: 4,
    };
    let live = Liveness {
        http,
        grpc,
        exec,
        interval: Millis(5_000),
        timeout: Millis(60_001),
        failures: u32::MAX,
        start_period: Millis(3_600_000),
    };
    Manifest {
        artifact: "org.example:a:1.2.3".parse().unwrap(),
        run: Run {
            command: vec!["bin/a".into(), "${PORT}".into(), String::new()],
            env: [("A".to_owned(), "é\n".to_owned())].into(),
            config_files: vec!["etc/a.conf".into()],
            stop_signal,
            reload_signal: None,
            grace: Millis(1_500),
            drain: Millis(365 * 24 * 3_600_000),
        },
        ready,
        placement: Placement {
            require: [("disk".to_owned(), "ssd".to_owned())].into(),
            spread: Some("zone".into()),
        },
        live: Some(live),
        resources: Resources {
            memory: Some(ByteSize(64 << 40)),
            cpu: Some(Cpu { millis: 1_250 }),
            processes: Some(4_194_304),
        },
        ingress: vec![
            IngressRule { host: Some("a.example".into()), path: "/a".into() },
            IngressRule { host: None, path: "/".into() },
        ],
    }
}

/// With nothing that may be absent.
fn bare_manifest() -> Manifest {
    Manifest {
        artifact: "org.example:a:1.2.3".parse().unwrap(),
        run: Run {
            command: vec!["a".into()],
            env: BTreeMap::new(),
            config_files: Vec::new(),
            stop_signal: StopSignal::Term,
            reload_signal: None,
            grace: Millis(10_000),
            drain: Millis(30_000),
        },
        ready: Readiness::default(),
        placement: Placement::default(),
        live: None,
        resources: Resources::default(),
        ingress: Vec::new(),
    }
}

fn work(manifest: Manifest, holders: &[&str]) -> Result<Arc<Work>, String> {
    Ok(Arc::new(Work {
        slice: "org.example:a@blue".parse().unwrap(),
        artifact: "org.example:a:1.2.3".parse().unwrap(),
        digest: Digest::of(b"").to_string(),
        manifest,
        holders: holders.iter().map(|holder| (*holder).to_owned()).collect(),
        config_digest: None,
        config: None,
        reload: 0,
    }))
}

/// Instances in every desired state, with every way to probe and to stop, with
/// all that a manifest may have and without, and one that cannot be read.
fn directive() -> Directive {
    let mut works: Vec<_> = stop_signals()
        .into_iter()
        .zip(probes().into_iter().cycle())
        .map(|(signal, probe)| work(manifest(probe, signal), &["10.0.0.1:8090", "n2:8090"]))
        .collect();
    works.push(work(bare_manifest(), &[]));
    works.push(Err("the manifest cannot be read".into()));
    let told = desired().into_iter().cycle();
    let assignments = works.into_iter().zip(told).zip(0..).map(|((work, desired), n)| {
        (format!("a-1-{n}").parse().unwrap(), Assignment::new(desired, work, 0))
    });
    Directive {
        fence: Fence { incarnation: u64::MAX, term: 7, index: u64::MAX - 1 },
        lease_ms: u64::MAX,
        assignments: assignments.collect(),
        configs: BTreeMap::new(),
    }
}

fn configuration() -> Arc<Configuration> {
    let files = [("etc/a.conf".to_owned(), "é ${PORT}\n".into()), ("b".to_owned(), "".into())];
    Arc::new(Configuration { files: files.into(), env: [("A".to_owned(), "1".to_owned())].into() })
}

/// Two instances of one configuration, and one without.
fn configured_directive() -> Directive {
    let config = configuration();
    let digest = config.digest();
    let mut directive = directive();
    directive.assignments.retain(|_, assignment| assignment.work.is_ok());
    directive.assignments = directive.assignments.into_iter().take(3).collect();
    for assignment in directive.assignments.values_mut().take(2) {
        let work = Arc::get_mut(assignment.work.as_mut().unwrap()).unwrap();
        work.config_digest = Some(digest.clone());
        work.config = Some(config.clone());
    }
    directive.configs = [(digest, config)].into();
    directive
}

/// All signals by which a process reloads, each told of one.
fn reloading_directive() -> Directive {
    let mut directive = configured_directive();
    let work = directive.assignments.values().next().unwrap().work.clone().unwrap();
    let told = ReloadSignal::ALL.into_iter().zip(0..).map(|(signal, n)| {
        let mut manifest = bare_manifest();
        manifest.run.reload_signal = Some(signal);
        let work = Work {
            slice: work.slice.clone(),
            artifact: work.artifact.clone(),
            digest: work.digest.clone(),
            manifest,
            holders: Vec::new(),
            config_digest: work.config_digest.clone(),
            config: work.config.clone(),
            reload: u64::MAX - n,
        };
        let work = Ok(Arc::new(work));
        (format!("a-1-{n}").parse().unwrap(), Assignment::new(Desired::Run, work, 0))
    });
    directive.assignments = told.collect();
    directive
}

fn keep(directive: &Directive) -> (tempfile::TempDir, Keeper) {
    let dir = tempfile::tempdir().unwrap();
    let mut keeper = Keeper::open(dir.path()).unwrap();
    assert_eq!(keeper.offer(directive.clone()).unwrap(), Verdict::Accepted);
    (dir, keeper)
}

fn read_directive(bytes: &[u8]) -> Result<Arc<Directive>, String> {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("directive.json"), bytes).unwrap();
    let keeper = Keeper::open(dir.path()).map_err(|error| error.to_string())?;
    Ok(keeper.accepted().expect("one was kept").clone())
}

#[test]
fn directives_are_written_and_read_as_they_were() {
    for (name, directive) in [
        ("directive.json", directive()),
        ("directive-none.json", Directive::default()),
        ("directive-configured.json", configured_directive()),
        ("directive-reload.json", reloading_directive()),
    ] {
        let (dir, _) = keep(&directive);
        kept(name).holds(&fs::read(dir.path().join("directive.json")).unwrap());
        match read_directive(&kept(name).bytes()) {
            Ok(read) if *read == directive => {}
            Ok(read) => kept(name).broken(&format!("reads as {read:?}")),
            Err(error) => kept(name).broken(&format!("cannot be read any more: {error}")),
        }
    }
}

/// What a voter of the first release sends, with every field that has to do with
/// the desired set. Which fields there are at all is frozen in `proto`.
#[test]
fn what_an_agent_is_told_is_read_as_it_was() {
    let mut directive = directive();
    directive.assignments.retain(|_, assignment| assignment.work.is_ok());
    is_told("told.txt", &directive);
    is_told("told-configured.txt", &configured_directive());
    is_told("told-reload.txt", &reloading_directive());
}

fn is_told(name: &str, directive: &Directive) {
    let assignments = directive.assignments.iter().map(|(id, assignment)| {
        let work = assignment.work.as_ref().unwrap();
        let desired = serde_json::to_value(assignment.desired).unwrap();
        v1::Assignment {
            instance_id: id.to_string(),
            slice: work.slice.to_string(),
            revision: 1,
            artifact: work.artifact.to_string(),
            sha256: work.digest.clone(),
            size_bytes: 10,
            manifest_json: serde_json::to_string(&work.manifest).unwrap(),
            desired: desired.as_str().unwrap().to_owned(),
            holders: work.holders.clone(),
            config_sha256: work.config_digest.clone().unwrap_or_default(),
            reload: work.reload,
        }
    });
    let configs = directive.configs.iter().map(|(digest, config)| v1::InstanceConfig {
        sha256: digest.clone(),
        files: config.files.iter().map(|(path, text)| (path.clone(), text.to_string())).collect(),
        env: config.env.clone().into_iter().collect(),
    });
    let down = v1::AgentDown {
        incarnation: directive.fence.incarnation,
        term: directive.fence.term,
        index: directive.fence.index,
        lease_ms: directive.lease_ms,
        assignments: assignments.collect(),
        configs: configs.collect(),
        ..Default::default()
    };
    let file = attached(name);
    file.holds((hex(&down) + "\n").as_bytes());
    let message = v1::AgentDown::decode(&unhex(&file.text())[..]).unwrap();
    match Directive::read(message) {
        Ok(read) if read == *directive => {}
        other => file.broken(&format!("reads as {other:?}")),
    }
}

/// With every field set.
fn spec() -> ShimSpec {
    let manifest = manifest(Probe::Http("/up".into()), StopSignal::Quit);
    ShimSpec {
        instance: "a-1-0".parse().unwrap(),
        slice: "org.example:a@blue".into(),
        artifact: "org.example:a:1.2.3".into(),
        digest: Digest::of(b"").to_string(),
        manifest,
        command: vec!["/d/bin/a".into(), "10000".into(), String::new()],
        env: [("A".to_owned(), "é\n".to_owned()), ("PORT".to_owned(), "10000".to_owned())].into(),
        ready_exec: Some(vec!["/d/check".into(), "10000".into()]),
        live_exec: Some(vec!["true".into()]),
        work_dir: "/data/instances/a-1-0/work".into(),
        listen: "[::1]:10000".parse().unwrap(),
        restart: RestartPolicy {
            first: Duration::from_millis(200),
            most: Duration::from_secs(30),
            reset_after: Duration::new(u64::MAX, 999_999_999),
        },
        logs: LogLimits { file_bytes_max: u64::MAX, rotated_max: u32::MAX },
        restarts: u32::MAX,
        ends_in_a_row: u32::MAX - 1,
        reload: 0,
        config_digest: None,
    }
}

/// Of an instance that was started after a reload.
fn reloaded_spec() -> ShimSpec {
    let mut spec = bare_spec();
    spec.manifest.run.reload_signal = Some(ReloadSignal::Hup);
    ShimSpec { reload: u64::MAX, config_digest: Some("0".repeat(64)), ..spec }
}

fn bare_spec() -> ShimSpec {
    ShimSpec {
        manifest: bare_manifest(),
        command: vec!["a".into()],
        env: BTreeMap::new(),
        ready_exec: None,
        live_exec: None,
        listen: "127.0.0.1:10000".parse().unwrap(),
        ..spec()
    }
}

/// What an agent reads of it.
fn adopt(bytes: &[u8]) -> std::io::Result<Adopted> {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("spec.json"), bytes).unwrap();
    let layout = Layout::new(dir.path().to_owned());
    assert_eq!(Adopted::digest(&layout), Some(Digest::of(b"")), "whatever else can be read");
    Adopted::read(&layout)
}

#[test]
fn specifications_are_written_and_read_as_they_were() {
    for (name, spec) in [
        ("spec.json", spec()),
        ("spec-bare.json", bare_spec()),
        ("spec-reload.json", reloaded_spec()),
    ] {
        let file = kept(name);
        file.holds(&serde_json::to_vec(&spec).unwrap());
        reads(&file, &spec);
        let adopted = adopt(&file.bytes()).unwrap_or_else(|error| {
            file.broken(&format!("cannot be read any more by agents: {error}"))
        });
        assert_eq!((&adopted.env, &adopted.work_dir), (&spec.env, &spec.work_dir));
        assert_eq!((adopted.listen, adopted.grace()), (spec.listen, spec.grace()));
        assert_eq!(adopted.restarts, spec.restarts);
        assert_eq!((adopted.reload, &adopted.config_digest), (spec.reload, &spec.config_digest));
        assert_eq!(adopted.ends_in_a_row, spec.ends_in_a_row);
        assert_eq!(adopted.readiness(), &spec.manifest.ready);
        let exec = |command: Option<Vec<String>>| command.map(Probe::Exec);
        let ready = exec(spec.ready_exec).unwrap_or(Probe::Tcp);
        assert_eq!(adopted.ready_probe(), ready);
        let live = spec.manifest.live.zip(exec(spec.live_exec));
        assert_eq!(adopted.live_probe(), live);
    }
}

/// Where a file is, on a node of any release.
#[test]
fn files_are_where_they_were() {
    let layout = Layout::new("a-1-0".into());
    let store = tempfile::tempdir().unwrap();
    let archives = ArtifactStore::open_dir(store.path()).unwrap();
    let archive = archives.path(&Digest::of(b""));
    let of_instance = [
        layout.spec(),
        layout.state(),
        layout.readiness(),
        layout.lock(),
        layout.logs(),
        layout.work(),
        rotated_path(&layout.logs().join("stdout.log"), 0),
        rotated_path(&layout.logs().join("stdout.log"), 1),
        archive.strip_prefix(store.path()).unwrap().to_owned(),
    ];
    let names: String = of_instance.iter().map(|path| format!("{}\n", path.display())).collect();
    kept("names.txt").holds(names.as_bytes());
}

/// What shims see: each phase and each end, with every field set and with none.
pub(crate) fn states() -> Vec<ShimState> {
    let full = |phase, last_end| ShimState {
        boot_id: "b0b0-1".into(),
        shim: Process { pid: i32::MAX, start_ticks: u64::MAX },
        child: Some(Process { pid: 4_242, start_ticks: 17 }),
        phase,
        restarts: u32::MAX,
        ends_in_a_row: u32::MAX - 1,
        last_end: Some(last_end),
        last_error_line: "fatal: \"no\" é\u{1}".into(),
        killed: Some("it did not end within 1s of SIGTERM and was killed".into()),
        cgroups: vec!["/sys/fs/cgroup/memory/aether/a-1-0-0a".into(), "/c/b".into()],
        unenforced: Some("cpu (no control groups)".into()),
    };
    let bare = |phase| ShimState {
        boot_id: String::new(),
        shim: Process { pid: 1, start_ticks: 0 },
        child: None,
        phase,
        restarts: 0,
        ends_in_a_row: 0,
        last_end: None,
        last_error_line: String::new(),
        killed: None,
        cgroups: Vec::new(),
        unenforced: None,
    };
    let ended = ends().into_iter().map(|end| full(Phase::Running, end));
    ended.chain(phases().into_iter().map(bare)).collect()
}

/// What an agent asks of a shim.
pub(crate) fn restart() -> Restart {
    Restart {
        process: Process { pid: i32::MAX, start_ticks: u64::MAX },
        problem: "it did not \"answer\"\nwithin 1s".into(),
    }
}

#[test]
fn states_are_read_as_they_were() {
    let file = said("states.txt");
    let lines = file.text();
    assert_eq!(lines.lines().count(), states().len());
    for (line, state) in lines.lines().zip(states()) {
        reads_line(&file, line.as_bytes(), &state);
    }
}

/// Without what may be absent: an earlier release did not have it.
fn without_absent(value: &mut Value) {
    if let Value::Object(fields) = value {
        let says = |value: &Value| !value.is_null() && *value != json!([]);
        fields.retain(|_, value| says(value));
        fields.values_mut().for_each(without_absent);
    }
}

#[test]
fn what_may_be_absent_may_be_left_out() {
    for state in states() {
        let mut value = serde_json::to_value(&state).unwrap();
        without_absent(&mut value);
        reads_line(&said("states.txt"), value.to_string().as_bytes(), &state);
    }
    let mut value = serde_json::to_value(bare_spec()).unwrap();
    without_absent(&mut value);
    let (file, bytes) = (kept("spec-bare.json"), value.to_string().into_bytes());
    reads_line(&file, &bytes, &bare_spec());
    reads_line(&file, &bytes, &adopt(&file.bytes()).unwrap());
}

/// With one more field at a place that a newer release may add it to.
fn with_more(value: &Value, pointer: &str) -> Value {
    let mut value = value.clone();
    let at = value.pointer_mut(pointer).and_then(Value::as_object_mut);
    at.expect("an object").insert("newer".into(), json!({ "more": [1] }));
    value
}

fn with(value: &Value, pointer: &str, new: Value) -> Value {
    let mut value = value.clone();
    *value.pointer_mut(pointer).expect("it is there") = new;
    value
}

#[test]
fn a_state_of_a_newer_shim_is_read_as_far_as_it_can_be() {
    let known = states().remove(0);
    let value = serde_json::to_value(&known).unwrap();
    for place in ["", "/shim", "/child"] {
        reads_line(&said("states.txt"), with_more(&value, place).to_string().as_bytes(), &known);
    }
    // The processes and groups of one that is gone are cleaned up all the same.
    for end in [json!("evicted"), json!({ "evicted": 3 }), json!({ "status": "3" })] {
        let read: ShimState =
            serde_json::from_value(with(&value, "/last_end", end.clone())).unwrap();
        let last_end = Some(End::Unknown(end.to_string()));
        assert_eq!(read, ShimState { last_end, ..known.clone() });
    }
    for phase in [json!("frozen"), json!({ "frozen": { "since": 3 } })] {
        let read: ShimState = serde_json::from_value(with(&value, "/phase", phase)).unwrap();
        assert_eq!(read, ShimState { phase: Phase::Unknown, ..known.clone() });
        // Nobody passes on what it did not understand.
        assert!(serde_json::to_string(&read).is_err());
    }
    assert!(serde_json::to_string(&End::Unknown("x".into())).is_err());
}

#[test]
fn a_specification_by_a_newer_agent_is_adopted_unless_its_probes_are_unknown() {
    let value = serde_json::to_value(spec()).unwrap();
    let adopted = |value: &Value| adopt(&serde_json::to_vec(value).unwrap());
    let known = adopted(&value).unwrap();
    let newer = ["", "/manifest", "/manifest/run", "/manifest/resources", "/restart", "/logs"];
    for place in newer {
        let value = with_more(&value, place);
        assert_eq!(adopted(&value).unwrap(), known, "more in '{place}'");
    }
    for (place, new) in
        [("/manifest/run/stop_signal", "SIGWINCH"), ("/manifest/resources/memory", "half")]
    {
        assert_eq!(adopted(&with(&value, place, json!(new))).unwrap(), known, "{place}");
    }
    for place in ["/manifest/ready", "/manifest/live"] {
        assert!(adopted(&with_more(&value, place)).is_err(), "{place}: asked how?");
    }
    // A shim that is to start it has to know all that is asked of it.
    let refused = serde_json::from_value::<ShimSpec>(with_more(&value, "/manifest"));
    assert!(refused.unwrap_err().to_string().contains("newer"));
}

#[test]
fn a_directive_by_a_newer_release_costs_no_more_than_what_it_does_not_know() {
    let known = directive();
    let value = serde_json::to_value(&known).unwrap();
    let read = |value: &Value| read_directive(&serde_json::to_vec(value).unwrap());
    for place in ["", "/fence", "/assignments/a-1-0", "/assignments/a-1-0/work/Ok"] {
        assert_eq!(*read(&with_more(&value, place)).unwrap(), known, "more in '{place}'");
    }
    let newer = read(&with_more(&value, "/assignments/a-1-0/work/Ok/manifest")).unwrap();
    let (first, rest) = (newer.assignments.first_key_value().unwrap(), newer.assignments.iter());
    assert_eq!(first.1.desired, Desired::Run);
    assert!(first.1.work.as_ref().unwrap_err().contains("unknown field `newer`"), "{first:?}");
    assert!(rest.skip(1).eq(known.assignments.iter().skip(1)));
    // What is damaged is no smaller set.
    for place in ["/assignments/a-1-0/work", "/assignments/a-1-0", "/assignments", "/fence"] {
        assert!(read(&with(&value, place, Value::Null)).is_err(), "{place}");
    }
}

fn inflated(archive: &[u8]) -> Vec<u8> {
    let mut tar = Vec::new();
    flate2::read::GzDecoder::new(archive).read_to_end(&mut tar).unwrap();
    tar
}

/// An archive of the first release, and what is in it.
#[test]
fn archives_are_read_as_they_were() {
    let dir = tempfile::tempdir().unwrap();
    let (source, out) = (dir.path().join("source"), dir.path().join("out"));
    fs::create_dir_all(source.join("bin")).unwrap();
    let manifest = manifest(Probe::Grpc(String::new()), StopSignal::Usr1);
    fs::write(source.join("slice.toml"), manifest.to_toml()).unwrap();
    fs::write(source.join("bin/a"), "#!/bin/sh\n").unwrap();
    fs::write(source.join(format!("bin/{}", "x".repeat(200))), "long").unwrap();
    let executable = <fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o755);
    fs::set_permissions(source.join("bin/a"), executable).unwrap();
    std::os::unix::fs::symlink("a", source.join("bin/b")).unwrap();
    let file = kept("archive.tar.gz");
    crate::artifact::pack_to_file(&source, &dir.path().join("archive")).unwrap();
    let packed = fs::read(dir.path().join("archive")).unwrap();
    if !file.path().exists() {
        file.holds(&packed);
    }
    // How it is compressed is up to the library.
    if inflated(&packed) != inflated(&file.bytes()) {
        file.broken("is packed in another way now");
    }
    let limits = crate::artifact::Limits::default();
    let contents = crate::artifact::unpack(&file.bytes()[..], &out, &limits)
        .unwrap_or_else(|error| file.broken(&format!("cannot be unpacked any more: {error}")));
    assert_eq!(contents.manifest, manifest);
    let tree = |dir: &Path| {
        let read = |name: &str| fs::read(dir.join(name)).unwrap();
        let long = format!("bin/{}", "x".repeat(200));
        (fs::read_link(dir.join("bin/b")).unwrap(), read("bin/a"), read(&long), read("slice.toml"))
    };
    assert_eq!(tree(&out), tree(&source));
}
