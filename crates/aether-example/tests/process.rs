//! The slice as a process: signals and exit statuses.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Starts it and waits until it says that it listens; what it floods its log
/// with may come before. Another program may take the port that was free a
/// moment before: then the next one is tried.
fn start(switches: &[&str]) -> (Child, u16) {
    for _ in 0..5 {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut child = Command::new(env!("CARGO_BIN_EXE_aether-example-slice"))
            .args(switches)
            .env_clear()
            .env("PORT", port.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
        if lines.any(|line| line.is_ok_and(|line| line.contains("listening"))) {
            return (child, port);
        }
        child.wait().unwrap();
    }
    panic!("it never came up");
}

fn signal(child: &Child, signal: Signal) {
    kill(Pid::from_raw(child.id().try_into().unwrap()), signal).unwrap();
}

/// Waits until a condition holds, far longer than a slow machine needs.
fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < deadline, "waited for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn kill_and_wait(child: &mut Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn sigterm_lets_a_call_finish_and_exits_0() {
    let (mut child, port) = start(&[]);
    let mut call = TcpStream::connect(("127.0.0.1", port)).unwrap();
    call.write_all(b"GET /slow?ms=300 HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let mut other = TcpStream::connect(("127.0.0.1", port)).unwrap();
    other.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    other.read_to_end(&mut Vec::new()).unwrap();
    signal(&child, Signal::SIGTERM);
    let mut text = String::new();
    call.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

/// Body of the answer at a path, and its status.
fn get(port: u16, path: &str) -> (u16, String) {
    let mut call = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    call.write_all(request.as_bytes()).unwrap();
    let mut text = String::new();
    call.read_to_string(&mut text).unwrap();
    (text[9..12].parse().unwrap(), text)
}

#[test]
fn sighup_has_it_read_its_version_again() {
    let file = std::env::temp_dir().join(format!("aether-example-{}.conf", std::process::id()));
    std::fs::write(&file, "one\n").unwrap();
    let (mut child, port) = start(&["--version-file", &file.display().to_string()]);
    let says = |version: &str| get(port, "/").1.contains(&format!("\"version\":\"{version}\""));
    assert!(says("one"));
    std::fs::write(&file, "two\n").unwrap();
    assert!(says("one"), "nobody has told it");
    signal(&child, Signal::SIGHUP);
    eventually("it to say so", || says("two"));
    assert!(get(port, "/").1.contains(&format!("\"pid\":{}", child.id())));
    assert_eq!(get(port, "/ready").0, 200);
    std::fs::write(&file, "no good\n").unwrap();
    signal(&child, Signal::SIGHUP);
    eventually("it to be not ready", || get(port, "/ready").0 == 503);
    assert!(says("two"), "it goes on as before");
    kill_and_wait(&mut child);
    let _ = std::fs::remove_file(file);
}

#[test]
fn sigterm_can_be_ignored() {
    let (mut child, port) = start(&["--ignore-sigterm"]);
    signal(&child, Signal::SIGTERM);
    let mut call = TcpStream::connect(("127.0.0.1", port)).unwrap();
    call.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    call.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn ends_that_were_asked_for_have_their_status() {
    let status = |switches: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_aether-example-slice"));
        let command = command.args(switches).env_clear().env("PORT", "0");
        command.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().code()
    };
    assert_eq!(status(&["--exit-on-start", "3"]), Some(3));
    assert_eq!(status(&["--crash-after", "10ms"]), Some(101));
    assert_eq!(status(&["--exit-after", "10ms"]), Some(0));
    assert_eq!(status(&["--nonsense"]), Some(2));
    assert_eq!(status(&["--help"]), Some(0));
}

#[test]
fn it_can_run_without_listening() {
    let (mut child, port) = start(&["--no-listen"]);
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
    signal(&child, Signal::SIGTERM);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn it_can_listen_late_or_elsewhere() {
    let (mut child, port) = start(&["--listen-after", "1h"]);
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
    signal(&child, Signal::SIGTERM);
    assert_eq!(child.wait().unwrap().code(), Some(0));

    let (mut child, port) = start(&["--listen-after", "10ms"]);
    eventually("it to listen", || TcpStream::connect(("127.0.0.1", port)).is_ok());
    kill_and_wait(&mut child);

    let (mut child, port) = start(&["--listen-elsewhere"]);
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
    kill_and_wait(&mut child);
}

#[test]
fn it_can_leak_memory_and_flood_its_log() {
    let (mut child, _) = start(&["--leak", "200", "--flood", "1"]);
    let mut line = vec![0; 4_096];
    child.stdout.as_mut().unwrap().read_exact(&mut line).unwrap();
    assert!(line.windows(1_024).any(|window| window == [&[b'~'; 1_023][..], b"\n"].concat()));
    let resident_kib = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
    };
    eventually("it to use 60 MiB", || resident_kib() > 60 * 1_024);
    kill_and_wait(&mut child);
}

#[test]
fn its_child_outlives_it_in_a_session_of_its_own() {
    let (mut child, _) = start(&["--fork"]);
    let children = format!("/proc/{0}/task/{0}/children", child.id());
    let first = || std::fs::read_to_string(&children).unwrap().trim().parse::<i32>();
    eventually("its child", || first().is_ok());
    let pid = first().unwrap();
    let pid = Pid::from_raw(pid);
    eventually("it to leave the session", || nix::unistd::getsid(Some(pid)) == Ok(pid));
    kill_and_wait(&mut child);
    // It is waited for until it has had the time to take its signals.
    let takes = || {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:\t"));
        let mask = mask.map_or(0, |mask| u64::from_str_radix(mask, 16).unwrap());
        mask >> (Signal::SIGHUP as u64 - 1) & 1 == 1
    };
    eventually("it to take SIGHUP", takes);
    kill(pid, Signal::SIGTERM).unwrap();
    kill(pid, Signal::SIGHUP).unwrap();
    assert!(kill(pid, None).is_ok(), "it is there still");
    kill(pid, Signal::SIGKILL).unwrap();
}
