//! Starts the shim of an instance.

use std::fs::{self, File};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;

use aether_core::ids::InstanceId;
use aether_core::records::Reason;
use tokio::process::{Child, Command};

use super::found::Past;
use super::{Instance, Shared};
use crate::directive::Work;
use crate::fsio::{self, Survives};
use crate::logs::About;
use crate::prepare;
use crate::shim::spec::{Layout, ShimSpec};

impl Instance {
    /// Takes a port, writes the specification, and starts the shim.
    pub(super) async fn launch(
        &mut self,
        work: &Arc<Work>,
        artifact_dir: PathBuf,
        past: &Past,
    ) -> Result<(), Reason> {
        let launch = Launch {
            id: self.id.clone(),
            shared: self.shared.clone(),
            layout: self.layout.clone(),
            work: work.clone(),
            artifact_dir,
            wish: self.listen.map(|listen| listen.port()),
            restarts: past.restarts,
            ends_in_a_row: past.ends_in_a_row,
        };
        let launched = tokio::task::spawn_blocking(move || launch.run()).await;
        let (listen, launched) = launched
            .unwrap_or_else(|error| (None, Err(Reason::new("shim_failed", error.to_string()))));
        self.listen = listen.or(self.listen);
        self.restarts = past.restarts;
        if let Some(mut child) = launched? {
            // Only to reap it, should it end while this agent is there.
            tokio::spawn(async move { child.wait().await });
        }
        Ok(())
    }
}

struct Launch {
    id: InstanceId,
    shared: Arc<Shared>,
    layout: Layout,
    work: Arc<Work>,
    artifact_dir: PathBuf,
    wish: Option<u16>,
    restarts: u32,
    ends_in_a_row: u32,
}

type Launched = Result<Option<Child>, Reason>;

impl Launch {
    /// Gives the address taken, even when the start fails: the next attempt
    /// asks for the same.
    fn run(self) -> (Option<SocketAddr>, Launched) {
        let owner = self.layout.dir().display().to_string();
        let port = match self.shared.ports.take(&owner, self.wish) {
            Ok(port) => port,
            Err(error) => return (None, Err(Reason::new("no_port", error.to_string()))),
        };
        let listen = SocketAddr::new(self.shared.config.bind_ip, port.number);
        (Some(listen), self.run_on(listen, port.lock))
    }

    fn run_on(&self, listen: SocketAddr, port_lock: File) -> Launched {
        let failed = |error: io::Error| {
            let shim = self.shared.config.shim.first();
            let shim = shim.map(|shim| shim.display().to_string()).unwrap_or_default();
            Reason::new("shim_failed", format!("the shim ('{shim}') cannot be started: {error}"))
        };
        fsio::create_private_dir(self.layout.dir()).map_err(failed)?;
        let Some(lock) = fsio::try_lock(&self.layout.lock()).map_err(failed)? else {
            return Ok(None); // Another agent was faster; its shim is found next.
        };
        fs::create_dir_all(self.layout.work()).map_err(failed)?;
        let outfit =
            prepare::outfit(&self.id, &self.work, listen, &self.artifact_dir, &self.layout)?;
        let spec = ShimSpec {
            instance: self.id.clone(),
            slice: self.work.slice.to_string(),
            artifact: self.work.artifact.to_string(),
            digest: self.work.digest.clone(),
            manifest: self.work.manifest.clone(),
            command: outfit.command,
            env: outfit.env,
            ready_exec: outfit.ready_exec,
            live_exec: outfit.live_exec,
            work_dir: self.layout.work(),
            listen,
            restart: self.shared.config.restart,
            logs: self.shared.config.logs,
            restarts: self.restarts,
            ends_in_a_row: self.ends_in_a_row,
            reload: self.work.reload,
            config_digest: Some(self.work.config_digest.clone().unwrap_or_default()),
        };
        let about = About {
            slice: self.work.slice.clone(),
            artifact: self.work.artifact.clone(),
            gone_wall_ms: None,
        };
        about.write(&self.layout.logs()).map_err(failed)?;
        let bytes = serde_json::to_vec(&spec).map_err(|error| failed(error.into()))?;
        // The specification first: it carries the counts on. Then the state of
        // the earlier shim goes, so that it cannot be taken for the new one's.
        fsio::write_atomic(&self.layout.spec(), &bytes, Survives::Process).map_err(failed)?;
        for stale in [self.layout.state(), self.layout.readiness(), self.layout.reload()] {
            match fs::remove_file(stale) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
                _ => {}
            }
        }
        self.spawn(port_lock, lock).map(Some).map_err(failed)
    }

    /// The shim inherits both locks: there is no moment at which nobody holds
    /// them, whenever either process is killed.
    fn spawn(&self, port_lock: File, lock: File) -> io::Result<Child> {
        let Some((program, arguments)) = self.shared.config.shim.split_first() else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "no command is set for it"));
        };
        Command::new(program)
            .args(arguments)
            .arg(self.layout.dir())
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(port_lock))
            .stdout(Stdio::from(lock))
            .stderr(Stdio::from(File::create(self.layout.shim_errors())?))
            .spawn()
    }
}
