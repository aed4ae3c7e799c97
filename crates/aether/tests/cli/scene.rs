//! One scene: a fake node, a home directory, and a transcript of command lines.

use std::ffi::OsStr;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use tokio::process::Command;

use super::fake::Fake;

/// How long a command line may take on a machine that is busy.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// The scene.
pub struct Scene {
    /// The node that is asked.
    pub node: Fake,
    address: String,
    nobody: String,
    dir: TempDir,
    transcript: String,
}

impl Scene {
    /// A scene with a node that has no answers yet.
    pub async fn new() -> Self {
        let node = Fake::default();
        let address = node.serve().await;
        let nobody = {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            listener.local_addr().unwrap().to_string()
        };
        Self { node, address, nobody, dir: TempDir::new().unwrap(), transcript: String::new() }
    }

    /// The program with nothing of this machine's environment but the node.
    pub fn command<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = self.bare(arguments);
        command.env("AETHER_ADDR", &self.address).env("AETHER_ACTOR", "tester");
        command.env("AETHER_TIMEOUT", "30s");
        command
    }

    /// The program with nothing of this machine's environment at all.
    pub fn bare<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_aether"));
        command.args(arguments).env_clear().env("HOME", self.dir.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.kill_on_drop(true);
        command
    }

    /// Where the node is.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Where nobody is.
    pub fn nobody(&self) -> &str {
        &self.nobody
    }

    /// The scene's own directory, which is also the home.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A file of the scene.
    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Runs a line of words and writes down what came of it.
    pub async fn run(&mut self, line: &str) -> Output {
        let command = self.command(line.split_whitespace());
        self.run_command(&format!("aether {line}"), command).await
    }

    /// Runs several lines, one after the other.
    pub async fn run_all(&mut self, lines: &[&str]) {
        for line in lines {
            self.run(line).await;
        }
    }

    /// Runs a command and writes it down as `title`.
    pub async fn run_command(&mut self, title: &str, mut command: Command) -> Output {
        let output = tokio::time::timeout(PATIENCE, command.output())
            .await
            .unwrap_or_else(|_| panic!("'{title}' did not end"))
            .unwrap();
        let (stdout, stderr) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(!stderr.contains("panicked"), "'{title}': {stderr}");
        let _ = writeln!(self.transcript, "$ {title}\nexit {}", exit_code(&output));
        let mut all = self.node.take_asked();
        // How often something is looked at depends on how fast this machine is.
        all.dedup();
        for asked in all {
            let _ = writeln!(self.transcript, "asked {asked}");
        }
        for (name, text) in [("stdout", &stdout), ("stderr", &stderr)] {
            if !text.is_empty() {
                let end = if text.ends_with('\n') { "" } else { "(no line end)\n" };
                let _ = write!(self.transcript, "--- {name}\n{text}{end}");
            }
        }
        self.transcript.push('\n');
        output
    }

    /// What was written down so far.
    pub fn transcript(&self) -> &str {
        &self.transcript
    }

    /// Writes something else down.
    pub fn note(&mut self, text: &str) {
        let _ = writeln!(self.transcript, "{text}\n");
    }

    /// Compares the transcript with the one that is kept under this name.
    pub fn ends(self, name: &str) {
        let text = self.steady(&self.transcript);
        let mut settings = insta::Settings::clone_current();
        settings.set_prepend_module_to_snapshot(false);
        settings.set_omit_expression(true);
        settings.bind(|| insta::assert_snapshot!(name, text));
    }

    /// A text without what differs from run to run.
    pub fn steady(&self, text: &str) -> String {
        let text = text
            .replace(&self.address, "NODE")
            .replace(&self.nobody, "NOBODY")
            .replace(&self.dir.path().display().to_string(), "DIR")
            .replace(concat!("aether ", env!("CARGO_PKG_VERSION")), "aether VERSION");
        let lines: Vec<String> = text.lines().map(steady_line).collect();
        lines.join("\n")
    }
}

/// A line with request ids and watched times made equal.
fn steady_line(line: &str) -> String {
    const ID: &str = "cli-";
    const ID_CHARS: usize = 32;
    let mut steady = line.to_owned();
    if let Some(begin) = line.find(ID).map(|at| at + ID.len())
        && let Some(id) = line.get(begin..begin + ID_CHARS)
        && id.chars().all(|c| c.is_ascii_hexdigit())
    {
        steady = line.replace(id, "ID");
    }
    match steady.strip_prefix('[').and_then(|rest| rest.split_once("s]")) {
        Some((time, rest)) if time.trim().parse::<f64>().is_ok() => format!("[   TIME]{rest}"),
        _ => steady,
    }
}

/// How a process ended.
pub fn exit_code(output: &Output) -> String {
    match output.status.code() {
        Some(code) => code.to_string(),
        None => output.status.to_string(),
    }
}
