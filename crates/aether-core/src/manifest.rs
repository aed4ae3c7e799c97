//! `slice.toml`: how to run, probe and reach one artifact.
//!
//! This module reads and checks a manifest. What it asks for is carried out by
//! the agent; whether the artifact is known is the replicated state's business.

mod placement;
mod probe;
mod resources;

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::coordinates::Artifact;
use crate::duration::Millis;

pub use placement::Placement;
pub use probe::{Liveness, Probe, Readiness};
pub use resources::{ByteSize, ByteSizeError, Cpu, Resources};

/// Largest accepted manifest in bytes: it is replicated with every artifact.
pub const MANIFEST_BYTES_MAX: usize = 64 * 1024;

/// How to run, probe and reach one artifact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// What this is a manifest of.
    pub artifact: Artifact,
    /// The process to start.
    pub run: Run,
    /// When an instance counts as ready.
    #[serde(default)]
    pub ready: Readiness,
    /// On which nodes instances may run, and how they are spread.
    #[serde(default, skip_serializing_if = "Placement::is_anywhere")]
    pub placement: Placement,
    /// When an instance counts as alive; without this nothing is asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub live: Option<Liveness>,
    /// What an instance may use of its node.
    #[serde(default, skip_serializing_if = "Resources::is_unlimited")]
    pub resources: Resources,
    /// Which requests at the ingress go to this slice.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ingress: Vec<IngressRule>,
}

/// The process of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// Program and arguments. `${PORT}`, `${HOST}`, `${INSTANCE}`, `${VERSION}`,
    /// `${ARTIFACT_DIR}` and `${INSTANCE_DIR}` are substituted. A program with a
    /// slash but no leading one is relative to the artifact. The working
    /// directory is the instance's own.
    pub command: Vec<String>,
    /// Environment of the process, substituted likewise. `PORT`, `HOST`,
    /// `AETHER_INSTANCE`, `AETHER_SLICE` and `AETHER_VERSION` are always set.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Files of the artifact in which the same substitution is made, per
    /// instance, in the instance's own copy.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub config_files: Vec<String>,
    /// Signal that asks the process to stop.
    #[serde(default)]
    pub stop_signal: StopSignal,
    /// Signal at which the process reads its configuration files again, without
    /// letting go of a call. Absent: it has to be started anew for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reload_signal: Option<ReloadSignal>,
    /// How long the process has to end after the signal before it is killed.
    #[serde(default = "default_grace")]
    pub grace: Millis,
    /// How long calls in flight may take to end before the process is asked to
    /// stop all the same, which is then reported.
    #[serde(default = "default_drain")]
    pub drain: Millis,
}

fn default_grace() -> Millis {
    Millis(10_000)
}
fn default_drain() -> Millis {
    Millis(30_000)
}

/// A signal that asks a process to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum StopSignal {
    /// SIGTERM.
    #[default]
    #[serde(rename = "SIGTERM")]
    Term,
    /// SIGINT.
    #[serde(rename = "SIGINT")]
    Int,
    /// SIGQUIT, nginx's graceful stop.
    #[serde(rename = "SIGQUIT")]
    Quit,
    /// SIGHUP.
    #[serde(rename = "SIGHUP")]
    Hup,
    /// SIGUSR1.
    #[serde(rename = "SIGUSR1")]
    Usr1,
    /// SIGUSR2.
    #[serde(rename = "SIGUSR2")]
    Usr2,
}

/// A signal at which a process reads its configuration files again. None of those
/// that end a process by convention.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReloadSignal {
    /// SIGHUP, as most daemons have it.
    #[serde(rename = "SIGHUP")]
    Hup,
    /// SIGUSR1.
    #[serde(rename = "SIGUSR1")]
    Usr1,
    /// SIGUSR2.
    #[serde(rename = "SIGUSR2")]
    Usr2,
    /// SIGWINCH.
    #[serde(rename = "SIGWINCH")]
    Winch,
}

impl ReloadSignal {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Hup, Self::Usr1, Self::Usr2, Self::Winch];

    /// The name in a manifest.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hup => "SIGHUP",
            Self::Usr1 => "SIGUSR1",
            Self::Usr2 => "SIGUSR2",
            Self::Winch => "SIGWINCH",
        }
    }

    /// Whether the process is asked to stop by the same one.
    fn stops(self, stop: StopSignal) -> bool {
        matches!(
            (self, stop),
            (Self::Hup, StopSignal::Hup)
                | (Self::Usr1, StopSignal::Usr1)
                | (Self::Usr2, StopSignal::Usr2)
        )
    }
}

impl fmt::Display for ReloadSignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// One rule by which the ingress finds a slice. The longest matching path
/// wins; a rule with a host wins over one without.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IngressRule {
    /// Host to match exactly (without port), any if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Path prefix to match by whole segments.
    #[serde(default = "default_path")]
    pub path: String,
}

impl fmt::Display for IngressRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.host.as_deref().unwrap_or_default(), self.path)
    }
}

fn default_path() -> String {
    "/".to_owned()
}

/// Why a manifest was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ManifestError {
    /// Larger than [`MANIFEST_BYTES_MAX`].
    #[error("slice.toml is {0} bytes long; at most {MANIFEST_BYTES_MAX} are accepted")]
    TooLong(usize),
    /// Not TOML of the expected shape; the text points at the line.
    #[error("slice.toml cannot be read:\n{0}")]
    Syntax(String),
    /// Well-formed, but a value makes no sense.
    #[error("slice.toml: {field}: {problem}")]
    Value {
        /// Dotted path of the field.
        field: &'static str,
        /// What is wrong and what would be right.
        problem: String,
    },
}

impl Manifest {
    /// Reads and checks the text of a `slice.toml`.
    ///
    /// # Errors
    /// Syntax (with the line), unknown fields, and values that cannot work.
    pub fn parse(text: &str) -> Result<Self, ManifestError> {
        if text.len() > MANIFEST_BYTES_MAX {
            return Err(ManifestError::TooLong(text.len()));
        }
        let manifest: Self =
            toml::from_str(text).map_err(|e| ManifestError::Syntax(e.to_string()))?;
        manifest.check()?;
        Ok(manifest)
    }

    /// The text of a `slice.toml` that reads as this manifest.
    ///
    /// # Panics
    /// Never: a manifest has no value that TOML cannot hold.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("a manifest is a TOML document")
    }

    /// Checks the values of a manifest, however it was made.
    ///
    /// # Errors
    /// Names the first field whose value cannot work.
    pub fn check(&self) -> Result<(), ManifestError> {
        let bad =
            |field, problem: &str| Err(ManifestError::Value { field, problem: problem.to_owned() });
        if self.run.command.first().is_none_or(|program| program.is_empty()) {
            return bad("run.command", "names no program");
        }
        let texts = self.run.command.iter().chain(self.run.env.values());
        let texts = texts.chain(self.run.env.keys()).chain(&self.run.config_files);
        if texts.into_iter().any(|text| text.contains('\0')) {
            return bad("run", "a command, environment text or path holds a NUL byte");
        }
        if self.run.env.keys().any(|key| key.is_empty() || key.contains('=')) {
            return bad("run.env", "a name is empty or holds '='");
        }
        let leaves = |path: &String| {
            path.is_empty() || path.starts_with('/') || path.split('/').any(|part| part == "..")
        };
        if self.run.config_files.iter().any(leaves) {
            return bad("run.config_files", "a path is empty, absolute, or leaves the artifact");
        }
        if self.run.reload_signal.is_some_and(|reload| reload.stops(self.run.stop_signal)) {
            return bad("run.reload_signal", "must be another one than run.stop_signal");
        }
        if let Err(problem) = self.placement.check() {
            return bad("placement", &problem);
        }
        self.ready.check()?;
        self.live.iter().try_for_each(Liveness::check)?;
        self.resources.check()?;
        if self.ingress.iter().any(|rule| !is_path(&rule.path)) {
            return bad("ingress.path", "must start with '/', without spaces");
        }
        if self.ingress.iter().any(|rule| rule.host.as_ref().is_some_and(|host| !is_host(host))) {
            return bad("ingress.host", "must be a lower-case host name without a port");
        }
        Ok(())
    }
}

fn is_path(path: &str) -> bool {
    path.starts_with('/') && path.bytes().all(|b| b.is_ascii_graphic())
}

fn is_host(host: &str) -> bool {
    !host.is_empty()
        && host.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b".-".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = "artifact = 'org.example:a:1.0.0'\n[run]\ncommand = ['/bin/true']\n";

    #[test]
    fn small_manifest_gets_defaults() {
        let manifest = Manifest::parse(SMALL).unwrap();
        assert_eq!(manifest.run.stop_signal, StopSignal::Term);
        assert_eq!(manifest.run.grace, Millis(10_000));
        assert_eq!(manifest.ready.http, None);
        let text = manifest.to_toml();
        assert_eq!(Manifest::parse(&text).unwrap(), manifest);
    }

    #[test]
    fn probes_and_limits_are_read_and_written_again() {
        let manifest = Manifest::parse(&format!(
            "{SMALL}[ready]\ngrpc = ''\n[live]\nexec = ['./check', '${{PORT}}']\n\
             start_period = '10s'\n[resources]\nmemory = '256MiB'\ncpu = 0.5\nprocesses = 100\n"
        ))
        .unwrap();
        assert_eq!(manifest.ready.probe(), Probe::Grpc(String::new()));
        let live = manifest.live.as_ref().unwrap();
        assert_eq!(live.probe(), Probe::Exec(vec!["./check".into(), "${PORT}".into()]));
        assert_eq!((live.failures, live.start_period), (3, Millis(10_000)));
        let resources = &manifest.resources;
        assert_eq!(resources.memory, Some(ByteSize(256 << 20)));
        assert_eq!((resources.cpu, resources.processes), (Some(Cpu { millis: 500 }), Some(100)));
        assert_eq!(Manifest::parse(&manifest.to_toml()).unwrap(), manifest);
        let json = serde_json::to_string(&manifest).unwrap();
        assert_eq!(serde_json::from_str::<Manifest>(&json).unwrap(), manifest);
    }

    #[test]
    fn a_signal_to_reload_has_the_name_that_it_is_given() {
        for signal in ReloadSignal::ALL {
            let manifest =
                Manifest::parse(&format!("{SMALL}reload_signal = '{signal}'\n")).unwrap();
            assert_eq!(manifest.run.reload_signal, Some(signal));
            assert_eq!(Manifest::parse(&manifest.to_toml()).unwrap(), manifest);
        }
    }

    #[test]
    fn a_manifest_without_the_new_tables_is_written_as_before() {
        let json = serde_json::to_string(&Manifest::parse(SMALL).unwrap()).unwrap();
        for word in ["live", "resources", "grpc", "exec", "reload"] {
            assert!(!json.contains(word), "{json}");
        }
    }

    #[test]
    fn bad_manifests_name_the_field() {
        let with = |more: &str| Manifest::parse(&format!("{SMALL}{more}")).unwrap_err().to_string();
        assert!(with("grace = '10'").contains("unit"));
        assert!(with("colour = 'red'").contains("colour"));
        assert!(with("config_files = ['../etc/passwd']").contains("run.config_files"));
        assert!(with("config_files = [\"a\\u0000\"]").contains("NUL"));
        assert!(with("[ready]\nhttp = 'ready'").contains("ready.http"));
        assert!(with("[ready]\nfailures = 0").contains("failures"));
        assert!(with("[ready]\nhttp = '/'\ngrpc = ''").contains("at most one of http, grpc"));
        assert!(with("[ready]\nexec = []").contains("ready.exec"));
        assert!(with("[live]\nexec = ['a', \"b\\u0000\"]").contains("live.exec"));
        assert!(with("[live]\ngrpc = 'a b'").contains("live.grpc"));
        assert!(with("[live]\nfailures = 0").contains("live.failures"));
        assert!(with("[live]\nstart_period = '2h'").contains("live.start_period"));
        assert!(with("[live]\nsuccesses = 1").contains("successes"));
        assert!(with("[resources]\nmemory = '1MiB'").contains("4MiB to 64TiB"));
        assert!(with("[resources]\nmemory = 256").contains("string"));
        assert!(with("[resources]\ncpu = 0").contains("resources.cpu"));
        assert!(with("[resources]\ncpu = nan").contains("resources.cpu"));
        assert!(with("[resources]\nprocesses = 0").contains("resources.processes"));
        assert!(with("[[ingress]]\nhost = 'A:80'").contains("ingress.host"));
        assert!(with("stop_signal = 'SIGKILL'").contains("SIGKILL"));
        for signal in ["SIGKILL", "SIGTERM", "SIGSTOP", "SIGQUIT", "SIGINT", "HUP", "1", ""] {
            let refused = with(&format!("reload_signal = '{signal}'"));
            assert!(refused.contains("`SIGHUP`, `SIGUSR1`, `SIGUSR2`, `SIGWINCH`"), "{refused}");
        }
        let both = with("stop_signal = 'SIGUSR1'\nreload_signal = 'SIGUSR1'");
        assert!(both.contains("run.reload_signal: must be another one"), "{both}");
        assert!(matches!(
            Manifest::parse(&"#".repeat(MANIFEST_BYTES_MAX + 1)),
            Err(ManifestError::TooLong(_))
        ));
    }
}
