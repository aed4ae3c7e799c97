//! Any command line is parsed or a usage error, and the error is short.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use aether_fuzz::proptest::collection::vec;
use aether_fuzz::proptest::prelude::*;
use aether_fuzz::proptest::sample::select;
use aether_fuzz::{CASES, bytes, check, near, text};
use clap::{CommandFactory, Parser};

use super::{Cli, shortened};

/// Every verb, option and value name of the command line.
fn words() -> Vec<String> {
    fn collect(command: &clap::Command, words: &mut Vec<String>) {
        words.push(command.get_name().to_owned());
        for argument in command.get_arguments() {
            words.extend(argument.get_long().map(|long| format!("--{long}")));
            words.extend(argument.get_short().map(|short| format!("-{short}")));
        }
        command.get_subcommands().for_each(|command| collect(command, words));
    }
    let mut words = Vec::new();
    collect(&Cli::command(), &mut words);
    words
}

const LINES: &[&str] = &[
    "update start org.example:my-slice 2.0.0 --max-error-rate 0.01 --max-latency-ms 500",
    "update start a.b:c@blue 2.0.0 --grace 5m --deploy-timeout 5m --on-failure pause --wait",
    "update routing abc123 -r 1:3 --force",
    "update rollback u1 --now --force --wait",
    "--addr 10.0.0.1:8090,10.0.0.2:8090 --timeout 3s nodes -o json",
    "deploy a.b:c:1.0.0@blue -n 2 --wait",
    "logs my-slice-1f-0 -f --tail 0",
    "kv get rolling-update/u1",
    "artifact push .",
    "node --config a.toml --insecure",
    "dev --nodes 3 --data-dir x --http 8080 --grpc 8090 --ingress 8070",
    "demo --json --rate 100 --keep",
];

fn parse(arguments: impl IntoIterator<Item = OsString>) {
    let line = std::iter::once(OsString::from("aether")).chain(arguments);
    if let Err(error) = Cli::try_parse_from(line) {
        let text = shortened(&error.render().to_string());
        let asked = matches!(error.exit_code(), 0 | 2);
        assert!(asked && !text.is_empty(), "{text}");
        assert!(error.exit_code() == 0 || text.len() < 20_000, "{} bytes of error", text.len());
    }
}

#[test]
fn any_command_line_is_parsed_or_a_usage_error() {
    let split = |line: String| line.split(' ').map(OsString::from).collect::<Vec<_>>();
    check(CASES, near(LINES), |line| parse(split(line)));
    let word = prop_oneof![
        5 => select(words()).prop_map(OsString::from),
        2 => text().prop_map(OsString::from),
        1 => select(vec!["a.b:c", "1.0.0", "u1", "1:3", "10s", "--", "-", "="]).prop_map(OsString::from),
        1 => bytes(20).prop_map(|bytes| OsString::from_vec(bytes.0)),
    ];
    check(CASES, vec(word, 0..8), parse);
}
