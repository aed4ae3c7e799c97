//! A node that must not start: what is wrong with its configuration or its data
//! directory, in its own words, with an exit code, and nothing written.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use aether_cluster::Said;
use nix::fcntl::{Flock, FlockArg};
use tokio::process::Command;

use aether_tests::PATIENCE;

/// A voter that would start, but for what a case changes.
fn sound(peer: &str, data_dir: &Path) -> String {
    format!(
        "name = 'n1'\ndata_dir = '{}'\ngrpc = '127.0.0.1:0'\nhttp = '127.0.0.1:0'\n\
         ingress = '127.0.0.1:0'\n[[voters]]\nname = 'n1'\npeer = '{peer}'\n",
        data_dir.display()
    )
}

/// What `aether node` says of a configuration, and how it ends.
async fn started(dir: &Path, text: &str) -> Said {
    let file = dir.join("node.toml");
    fs::write(&file, text).unwrap();
    let mut command = Command::new(aether_tests::binary());
    command.arg("node").arg("--config").arg(&file).stdin(Stdio::null()).kill_on_drop(true);
    let ended = tokio::time::timeout(PATIENCE, command.output()).await;
    let said = Said::from(ended.unwrap_or_else(|_| panic!("it runs with\n{text}")).unwrap());
    assert!(!said.stderr.contains("panicked") && said.code != Some(101), "{said:?}");
    said
}

#[tokio::test]
async fn a_configuration_that_makes_no_sense_is_a_usage_error() {
    let dir = tempfile::TempDir::new().unwrap();
    let (address, _lease) = aether_cluster::free_address().unwrap();
    let data = dir.path().join("data");
    let sound = sound(&address.to_string(), &data);
    let voter = |name: &str, peer: &str| format!("[[voters]]\nname = '{name}'\npeer = '{peer}'\n");
    let own = address.to_string();
    let cases = [
        ("empty file", String::new(), "name: is missing"),
        ("half a line", format!("{sound}x ="), "line 9"),
        ("unknown key", format!("colour = 'red'\n{sound}"), "colour"),
        (
            "heartbeat at the election",
            format!("{sound}[timing]\nheartbeat = '150ms'\n"),
            "must be below timing.election_min",
        ),
        ("no unit", format!("{sound}[timing]\nheartbeat = '40'\n"), "unit"),
        ("no unit, and zero", format!("{sound}[timing]\nstop_together = '0'\n"), "unit"),
        ("a name twice", sound.clone() + &voter("n1", "127.0.0.1:1"), "'n1' is listed twice"),
        ("a peer that is itself", sound.clone() + &voter("n2", &own), "address of another voter"),
        (
            "not a voter",
            sound.replace("[[voters]]\nname = 'n1'", "[[voters]]\nname = 'n2'"),
            "'n1' is a voter and is not listed",
        ),
        (
            "exposed",
            format!("grpc = '0.0.0.0:0'\n{}", sound.replace("grpc = '127.0.0.1:0'\n", "")),
            "--insecure",
        ),
    ];
    for (what, text, part) in cases {
        let said = started(dir.path(), &text).await;
        assert_eq!(said.code, Some(2), "{what}: {said:?}");
        assert!(said.stderr.contains(part), "{what}: {said:?}");
    }
    assert!(!data.exists(), "nothing is written for a configuration that is refused");
}

#[tokio::test]
async fn a_data_directory_that_is_not_its_own_or_not_usable_is_a_failure() {
    let dir = tempfile::TempDir::new().unwrap();
    let (address, _lease) = aether_cluster::free_address().unwrap();
    let address = address.to_string();
    let of = |name: &str, identity: &str| {
        let data = dir.path().join(name);
        // Where the replica keeps its own.
        let replica = data.join("replica");
        fs::create_dir_all(&replica).unwrap();
        fs::write(replica.join("identity.json"), identity).unwrap();
        data
    };
    let identity = |format: u32, node: &str| {
        format!(
            r#"{{"format": {format}, "cluster": "aether", "node": "{node}", "raft_id": 1, "dir_id": "0"}}"#
        )
    };
    let used = of("used", &identity(1, "n1"));
    let lock = fs::File::create(used.join("replica/lock")).unwrap();
    let _lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock).unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "no directory").unwrap();
    let cases = [
        ("of another node", of("other", &identity(1, "n2")), "belongs to node \"n2\""),
        ("of a newer release", of("newer", &identity(99, "n1")), "start the newer release again"),
        ("damaged", of("damaged", "{"), "identity.json is damaged"),
        ("in use", used, "is in use by another process"),
        // Root writes where modes forbid it, but nobody writes there.
        ("not writable", Path::new("/proc/aether").to_owned(), "/proc/aether"),
        ("a file", file, "file"),
    ];
    // An even number of voters is only warned of.
    let second = "[[voters]]\nname = 'n2'\npeer = '127.0.0.1:1'\n";
    for (what, data, part) in cases {
        let said = started(dir.path(), &(sound(&address, &data) + second)).await;
        assert_eq!(said.code, Some(1), "{what}: {said:?}");
        assert!(said.stderr.contains(part), "{what}: {said:?}");
        let warned = said.stderr.contains("warning: 2 voters") && said.stderr.contains("odd");
        assert!(warned, "{what}: {said:?}");
    }
}
