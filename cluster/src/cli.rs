//! The command line, as a person or a script would use it.

use std::process::{Output, Stdio};

use anyhow::{Context, Result, bail};

use crate::Cluster;

/// What a verb said and how it ended.
#[derive(Debug, Clone)]
pub struct Said {
    /// Exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// Data.
    pub stdout: String,
    /// Talk.
    pub stderr: String,
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self {
            code: output.status.code(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }
}

impl Cluster {
    /// Runs a verb against the voters and returns what it said.
    ///
    /// # Errors
    /// When the binary cannot be run.
    pub async fn cli(&self, arguments: &[&str]) -> Result<Said> {
        let addresses: Vec<String> = self.control_plane().iter().map(ToString::to_string).collect();
        let output = tokio::process::Command::new(self.binary())
            .args(arguments)
            .env("AETHER_ADDR", addresses.join(","))
            .env("NO_COLOR", "1")
            // The contexts of whoever runs this are no part of it.
            .env("AETHER_CONFIG", "/dev/null")
            .stdin(Stdio::null())
            .output()
            .await
            .with_context(|| format!("cannot run {}", self.binary().display()))?;
        Ok(output.into())
    }

    /// Runs a verb that must succeed and returns what it printed as JSON.
    ///
    /// # Errors
    /// When it fails; says what it said.
    pub async fn json(&self, arguments: &[&str]) -> Result<serde_json::Value> {
        let said = self.cli(&[arguments, &["--output", "json"]].concat()).await?;
        if said.code != Some(0) {
            bail!("'aether {}' ended with {:?}: {}", arguments.join(" "), said.code, said.stderr);
        }
        serde_json::from_str(&said.stdout)
            .with_context(|| format!("'aether {}' printed {}", arguments.join(" "), said.stdout))
    }
}
