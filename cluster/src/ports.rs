//! Ports for nodes, exclusive on this machine while they are leased.

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};

/// Between what agents hand to slices (below 30,000) and what the kernel hands
/// to outgoing connections (from 32,768): neither takes a port of ours in the
/// time between looking and listening.
const RANGE: std::ops::Range<u16> = 30_000..32_768;

/// A port that nobody else on this machine leases from here.
pub struct Lease {
    port: u16,
    // Held for its lock; the kernel lets go of it with the process.
    _lock: Flock<File>,
}

impl Lease {
    /// Finds a free port. Starts to look at a place that differs by process.
    pub fn take() -> Result<Self> {
        let dir = lock_dir()?;
        let start = std::process::id() as usize * 17 % RANGE.len();
        for k in 0..RANGE.len() {
            let port = RANGE.start + ((start + k) % RANGE.len()) as u16;
            if let Some(lease) = Self::of(&dir, port)? {
                return Ok(lease);
            }
        }
        bail!("no free port in {}..{}", RANGE.start, RANGE.end)
    }

    /// Finds free ports at fixed distances from a first one, which is that of
    /// the first lease.
    ///
    /// # Errors
    /// When there are none.
    pub fn take_pattern(distances: &[u16]) -> Result<Vec<Self>> {
        let dir = lock_dir()?;
        let reach = distances.iter().max().copied().unwrap_or(0);
        let firsts = RANGE.len().saturating_sub(usize::from(reach));
        let start = std::process::id() as usize * 17 % firsts.max(1);
        for k in 0..firsts {
            let first = RANGE.start + ((start + k) % firsts) as u16;
            let mut leases = Vec::new();
            for distance in distances {
                match Self::of(&dir, first + distance)? {
                    Some(lease) => leases.push(lease),
                    None => break,
                }
            }
            if leases.len() == distances.len() {
                return Ok(leases);
            }
        }
        bail!("no free ports in this pattern in {}..{}", RANGE.start, RANGE.end)
    }

    /// This port, unless somebody has it.
    fn of(dir: &Path, port: u16) -> Result<Option<Self>> {
        let file = File::create(dir.join(port.to_string()))
            .with_context(|| format!("cannot make a lock file in {}", dir.display()))?;
        let Ok(lock) = Flock::lock(file, FlockArg::LockExclusiveNonblock) else {
            return Ok(None);
        };
        let is_free = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
        Ok(is_free.then_some(Self { port, _lock: lock }))
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

fn lock_dir() -> Result<PathBuf> {
    let user = nix::unistd::getuid();
    let dir = std::env::temp_dir().join(format!("aether-cluster-ports-{user}"));
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    Ok(dir)
}
