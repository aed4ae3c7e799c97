//! Agents and shims of today with those of another release: of the first one, as
//! `tests/frozen` has it, and of a later one, whose files say more.
//!
//! What belongs to the other release is written out here, names and all, and uses
//! nothing of the crate.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::{Value, json};

use crate::plane::LIMIT;
use crate::world::{FIXTURE, World, is_alive, kill_session, until};

/// The process that `states.txt` and `readiness.json` tell of. It is nobody's.
const NOBODY: &str = r#"{"pid":2147483647,"start_ticks":18446744073709551615}"#;

fn frozen(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/frozen").join(name);
    fs::read_to_string(path).unwrap()
}

fn frozen_json(name: &str) -> Value {
    serde_json::from_str(&frozen(name)).unwrap()
}

fn states() -> Vec<String> {
    frozen("states.txt").lines().map(str::to_owned).collect()
}

/// A lock as the processes of all releases take it: with the open file.
fn locked(path: &Path) -> File {
    let file = File::options().read(true).write(true).create(true).truncate(false).open(path);
    let file = file.unwrap();
    #[allow(deprecated)] // `Flock` unlocks on drop, and with it for whoever inherits the file.
    nix::fcntl::flock(file.as_raw_fd(), nix::fcntl::FlockArg::LockExclusiveNonblock).unwrap();
    file
}

/// Plays a shim of the first release until it was told something; gives what.
fn shim(dir: PathBuf, state: String) -> JoinHandle<String> {
    let lock = locked(&dir.join("shim.lock"));
    let socket = UnixListener::bind(dir.join("shim.sock")).unwrap();
    std::thread::spawn(move || {
        let (mut agent, _) = socket.accept().unwrap();
        agent.write_all(format!("{state}\n").as_bytes()).unwrap();
        let mut told = String::new();
        BufReader::new(&agent).read_line(&mut told).unwrap();
        let stopped = states().pop().unwrap();
        fs::write(dir.join("state.json"), &stopped).unwrap();
        agent.write_all(format!("{stopped}\n").as_bytes()).unwrap();
        drop(lock);
        told
    })
}

#[tokio::test]
async fn an_agent_takes_over_what_the_first_release_left() {
    let world = World::without_agent().await;
    let (data, dir) = (world.data_dir(), world.instance_dir("a-1-0"));
    fs::create_dir_all(&dir).unwrap();
    let slice = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = slice.local_addr().unwrap().to_string();
    let write = |path: &str, text: &str| fs::write(data.join(path), text).unwrap();
    let mut directive = frozen_json("directive.json");
    directive["assignments"].as_object_mut().unwrap().retain(|id, _| id == "a-1-0");
    directive["fence"] = json!({ "incarnation": 0, "term": 1, "index": 5 });
    write("directive.json", &directive.to_string());
    write("ports.json", &frozen("ports.json"));
    let spec = frozen("spec-bare.json").replace("127.0.0.1:10000", &address);
    write("instances/a-1-0/spec.json", &spec);
    let state = states()[0].replace(r#"{"pid":4242,"start_ticks":17}"#, NOBODY);
    write("instances/a-1-0/state.json", &state);
    write("instances/a-1-0/readiness.json", &frozen("readiness.json"));
    fs::create_dir(dir.join("logs")).unwrap();
    write("instances/a-1-0/logs/instance.json", &frozen("instance.json"));
    let shim = shim(dir.clone(), state);

    let agent = world.start_agent(|_| {}).await;
    let first = world.plane.reports_after_now(1).await.instances.remove(0);
    assert_eq!((&*first.instance_id, &*first.observed), ("a-1-0", "READY"));
    assert_eq!((first.endpoint, first.restarts), (address.clone(), u32::MAX));
    assert_eq!(first.reason_code, "limits_not_enforced");
    // Its kept fence holds, and its shim does what it is told.
    let other = world.fixture(&[], "");
    let assign = |desired| vec![other.assign("a-1-0", desired, world.plane.address)];
    world.plane.want(4, assign("STOP"));
    let report = world.plane.reports_after_now(2).await;
    assert_eq!(report.instances[0].observed, "READY");
    world.plane.want(6, assign("STOP"));
    world.plane.observed("a-1-0", "STOPPED").await;
    assert_eq!(
        shim.join().unwrap(),
        frozen("commands.txt").lines().last().unwrap().to_owned() + "\n"
    );
    let port = address.rsplit_once(':').unwrap().1.to_owned();
    let book: Value = serde_json::from_slice(&fs::read(data.join("ports.json")).unwrap()).unwrap();
    assert!(book["last_used_ms"][port].is_u64(), "{book}");

    world.plane.want(7, vec![]);
    until("its logs are put away", || data.join("logs/a-1-0/instance.json").exists()).await;
    let about = fs::read_to_string(data.join("logs/a-1-0/instance.json")).unwrap();
    let about: Value = serde_json::from_str(&about).unwrap();
    let gone = frozen_json("instance-gone.json");
    assert_eq!((&about["slice"], &about["artifact"]), (&gone["slice"], &gone["artifact"]));
    assert!(about["gone_wall_ms"].is_u64());
    agent.shutdown().await;
}

/// A shim and its slice, which do not outlive their test.
struct Shim(Child);

impl Drop for Shim {
    fn drop(&mut self) {
        if let Ok(None) = self.0.try_wait() {
            let leader = i32::try_from(self.0.id()).unwrap();
            let _ = self.0.kill();
            let _ = self.0.wait();
            kill_session(leader);
        }
    }
}

/// Plays an agent of the first release.
#[test]
fn a_shim_serves_an_agent_of_the_first_release() {
    let data = tempfile::tempdir().unwrap();
    let dir = data.path().join("instances/a-1-0");
    fs::create_dir_all(&dir).unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut spec = frozen_json("spec-bare.json");
    spec["command"] = json!([FIXTURE, "slice"]);
    spec["env"] = json!({ "PORT": port.port().to_string() });
    spec["listen"] = json!(port);
    spec["work_dir"] = json!(dir.join("work"));
    spec["ends_in_a_row"] = json!(0); // Or its next start would wait for half a minute.
    fs::write(dir.join("spec.json"), spec.to_string()).unwrap();
    let note = data.path().join("port");
    fs::write(&note, frozen("port-held.txt")).unwrap();
    let shim = Command::new(FIXTURE)
        .arg("shim")
        .arg(&dir)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::from(locked(&note)))
        .stdout(Stdio::from(locked(&dir.join("shim.lock"))))
        .stderr(Stdio::from(File::create(dir.join("shim.err")).unwrap()))
        .spawn();
    let mut shim = Shim(shim.unwrap());
    let mut socket = loop {
        match UnixStream::connect(dir.join("shim.sock")) {
            Ok(socket) => break socket,
            Err(error) => assert!(shim.0.try_wait().unwrap().is_none(), "it ended: {error}"),
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    let mut reader = BufReader::new(socket.try_clone().unwrap());
    let mut next = || {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let state: Value = serde_json::from_str(&line).unwrap();
        let known: Value = serde_json::from_str(&states()[0]).unwrap();
        for field in known.as_object().unwrap().keys() {
            assert!(state.get(field).is_some(), "{field} is missed by an older agent: {line}");
        }
        state
    };
    let mut until_it_is = |phase: &str| {
        let mut state = next();
        while state["phase"] != phase {
            state = next();
        }
        state
    };
    let first = until_it_is("running");
    assert_eq!(first["restarts"], u32::MAX);
    let restart = frozen("commands.txt").replace(NOBODY, &first["child"].to_string());
    socket.write_all(restart.lines().next().unwrap().as_bytes()).unwrap();
    socket.write_all(b"\n").unwrap();
    until_it_is("restarting");
    until_it_is("waiting");
    let second = until_it_is("running");
    assert_eq!(second["last_end"]["not_live"], "it did not \"answer\"\nwithin 1s");
    assert_ne!(second["child"], first["child"]);
    socket.write_all(b"stop\n").unwrap();
    until_it_is("stopping");
    assert_eq!(until_it_is("stopped")["child"], Value::Null);
    assert!(shim.0.wait().unwrap().success());
    let kept: Value = serde_json::from_slice(&fs::read(dir.join("state.json")).unwrap()).unwrap();
    assert_eq!(kept["phase"], "stopped");
    assert!(fs::read_to_string(dir.join("logs/stdout.log")).unwrap().contains("up "));
    assert!(dir.join("logs/stderr.log").parent().unwrap().is_dir() && dir.join("work").is_dir());
    let mut noted = String::new();
    File::open(note).unwrap().read_to_string(&mut noted).unwrap();
    let since: u64 =
        noted.strip_prefix("free ").unwrap().strip_suffix('\n').unwrap().parse().unwrap();
    assert!(since > 1_700_000_000_000, "{noted}");
}

/// Adds to a file what only a newer release writes there.
fn add(path: &Path, pointer: &str) {
    let mut value: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let at = value.pointer_mut(pointer).and_then(Value::as_object_mut);
    at.expect("an object").insert("newer".into(), json!([1]));
    fs::write(path, value.to_string()).unwrap();
}

#[tokio::test]
async fn a_node_that_is_set_back_goes_on_with_the_instances_of_the_newer_release() {
    let mut world = World::new().await;
    let slice = world.fixture(&[], "");
    world.plane.want(5, vec![slice.assign("a-1-0", "RUN", world.plane.address)]);
    world.plane.observed("a-1-0", "READY").await;
    let pids = world.pids("a-1-0");
    world.stop_agent().await;
    // As after a slice was pushed whose manifest says more.
    add(&world.data_dir().join("directive.json"), "/assignments/a-1-0/work/Ok/manifest");
    add(&world.instance_dir("a-1-0").join("spec.json"), "/manifest");
    world.agent = Some(world.start_agent(|_| {}).await);
    let first = world.plane.reports_after_now(1).await.instances.remove(0);
    assert_eq!((&*first.observed, &*first.reason_code), ("READY", ""));
    assert_eq!(world.pids("a-1-0"), pids);
    world.plane.want(6, vec![slice.assign("a-1-0", "STOP", world.plane.address)]);
    world.plane.observed("a-1-0", "STOPPED").await;
    assert!(!is_alive(pids.0) && !is_alive(pids.1));
}

#[tokio::test]
async fn an_instance_that_cannot_be_understood_is_reported_left_alone_and_stopped_when_told() {
    let mut world = World::new().await;
    let ids = ["a-1-0", "a-1-1", "a-1-2"];
    let slices = [
        world.fixture(&[], ""),
        world.fixture(&["--ignore-term"], "grace='1s'"),
        world.fixture(&["--other"], ""),
    ];
    let address = world.plane.address;
    let assign = |desired| {
        ids.iter().zip(&slices).map(|(id, slice)| slice.assign(id, desired, address)).collect()
    };
    world.plane.want(5, assign("RUN"));
    for id in ids {
        world.plane.observed(id, "READY").await;
    }
    let pids = ids.map(|id| world.pids(id));
    world.stop_agent().await;
    // One that is asked in a way that nobody here knows, one that is damaged, and
    // one that is lost.
    add(&world.instance_dir("a-1-0").join("spec.json"), "/manifest/ready");
    let directive = world.data_dir().join("directive.json");
    add(&directive, "/assignments/a-1-0/work/Ok/manifest/ready");
    fs::write(world.instance_dir("a-1-1").join("spec.json"), "{").unwrap();
    fs::remove_file(world.instance_dir("a-1-2").join("spec.json")).unwrap();
    world.agent = Some(world.start_agent(|_| {}).await);
    // In the first report: the node does not look as if they were gone.
    let report = world.plane.reports_after_now(1).await;
    assert_eq!(report.instances.len(), ids.len());
    for seen in &report.instances {
        assert_eq!((&*seen.observed, &*seen.reason_code), ("STARTING", "shim_failed"));
        assert!(seen.reason_message.contains("cannot be read by this release"), "{seen:?}");
    }
    assert_eq!(ids.map(|id| world.pids(id)), pids);
    assert!(pids.iter().all(|(shim, child)| is_alive(*shim) && is_alive(*child)));
    for slice in &slices {
        let tree = world.data_dir().join("unpacked").join(&slice.digest);
        assert!(tree.is_dir(), "it runs from there");
    }
    world.plane.want(6, assign("STOP"));
    world.plane.observed("a-1-1", "STOPPING").await;
    for id in ids {
        world.plane.observed(id, "STOPPED").await;
    }
    assert!(pids.iter().all(|(shim, child)| !is_alive(*shim) && !is_alive(*child)));
}
