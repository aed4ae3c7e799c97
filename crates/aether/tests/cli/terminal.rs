//! Terminals, Ctrl-C, and readers that go away.

use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::{sleep, timeout};

use super::answers::{artifact, lost, node, nodes, slice, slices, update};
use super::scene::{PATIENCE, Scene};
use aether_proto::v1;

/// The program on a pseudo terminal, which util-linux's `script` makes.
struct Terminal {
    child: Child,
    keys: ChildStdin,
    screen: ChildStdout,
    shown: String,
}

impl Terminal {
    fn new(scene: &Scene, line: &str, variables: &[(&str, &str)]) -> Self {
        let program = format!("exec {} {line}", env!("CARGO_BIN_EXE_aether"));
        let mut command = Command::new("script");
        command.args(["--quiet", "--return", "--command", &program, "/dev/null"]);
        command.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", scene.dir());
        command.env("AETHER_ADDR", scene.address()).env("AETHER_ACTOR", "tester");
        command.env("AETHER_TIMEOUT", "30s").env("TERM", "xterm").envs(variables.iter().copied());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = command.kill_on_drop(true).spawn().expect("'script' of util-linux runs");
        let (keys, screen) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self { child, keys, screen, shown: String::new() }
    }

    async fn see(&mut self) -> usize {
        let mut bytes = [0; 4096];
        let read = timeout(PATIENCE, self.screen.read(&mut bytes)).await;
        let read = read.unwrap_or_else(|_| panic!("nothing more after {:?}", self.shown));
        // At the end of a pseudo terminal there is an error instead.
        let read = read.unwrap_or(0);
        self.shown.push_str(&String::from_utf8_lossy(&bytes[..read]));
        read
    }

    async fn until_shown(&mut self, text: &str) {
        while !self.shown.contains(text) {
            assert!(self.see().await > 0, "it ended without {text:?}: {:?}", self.shown);
        }
    }

    async fn type_keys(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).await.unwrap();
        self.keys.flush().await.unwrap();
    }

    /// How it ended, and all that was shown.
    async fn ended(mut self) -> (Option<i32>, String) {
        while self.see().await > 0 {}
        let status = timeout(PATIENCE, self.child.wait()).await.expect("it ends").unwrap();
        (status.code(), self.shown)
    }
}

fn scene_with(scene: &Scene) {
    scene.node.will_answer("Slices/List", &slices(vec![slice(3, 3)]));
    scene.node.will_answer("Slices/Scale", &slice(1, 1));
    scene.node.will_answer("Slices/Undeploy", &v1::UndeployResponse::default());
    scene.node.will_answer("Cluster/Nodes", &nodes(vec![node("w1", "LOST", "OPEN")]));
    scene.node.will_answer("Artifacts/Remove", &v1::RemoveArtifactResponse::default());
    scene.node.will_answer("Cluster/ForgetNode", &v1::ForgetNodeResponse::default());
    let gone = v1::VoterChange { node: "n4".into(), stage: "DONE".into(), ..Default::default() };
    scene.node.will_answer("Voters/Remove", &gone);
    scene.node.will_answer("Cluster/SetNodeSchedule", &node("w1", "READY", "DRAINING"));
    for method in ["SetRouting", "Rollback", "Complete", "Undo", "Cleanup"] {
        scene.node.will_answer(&format!("Updates/{method}"), &update("ROUTING"));
    }
}

/// What asks, and the method that must not be called without a yes.
const ASKING: &[(&str, &str, &str)] = &[
    ("scale org.example:my-slice -n 1", "Slices/Scale", "3 instances, 3 ready. Scale"),
    ("undeploy org.example:my-slice", "Slices/Undeploy", "serves version 1.0.0 with 3 instances"),
    ("undeploy org.example:my-slice:1.0.0", "Slices/Undeploy", "serves version 1.0.0"),
    ("update rollback u1f --now", "Updates/Rollback", "every call of update u1f"),
    ("update rollback u1f --force", "Updates/Rollback", "out of reach"),
    ("update complete u1f --force", "Updates/Complete", "out of reach"),
    ("update undo u1f --force", "Updates/Undo", "may be too small for its calls"),
    ("update cleanup u1f", "Updates/Cleanup", "cannot be undone then"),
    ("artifact remove a.b:c:1.0.0", "Artifacts/Remove", "Remove a.b:c:1.0.0 from every node?"),
    ("node forget w1", "Cluster/ForgetNode", "w1 is LOST and has 3 instances. Forget"),
    ("node remove n4", "Voters/Remove", "Have n4 vote no more?"),
    ("update routing u1f -r 1:0 --force", "Updates/SetRouting", "at 1:0 whatever its capacity"),
];

#[tokio::test]
async fn what_cannot_be_taken_back_is_asked_for_on_a_terminal() {
    let scene = Scene::new().await;
    scene_with(&scene);
    let was_called = |method: &str| {
        let asked = scene.node.take_asked();
        asked.iter().any(|asked| asked.split(' ').next() == Some(method))
    };
    for (line, method, question) in ASKING {
        let mut answers = vec![("y\n", Some(0)), ("n\n", Some(1))];
        // Every way to say nothing, for one of them.
        if line.starts_with("scale") {
            answers.extend([("\n", Some(1)), ("\u{4}", Some(1)), ("YES\n", Some(0))]);
        }
        for (keys, code) in answers {
            let mut terminal = Terminal::new(&scene, line, &[]);
            terminal.until_shown("[y/N] ").await;
            assert!(!was_called(method), "'{line}' before the answer");
            terminal.type_keys(keys).await;
            let (ended, shown) = terminal.ended().await;
            assert_eq!(ended, code, "'{line}' and {keys:?}: {shown}");
            assert!(shown.contains(question), "'{line}': {shown}");
            assert_eq!(was_called(method), code == Some(0), "'{line}' and {keys:?}");
            assert_eq!(shown.contains("nothing was done"), code != Some(0), "{shown}");
        }
        let (ended, shown) = Terminal::new(&scene, &format!("{line} -y"), &[]).ended().await;
        assert!(
            ended == Some(0) && was_called(method) && !shown.contains("y/N"),
            "{line}: {shown}"
        );
    }
}

#[tokio::test]
async fn what_is_harmless_is_not_asked_for() {
    let scene = Scene::new().await;
    scene_with(&scene);
    for line in [
        "scale org.example:my-slice -n 2",
        "undeploy org.example:my-slice:2.0.0",
        "update rollback u1f",
        "update complete u1f",
        "update routing u1f -r 1:3",
        "update undo u1f",
        "node drain w1",
    ] {
        let (ended, shown) = Terminal::new(&scene, line, &[]).ended().await;
        assert!(ended == Some(0) && !shown.contains("y/N"), "'{line}': {ended:?} {shown}");
    }
}

#[tokio::test]
async fn ctrl_c_in_a_question_does_nothing() {
    let scene = Scene::new().await;
    scene_with(&scene);
    let mut terminal = Terminal::new(&scene, "undeploy org.example:my-slice", &[]);
    terminal.until_shown("[y/N] ").await;
    terminal.type_keys("\u{3}").await;
    let (ended, shown) = terminal.ended().await;
    assert_eq!(ended, Some(130), "{shown}");
    assert!(shown.ends_with('\n'), "the shell's prompt begins a line: {shown:?}");
    let asked = scene.node.asked();
    assert!(asked.iter().all(|asked| asked.starts_with("Slices/List")), "{asked:?}");
}

#[tokio::test]
async fn colour_is_for_terminals() {
    let scene = Scene::new().await;
    scene_with(&scene);
    const GREEN: &str = "\u{1b}[32mREADY";
    for (line, variables, coloured) in [
        ("slices org.example:my-slice", &[][..], true),
        ("slices org.example:my-slice", &[("NO_COLOR", "1")][..], false),
        ("slices org.example:my-slice", &[("CLICOLOR", "0")][..], false),
        ("slices org.example:my-slice", &[("TERM", "dumb")][..], false),
        ("slices org.example:my-slice --color never", &[][..], false),
        ("slices org.example:my-slice --color always", &[("NO_COLOR", "1")][..], true),
        ("slices org.example:my-slice -o json", &[][..], false),
        ("slices org.example:my-slice -o yaml", &[][..], false),
    ] {
        let (ended, shown) = Terminal::new(&scene, line, variables).ended().await;
        assert_eq!(ended, Some(0), "{shown}");
        assert_eq!(shown.contains(GREEN), coloured, "{variables:?} aether {line}: {shown}");
        assert_eq!(shown.contains('\u{1b}'), coloured, "{variables:?} aether {line}: {shown}");
    }
    for (variables, coloured) in [(&[][..], false), (&[("CLICOLOR_FORCE", "1")][..], true)] {
        let mut command = scene.command(["slices", "org.example:my-slice"]);
        let output = command.envs(variables.iter().copied()).output().await.unwrap();
        let stdout = String::from_utf8(output.stdout).unwrap();
        assert_eq!(stdout.contains(GREEN), coloured, "{variables:?} in a pipe: {stdout}");
    }
}

#[tokio::test]
async fn progress_is_for_terminals() {
    let scene = Scene::new().await;
    scene.node.will_answer("Updates/Start", &update("PENDING"));
    scene.node.will_stream("Updates/Watch", vec![Ok(update("DEPLOYING"))]);
    let line = "update start org.example:my-slice 2.0.0 --wait";
    let mut terminal = Terminal::new(&scene, line, &[]);
    terminal.until_shown("update u1f DEPLOYING, new 1/1, old 1/2 (1 UNREADY) (").await;
    terminal.type_keys("\u{3}").await;
    let (ended, shown) = terminal.ended().await;
    assert_eq!(ended, Some(130), "{shown}");
    let manifest = "artifact = 'org.example:my-slice:1.0.0'\n[run]\ncommand = ['./server']\n";
    scene.file("slice/slice.toml", manifest);
    scene.file("slice/server", "#!/bin/sh\n");
    // Held open, so that the line is there to be seen.
    scene.node.will_stream("Artifacts/Push", Vec::<Result<v1::Artifact, _>>::new());
    let push = format!("artifact push {}", scene.dir().join("slice").display());
    let mut terminal = Terminal::new(&scene, &push, &[]);
    terminal.until_shown("push org.example:my-slice:1.0.0 [").await;
    terminal.type_keys("\u{3}").await;
    assert_eq!(terminal.ended().await.0, Some(130));
    scene.node.will_answer("Artifacts/Push", &artifact());
    let output = scene.command(push.split(' ')).output().await.unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}

/// What goes on until somebody ends it, and the method that it asks.
fn endless(scene: &Scene) -> [(&'static str, &'static str); 2] {
    scene.node.will_stream("Updates/Watch", vec![Ok(update("ROUTING"))]);
    let line = v1::LogLine { instance_id: "i".into(), line: "x".into(), ..Default::default() };
    scene.node.will_stream("Slices/Logs", vec![Ok(line)]);
    [("update watch u1f -o json", "{"), ("logs org.example:my-slice -f", "i | x")]
}

fn interrupt(child: &Child) {
    let pid = Pid::from_raw(child.id().unwrap().try_into().unwrap());
    kill(pid, Signal::SIGINT).unwrap();
}

async fn end_of(child: &mut Child) -> ExitStatus {
    timeout(PATIENCE, child.wait()).await.expect("it ends").unwrap()
}

#[tokio::test]
async fn ctrl_c_ends_what_follows() {
    let scene = Scene::new().await;
    for (line, begins) in endless(&scene) {
        let mut child = scene.command(line.split(' ')).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut first = String::new();
        timeout(PATIENCE, stdout.read_line(&mut first)).await.unwrap().unwrap();
        assert!(first.starts_with(begins), "'{line}': {first}");
        interrupt(&child);
        assert_eq!(end_of(&mut child).await.code(), Some(130), "'{line}'");
        let (mut rest, mut said) = (String::new(), String::new());
        stdout.read_to_string(&mut rest).await.unwrap();
        child.stderr.take().unwrap().read_to_string(&mut said).await.unwrap();
        assert!(first.ends_with('\n') && rest.is_empty() && said.is_empty(), "{rest:?} {said:?}");
    }
}

#[tokio::test]
async fn a_reader_that_goes_away_ends_what_follows() {
    let scene = Scene::new().await;
    for (line, _) in endless(&scene) {
        let mut child = scene.command(line.split(' ')).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut first = String::new();
        timeout(PATIENCE, stdout.read_line(&mut first)).await.unwrap().unwrap();
        // As `head -1` does. Nothing more comes that could not be written.
        drop(stdout);
        assert_eq!(end_of(&mut child).await.code(), Some(0), "'{line}'");
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).await.unwrap();
        assert_eq!(said, "", "'{line}'");
    }
}

#[tokio::test]
async fn ctrl_c_in_a_write_says_that_its_outcome_is_not_known() {
    let scene = Scene::new().await;
    // No answer comes.
    scene.node.will_stream("Updates/Complete", Vec::<Result<v1::Update, _>>::new());
    let mut child = scene.command(["update", "complete", "u1f"]).spawn().unwrap();
    let asked = async {
        while scene.node.asked().is_empty() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, asked).await.expect("the node is asked");
    interrupt(&child);
    assert_eq!(end_of(&mut child).await.code(), Some(130));
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).await.unwrap();
    assert!(said.contains("it is not known whether this was carried out"), "{said}");
}

/// A write that nobody reads the answer of is made certain all the same.
#[tokio::test]
async fn a_write_is_not_given_up_because_nobody_reads() {
    let scene = Scene::new().await;
    scene.node.will_refuse(lost());
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = scene.command(["update", "complete", "u1f", "--timeout", "2s"]);
    let output = command.stdout(writer).output();
    let output = timeout(PATIENCE, output).await.unwrap().unwrap();
    assert_eq!(output.status.code(), Some(6), "{output:?}");
    scene.node.will_answer("Slices/List", &slices(vec![slice(3, 3)]));
    for line in ["--help", "--version", "completions bash", "man", "reference"] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = scene.command(line.split(' ')).stdout(writer).output().await.unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "'{line}': {output:?}");
    }
}
