//! The command line. One file per verb, with its flags, documentation and
//! code; what they share is in `global` (options and contexts), `client`,
//! `reach`, `exit`, `options`, `output`, `follow`, `confirm`, `interrupt`,
//! `progress`, `terminal` and `render`.

mod artifact;
mod client;
mod completions;
mod config;
mod confirm;
mod context;
mod demo;
mod deploy;
mod dev;
mod env;
mod events;
mod example_slice;
mod exit;
#[cfg(test)]
mod fake;
mod follow;
#[cfg(test)]
mod fuzz;
mod global;
mod interrupt;
mod kv;
mod logs;
mod man;
mod node;
mod nodes;
mod options;
mod output;
mod pages;
mod progress;
mod reach;
mod reconnect;
mod reference;
mod render;
mod scale;
mod shim;
mod slice_config;
mod slices;
mod snapshot;
mod status;
mod terminal;
mod undeploy;
mod update;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};

use exit::Failure;
use global::Global;
use output::{Format, Output};
use terminal::Colour;

/// What every help of the whole ends with.
const AFTER_HELP: &str = "\
A slice is a service that runs here as a number of instances. It is named
group:artifact, or group:artifact@env where it runs more than once; a version of
it is an artifact, group:artifact:version. An update moves a slice from one
version to another, beside each other and with an exact share of the traffic.

Examples:
  aether dev                                            a cluster on this machine
  aether artifact push ./my-slice-1.0.0
  aether deploy org.example:my-slice:1.0.0 --instances 3 --wait
  aether update start org.example:my-slice 2.0.0        beside the old, no traffic
  aether update routing current -r 1:3                  25 % to the new version
  aether update complete current --wait

Environment:
  AETHER_ADDR, AETHER_OUTPUT, AETHER_TIMEOUT, AETHER_ACTOR, AETHER_CONTEXT
      stand in for the options of the same name. A flag overrides the variable,
      which overrides the context, which overrides the default.
  AETHER_CONFIG
      the file of contexts [default: aether/config.toml in $XDG_CONFIG_HOME or
      ~/.config]
  NO_COLOR, CLICOLOR, CLICOLOR_FORCE
      whether there is colour, as elsewhere

Exit codes:
  0 done    1 failed    2 usage    3 no node answers, nothing was changed
  4 what was named is not there    5 the present state does not allow it
  6 it is not known whether it was done    130 Ctrl-C
  10 there is something to do (update plan --detailed-exitcode)

See also: 'aether VERB --help', 'aether man'";

/// Keeps services running while their versions change.
#[derive(Debug, Parser)]
#[command(
    name = "aether",
    version,
    arg_required_else_help = true,
    subcommand_required = true,
    after_help = AFTER_HELP
)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Move slices from one version to another
    #[command(subcommand)]
    Update(Box<update::Command>),
    /// Push, look at and remove artifacts
    #[command(subcommand)]
    Artifact(artifact::Command),
    Deploy(deploy::Deploy),
    Scale(scale::Scale),
    Undeploy(undeploy::Undeploy),
    Status(status::Status),
    Nodes(nodes::Nodes),
    Slices(slices::Slices),
    /// Say which version a slice is to have, and bring it about
    #[command(subcommand)]
    Env(env::Command),
    /// Push and look at what is laid over the artifacts of slices
    #[command(subcommand)]
    Config(slice_config::Command),
    Logs(logs::Logs),
    Events(events::Events),
    /// Look into the replicated KV store
    #[command(subcommand)]
    Kv(kv::Command),
    /// Back up the replicated state, and begin a cluster from a backup
    #[command(subcommand)]
    Snapshot(snapshot::Command),
    Node(node::Node),
    Dev(dev::Dev),
    Demo(demo::Demo),
    /// Choose which cluster to speak with
    #[command(subcommand)]
    Context(context::Command),
    Completions(completions::Completions),
    Man(man::Man),
    #[command(hide = true)]
    Reference(reference::Reference),
}

impl Command {
    /// Whether it speaks with a cluster. The others look at no context and no
    /// variable that is meant for those that do.
    fn asks_a_cluster(&self) -> bool {
        match self {
            Self::Node(node) => return node.asks_a_cluster(),
            Self::Snapshot(command) => return command.asks_a_cluster(),
            _ => {}
        }
        !matches!(
            self,
            Self::Dev(_)
                | Self::Demo(_)
                | Self::Context(_)
                | Self::Completions(_)
                | Self::Man(_)
                | Self::Reference(_)
        )
    }
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
    let colour = Colour::of_arguments(&args);
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => return usage(&error, colour),
    };
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn run(cli: Cli) -> Result<(), Failure> {
    let global = &cli.global;
    if cli.command.asks_a_cluster() {
        global.settle()?;
    }
    match cli.command {
        Command::Update(command) => command.run(global),
        Command::Artifact(command) => command.run(global),
        Command::Deploy(verb) => asking(verb.run(global)),
        Command::Scale(verb) => asking(verb.run(global)),
        Command::Undeploy(verb) => asking(verb.run(global)),
        Command::Status(verb) => asking(verb.run(global)),
        Command::Nodes(verb) => asking(verb.run(global)),
        Command::Slices(verb) => asking(verb.run(global)),
        Command::Env(verb) => asking(verb.run(global)),
        Command::Config(command) => command.run(global),
        Command::Logs(verb) => asking(verb.run(global)),
        Command::Events(verb) => asking(verb.run(global)),
        Command::Kv(command) => asking(command.run(global)),
        Command::Snapshot(command) => command.run(global),
        Command::Node(verb) => verb.run(global),
        Command::Dev(verb) => verb.run(),
        Command::Demo(verb) => verb.run(),
        Command::Context(command) => command.run(global),
        Command::Completions(verb) => verb.run(global),
        Command::Man(verb) => verb.run(global),
        Command::Reference(verb) => verb.run(global),
    }
}

/// Runs a verb that asks a cluster. One thread is plenty for one request.
fn asking(verb: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format!("cannot start: {error}")))?;
    let ended = runtime.block_on(interrupt::or_interrupted(verb));
    // Not waiting for a thread that reads an answer which will not come.
    runtime.shutdown_background();
    ended
}

/// Prints help, the version, or what is wrong with the arguments.
fn usage(error: &clap::Error, colour: Colour) -> ExitCode {
    let text = error.render();
    let shown = |coloured: bool| match coloured {
        true => text.ansi().to_string(),
        false => text.to_string(),
    };
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            match Output::new(Format::Table).text(&shown(colour.on_stdout())) {
                Ok(()) => ExitCode::SUCCESS,
                Err(failure) => failure.report(),
            }
        }
        _ => {
            let plain = text.to_string();
            let short = shortened(&plain);
            // An escape sequence must not be cut.
            let whole = short.trim_end() == plain.trim_end();
            let text = if whole { shown(colour.on_stderr()) } else { short };
            output::say(text.trim_end());
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
            "update pause u1 --why lunch",
            "update resume u1",
            "update promote u1 --full --force",
            "update start a.b:c 2.0.0 --auto",
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
            "snapshot save a.snap --stale --force",
            "snapshot inspect a.snap -o json",
            "snapshot restore a.snap --config node.toml --from-cluster old",
            "events --follow --after 12.1 --subject update/u1",
            "events -n 5 -s node",
            "artifact push .",
            "artifact list a.b:c",
            "artifact info a.b:c:1.0.0",
            "artifact remove a.b:c:1.0.0",
            "node --config a.toml --insecure",
            "dev --nodes 3 --data-dir x --http 8080 --grpc 8090 --ingress 8070",
            "demo --json --rate 100 --keep",
            "status -o YAML --color never --context prod",
            "context list",
            "context set prod --addr a:1,b:2 --timeout 5s --actor me -o json",
            "context set prod --unset addr,timeout",
            "completions bash",
            "man --dir x",
            "undeploy a.b:c --yes",
            "scale a.b:c -n 1 -y",
            "update rollback u1 --now --yes",
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
            "snapshot",
            "snapshot save",
            "snapshot restore a.snap",
            "artifact remove a.b:c",
            "dev --http 70000",
            "dev --nodes 0",
            "dev --nodes 7",
            "status --output xml",
            "status --color red",
            "status --context ../x",
            "context",
            "context set",
            "context set prod --unset colour",
            "completions tcsh",
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
