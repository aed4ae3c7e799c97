//! The slice as a process: signals and exit statuses.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Starts it and waits for its first line. Another program may take the port
/// that was free a moment before: then the next one is tried.
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
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        if line.contains("listening") {
            return (child, port);
        }
        child.wait().unwrap();
    }
    panic!("it never came up");
}

fn signal(child: &Child, signal: Signal) {
    kill(Pid::from_raw(child.id().try_into().unwrap()), signal).unwrap();
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
