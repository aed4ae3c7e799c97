//! One node process.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use http::StatusCode;
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long a node may take to say whether it serves.
const ANSWER_MAX: Duration = Duration::from_secs(1);

/// What a node does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Roles {
    /// Votes and keeps the state.
    pub voter: bool,
    /// Runs instances.
    pub agent: bool,
    /// Takes HTTP requests for slices.
    pub ingress: bool,
}

impl Roles {
    /// A node of the control plane only.
    pub const VOTER: Self = Self { voter: true, agent: false, ingress: false };
    /// A node that runs and serves instances.
    pub const WORKER: Self = Self { voter: false, agent: true, ingress: true };
    /// Everything at once.
    pub const ALL: Self = Self { voter: true, agent: true, ingress: true };

    fn toml(self) -> String {
        let names = [("voter", self.voter), ("agent", self.agent), ("ingress", self.ingress)];
        let names = names.into_iter().filter(|(_, is)| *is).map(|(name, _)| format!("\"{name}\""));
        names.collect::<Vec<_>>().join(", ")
    }
}

/// Where a node listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    /// Client gRPC.
    pub grpc: SocketAddr,
    /// Management REST.
    pub http: SocketAddr,
    /// Other voters.
    pub peer: SocketAddr,
    /// Requests for slices.
    pub ingress: SocketAddr,
}

/// One node: its configuration file, and its process while it runs.
pub struct Node {
    /// Its name.
    pub name: String,
    /// What it does.
    pub roles: Roles,
    /// Where it listens.
    pub addresses: Addresses,
    /// Its own directory.
    pub dir: PathBuf,
    binary: PathBuf,
    child: Option<Child>,
    /// How long the log was when the process was started.
    log_bytes_before: u64,
}

/// What nodes are told of their cluster.
pub(crate) struct Common<'a> {
    pub cluster: &'a str,
    /// Names of the founding voters, and the addresses by which it reaches them.
    pub voters: &'a [(String, SocketAddr)],
    /// Client addresses of the voters.
    pub join: &'a [SocketAddr],
    /// More lines for the configuration files.
    pub extra: &'a str,
}

impl Node {
    /// Writes the configuration file of a node; starts nothing.
    pub(crate) fn prepare(
        name: &str,
        roles: Roles,
        addresses: Addresses,
        dir: &Path,
        binary: &Path,
        common: &Common<'_>,
    ) -> Result<Self> {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let node = Self {
            name: name.to_owned(),
            roles,
            addresses,
            dir: dir.to_owned(),
            binary: binary.to_owned(),
            child: None,
            log_bytes_before: 0,
        };
        std::fs::write(node.config(), node.toml(common))
            .with_context(|| format!("cannot write {}", node.config().display()))?;
        Ok(node)
    }

    fn toml(&self, common: &Common<'_>) -> String {
        let mut text = String::new();
        let join: Vec<String> = common.join.iter().map(|a| format!("\"{a}\"")).collect();
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "name = \"{}\"\ncluster = \"{}\"\ndata_dir = \"{}\"\nroles = [{}]\n\
             grpc = \"{}\"\nhttp = \"{}\"\npeer = \"{}\"\ningress = \"{}\"\njoin = [{}]\n",
            self.name,
            common.cluster,
            self.data_dir().display(),
            self.roles.toml(),
            self.addresses.grpc,
            self.addresses.http,
            self.addresses.peer,
            self.addresses.ingress,
            join.join(", "),
        );
        if self.roles.voter {
            for (name, peer) in common.voters {
                let _ = write!(text, "\n[[voters]]\nname = \"{name}\"\npeer = \"{peer}\"\n");
            }
        }
        text + common.extra
    }

    /// Its configuration file.
    pub fn config(&self) -> PathBuf {
        self.dir.join("node.toml")
    }

    /// Where it keeps its data.
    pub fn data_dir(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// The file with what it printed, in all its runs.
    pub fn log(&self) -> PathBuf {
        self.dir.join("node.log")
    }

    /// What it printed since it was last started; nothing if that cannot be
    /// read.
    pub fn printed(&self) -> String {
        let read = || {
            let mut log = File::open(self.log())?;
            log.seek(SeekFrom::Start(self.log_bytes_before))?;
            let mut bytes = Vec::new();
            log.read_to_end(&mut bytes)?;
            std::io::Result::Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        read().unwrap_or_default()
    }

    /// Its process id while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Whether its process runs: exists, and is not only waiting to be reaped.
    pub fn is_alive(&self) -> bool {
        let Some(pid) = self.pid() else { return false };
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // "pid (name) state …"; the name may hold anything but ends at the last ')'.
        stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
    }

    /// Starts the process. It ends when this process does.
    ///
    /// # Errors
    /// When it already runs or cannot be started.
    pub fn start(&mut self) -> Result<()> {
        self.start_under(&[])
    }

    /// Likewise by another program, such as strace with its arguments: the
    /// node's own are added. It must become the node, or be its tracer from aside
    /// (`strace -D`), so that signals and the exit status are the node's.
    ///
    /// # Errors
    /// When it already runs or cannot be started.
    pub fn start_under(&mut self, program: &[String]) -> Result<()> {
        if self.child.is_some() {
            bail!("node {} runs already", self.name);
        }
        let log = File::options().create(true).append(true).open(self.log())?;
        self.log_bytes_before = log.metadata()?.len();
        let binary = self.binary.as_os_str();
        let mut words = program.iter().map(OsStr::new).chain([binary]);
        let child = Command::new(words.next().unwrap_or(binary))
            .args(words)
            .args(["node", "--exit-with-parent", "--config"])
            .arg(self.config())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {program:?} {}", self.binary.display()))?;
        self.child = Some(child);
        Ok(())
    }

    /// Sends a signal; does nothing if it does not run.
    pub fn signal(&self, signal: Signal) {
        if let Some(child) = &self.child {
            // It may have ended by itself meanwhile.
            let _ = kill(Pid::from_raw(child.id() as i32), signal);
        }
    }

    /// `kill -9`, and waits until it is gone.
    pub fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        if let Some(mut child) = self.child.take() {
            let _ = child.wait();
        }
    }

    /// Whether it says that it serves.
    ///
    /// # Errors
    /// It does not answer in time, or says why not.
    pub async fn ready(&self) -> Result<()> {
        let uri = format!("http://{}/health/ready", self.addresses.http);
        let answer = tokio::time::timeout(ANSWER_MAX, get(&uri)).await;
        match answer.unwrap_or_else(|_| bail!("no answer in {ANSWER_MAX:?}")) {
            Ok((StatusCode::OK, _)) => Ok(()),
            Ok((_, why)) => bail!("node {} is not ready: {why}", self.name),
            Err(error) => Err(error.context(format!("node {} is not ready", self.name))),
        }
    }

    /// Asks it to end, and kills it if it does not within `grace`. Whether it
    /// ended by itself with success.
    pub async fn stop(&mut self, grace: Duration) -> bool {
        self.signal(Signal::SIGTERM);
        let deadline = tokio::time::Instant::now() + grace;
        while tokio::time::Instant::now() < deadline {
            match self.exited() {
                Some(success) => return success,
                None => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
        self.kill();
        false
    }

    /// Whether it ended, and with success. Forgets it then.
    pub fn exited(&mut self) -> Option<bool> {
        let Some(child) = &mut self.child else {
            return Some(true);
        };
        let status = child.try_wait().ok().flatten()?;
        self.child = None;
        Some(status.success())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

/// One small GET.
pub(crate) async fn get(uri: &str) -> Result<(StatusCode, String)> {
    let client = Client::builder(TokioExecutor::new()).build_http::<Empty<bytes::Bytes>>();
    let answer = client.get(uri.parse()?).await?;
    let status = answer.status();
    let body = answer.into_body().collect().await?.to_bytes();
    Ok((status, String::from_utf8(body.to_vec())?))
}
