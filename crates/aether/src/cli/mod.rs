//! The command line. One file per verb, with its flags, documentation and
//! code; what they share is in `client`, `reach`, `exit`, `options`, `output`,
//! `follow` and `render`.

mod artifact;
mod client;
mod demo;
mod deploy;
mod dev;
mod events;
mod example_slice;
mod exit;
#[cfg(test)]
mod fake;
mod follow;
#[cfg(test)]
mod fuzz;
mod kv;
mod logs;
mod node;
mod nodes;
mod options;
mod output;
mod pages;
mod reach;
mod render;
mod scale;
mod shim;
mod slices;
mod status;
mod undeploy;
mod update;

use std::ffi::OsString;
use std::process::ExitCode;

use aether_core::duration::Millis;
use clap::error::ErrorKind;
use clap::{Args, ColorChoice, Parser, Subcommand};

use client::{Address, Client};
use exit::Failure;
use output::{Format, Output};

/// Keeps services running while their versions change.
#[derive(Debug, Parser)]
#[command(
    name = "aether",
    version,
    arg_required_else_help = true,
    subcommand_required = true,
    color = ColorChoice::Never,
    after_help = "Exit codes: 0 ok, 1 failed, 2 usage, 3 unreachable, 4 not found, \
                  5 refused by state, 6 outcome unknown; 10 a plan has changes (--detailed-exitcode)."
)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What every verb that speaks with a cluster understands.
#[derive(Debug, Args)]
struct Global {
    /// Client addresses of nodes, separated by commas; tried in turn
    // Checked only by the verbs that use it, so that a variable meant for the
    // client never keeps a node from starting.
    #[arg(
        long,
        short,
        global = true,
        env = "AETHER_ADDR",
        value_delimiter = ',',
        default_value = "127.0.0.1:8090",
        value_name = "HOST:PORT"
    )]
    addr: Vec<String>,
    /// How results are printed
    #[arg(long, short, global = true, value_enum, default_value = "table", ignore_case = true)]
    output: Format,
    /// How long a request may take, over all addresses
    #[arg(long, global = true, default_value = "10s", value_name = "DURATION")]
    timeout: Millis,
    /// Who asks, for the history [default: $USER]
    #[arg(long, global = true, value_name = "NAME")]
    actor: Option<String>,
}

impl Global {
    fn output(&self) -> Output {
        Output::new(self.output)
    }

    fn client(&self) -> Result<Client, Failure> {
        let addresses = self
            .addr
            .iter()
            .map(|text| text.trim().parse::<Address>().map_err(Failure::usage))
            .collect::<Result<Vec<_>, _>>()?;
        let actor = match &self.actor {
            Some(name) => options::actor(name).map_err(Failure::usage)?,
            None => std::env::var("USER")
                .ok()
                .and_then(|name| options::actor(&name).ok())
                .unwrap_or_else(|| "cli".to_owned()),
        };
        Client::new(addresses, self.timeout.duration(), actor)
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Move slices from one version to another
    #[command(subcommand)]
    Update(update::Command),
    /// Push, look at and remove artifacts
    #[command(subcommand)]
    Artifact(artifact::Command),
    Deploy(deploy::Deploy),
    Scale(scale::Scale),
    Undeploy(undeploy::Undeploy),
    Status(status::Status),
    Nodes(nodes::Nodes),
    Slices(slices::Slices),
    Logs(logs::Logs),
    Events(events::Events),
    /// Look into the replicated KV store
    #[command(subcommand)]
    Kv(kv::Command),
    Node(node::Node),
    Dev(dev::Dev),
    Demo(demo::Demo),
}

/// Runs the command line and says how the process ends.
pub fn main(args: Vec<OsString>) -> ExitCode {
    // The two hidden verbs come before clap: their arguments are a program's,
    // of which none may be taken for an option of ours.
    match args.get(1).and_then(|verb| verb.to_str()) {
        Some(shim::VERB) => return shim::run(args.into_iter().skip(2).collect()),
        Some(example_slice::VERB) => {
            return example_slice::run(args.into_iter().skip(2).collect());
        }
        _ => {}
    }
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn run(cli: Cli) -> Result<(), Failure> {
    let global = &cli.global;
    match cli.command {
        Command::Update(command) => command.run(global),
        Command::Artifact(command) => command.run(global),
        Command::Deploy(verb) => asking(verb.run(global)),
        Command::Scale(verb) => asking(verb.run(global)),
        Command::Undeploy(verb) => asking(verb.run(global)),
        Command::Status(verb) => asking(verb.run(global)),
        Command::Nodes(verb) => asking(verb.run(global)),
        Command::Slices(verb) => asking(verb.run(global)),
        Command::Logs(verb) => asking(verb.run(global)),
        Command::Events(verb) => asking(verb.run(global)),
        Command::Kv(command) => asking(command.run(global)),
        Command::Node(verb) => verb.run(global),
        Command::Dev(verb) => verb.run(),
        Command::Demo(verb) => verb.run(),
    }
}

/// Runs a verb that asks a cluster. One thread is plenty for one request.
fn asking(verb: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format!("cannot start: {error}")))?
        .block_on(verb)
}

/// Prints help, the version, or what is wrong with the arguments.
fn usage(error: &clap::Error) -> ExitCode {
    let text = error.render().to_string();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            match Output::new(Format::Table).text(&text) {
                Ok(()) => ExitCode::SUCCESS,
                Err(failure) => failure.report(),
            }
        }
        _ => {
            output::say(shortened(&text).trim_end());
            ExitCode::from(exit::Exit::Usage as u8)
        }
    }
}

/// Longest line of a usage error. It repeats the offending argument, which may
/// be as long as the kernel allows.
const USAGE_LINE_CHARS_MAX: usize = 400;

fn shortened(text: &str) -> String {
    let line = |line: &str| match line.char_indices().nth(USAGE_LINE_CHARS_MAX) {
        None => line.to_owned(),
        Some((cut, _)) => format!("{}…", &line[..cut]),
    };
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn clap_finds_nothing_wrong_with_the_verbs() {
        Cli::command().debug_assert();
    }

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once("aether").chain(line.split_whitespace()))
    }

    #[test]
    fn every_command_of_the_guide_parses() {
        for line in [
            "update start org.example:my-slice 2.0.0",
            "update start org.example:my-slice 2.0.0 --max-error-rate 0.01 --max-latency-ms 500",
            "update start org.example:my-slice 2.0.0 --cleanup GRACE_PERIOD",
            "update start org.example:payment-service 2.0.0 --max-error-rate 0.001 \
             --max-latency-ms 200 --manual-approval",
            "update start org.example:my-slice 2.0.0 --instances 3",
            "update start org.example:my-slice 2.0.0 -i 3 --cleanup immediate",
            "update start org.example:my-slice 2.0.0 -n 3 --error-rate 0 --latency-ms 1",
            "update routing abc123 -r 1:3",
            "update routing abc123 --ratio 1:0 --force",
            "update status abc123",
            "update list",
            "update health abc123",
            "update complete abc123",
            "update rollback abc123",
            "logs org.example:my-slice:2.0.0",
            "status",
            "undeploy org.example:my-slice:2.0.0",
        ] {
            parse(line).unwrap_or_else(|e| panic!("{line}: {e}"));
        }
    }

    #[test]
    fn our_own_options_parse() {
        for line in [
            "update start a.b:c@blue 2.0.0 --grace 5m --deploy-timeout 5m --on-failure pause \
             --healthy-time 1s --wait --wait-timeout 1h --actor me",
            "update start a.b:c 2.0.0 --preset strict --min-requests 20",
            "update plan a.b:c 2.0.0 -n 3 --cleanup MANUAL --detailed-exitcode",
            "update undo u1",
            "update undo current -r 0:1 --force --cleanup GRACE_PERIOD --grace 1m",
            "update cleanup current",
            "update set u1 --preset relaxed --max-latency-ms 900 --manual-approval false",
            "update set u1 --manual-approval --if-modified 7",
            "update history u1",
            "update diff u1",
            "update diff a.b:c@blue 3 5",
            "update diff a.b:c 3",
            "node drain w1 --wait",
            "node cordon w1",
            "node uncordon w1",
            "node forget w1 --force",
            "update list --all --stale -o json",
            "update status current --stale",
            "update rollback u1 --now --force --wait",
            "update complete u1 --force --wait",
            "update resume u1",
            "update approve u1",
            "update watch u1",
            "update explain u1",
            "--addr 10.0.0.1:8090,10.0.0.2:8090 --timeout 3s nodes",
            "deploy a.b:c:1.0.0@blue -n 2 --wait",
            "scale a.b:c@blue -i 2",
            "slices a.b:c",
            "logs my-slice-1f-0 -f --tail 0",
            "kv get rolling-update/u1",
            "kv list",
            "kv list audit/",
            "kv watch instances/ --from 12",
            "events --follow --after 12.1 --subject update/u1",
            "events -n 5 -s node",
            "artifact push .",
            "artifact list a.b:c",
            "artifact info a.b:c:1.0.0",
            "artifact remove a.b:c:1.0.0",
            "node --config a.toml --insecure",
            "dev --nodes 3 --data-dir x --http 8080 --grpc 8090 --ingress 8070",
            "demo --json --rate 100 --keep",
        ] {
            parse(line).unwrap_or_else(|e| panic!("{line}: {e}"));
        }
    }

    #[test]
    fn bad_arguments_are_usage_errors() {
        for line in [
            "frobnicate",
            "update",
            "update routing u1",
            "update routing u1 -r 101",
            "update routing u1 -r=-1:2",
            "update routing u1 -r 0:0",
            "update routing u1 -r 1:x",
            "update routing u1 -r 10001:1",
            "update routing ../x -r 1:1",
            "update start a.b:c 2.0.0 --max-error-rate NaN",
            "update start a.b:c 2.0.0 --max-error-rate 1e309",
            "update start a.b:c 2.0.0 --max-error-rate 1.01",
            "update start a.b:c 2.0.0 --max-error-rate=-0.1",
            "update start a.b:c 2.0.0 --max-error-rate inf",
            "update start a.b:c 2.0.0 --max-latency-ms 0",
            "update start a.b:c 2.0.0 -i 0",
            "update start a.b:c 2.0.0 -i 4294967296",
            "update start a.b:c 2.0.0 --cleanup SOMETIMES",
            "update start a.b:c 2.0.0 --on-failure explode",
            "update start a.b:c 2.0.0 --grace 5",
            "update start c 2.0.0",
            "update start a.b:c two",
            "update start a.b:c 2.0.0 --wait-timeout 1h",
            "update set u1",
            "update set u1 --if-modified 7",
            "update set u1 --preset harsh",
            "update set u1 --manual-approval maybe",
            "update undo u1 -r 0:0",
            "update undo",
            "update diff",
            "update diff a.b:c x",
            "update plan a.b:c",
            "node",
            "node drain",
            "node drain ../x",
            "node --config a.toml drain w1",
            "deploy a.b:c",
            "scale a.b:c",
            "artifact info a.b:c",
            "events --after x",
            "events --after 1 --last 2",
            "events --subject colour",
            "kv watch --from x",
            "artifact remove a.b:c",
            "dev --http 70000",
            "dev --nodes 0",
            "dev --nodes 7",
            "status --output xml",
        ] {
            let error = parse(line).expect_err(line);
            assert_eq!(error.exit_code(), 2, "{line}: {error}");
        }
        assert_eq!(parse("").unwrap_err().exit_code(), 2, "no arguments");
    }

    #[test]
    fn an_argument_that_is_not_utf8_is_a_usage_error() {
        use std::os::unix::ffi::OsStringExt;
        let bad = OsString::from_vec(vec![0xff, 0xfe]);
        let args = ["aether", "update", "status"].map(OsString::from);
        let error = Cli::try_parse_from(args.into_iter().chain([bad])).unwrap_err();
        assert_eq!(error.exit_code(), 2);
    }

    #[test]
    fn a_huge_argument_is_not_repeated() {
        let error = parse(&format!("update routing u1 -r {}", "9".repeat(1 << 20))).unwrap_err();
        assert!(shortened(&error.render().to_string()).len() < 4_000);
    }
}
