//! Stops writes before a disk is full.
//!
//! A voter whose log cannot grow any more has to end, and a cluster whose voters
//! all end that way serves nothing. So each voter watches the space left to its
//! log and snapshots, and below a floor it counts as *low*. What follows:
//!
//! - A low follower goes on appending, or there would be no quorum. It says so.
//! - A low leader hands over to a voter with space.
//! - Writes are refused, before they are in the log, while there is no majority
//!   of voters that answer and have space: each would be written by one whose
//!   disk is nearly full. Everything else goes on, reads too.
//!
//! With one fifth more than the floor a voter is no longer low, and writes go on
//! by themselves. The choice is [`stand`], a pure function; the rest carries it
//! out.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::statvfs::statvfs;
use tokio::time::{MissedTickBehavior, interval};

use crate::blocking;
use crate::handle::Handle;
use crate::node::{Attempt, Node};

/// How often it is looked: a disk that takes 100 MB a second loses 50 MB between
/// two looks, which is less than the smallest sensible floor.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long a voter may take to say how it stands.
const ASK_MAX: Duration = Duration::from_millis(400);

/// Space left to a voter's log and snapshots.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DiskStatus {
    /// The folder that has least.
    pub path: PathBuf,
    /// Bytes that may still be written there.
    pub free_bytes: u64,
    /// Below so many it is low.
    pub floor_bytes: u64,
    /// Whether it is: it was below the floor, and has not got clear of it since.
    pub low: bool,
}

impl DiskStatus {
    /// For people: `7340032 bytes are free in /x, and the floor is 67108864`.
    pub fn figures(&self) -> String {
        format!(
            "{} bytes are free in {}, and the floor is {}",
            self.free_bytes,
            self.path.display(),
            self.floor_bytes
        )
    }
}

/// What has to be free: what the settings ask for, and room for the next
/// snapshot, which is written beside the ones that are kept, and for the image,
/// which grows with it. Writing one is what frees the log. 0 asks for nothing.
fn floor(free_min_bytes: u64, snapshot_bytes: u64) -> u64 {
    match free_min_bytes {
        0 => 0,
        min => min.saturating_add(snapshot_bytes.saturating_mul(2)),
    }
}

/// Whether a voter is low now, that was or was not before.
fn is_low(was_low: bool, free_bytes: u64, floor_bytes: u64) -> bool {
    let enough = if was_low { floor_bytes.saturating_add(floor_bytes / 5) } else { floor_bytes };
    free_bytes < enough
}

/// How a voter stands, as the leader sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Space {
    Enough,
    Low,
    /// It does not answer.
    Unknown,
}

/// What the leader does about it.
#[derive(Debug, PartialEq, Eq)]
enum Stand {
    Write,
    /// It is low itself, and these are not.
    HandOver(Vec<usize>),
    /// No majority could go on: these are low.
    Refuse(Vec<usize>),
}

/// The leader's choice over the voters, of which it is the `me`-th.
fn stand(me: usize, voters: &[Space]) -> Stand {
    let those = |space| {
        let with = voters.iter().enumerate().filter(move |(_, voter)| **voter == space);
        with.map(|(at, _)| at).collect::<Vec<_>>()
    };
    let (low, enough) = (those(Space::Low), those(Space::Enough));
    if low.is_empty() {
        // Who only is silent is consensus' business.
        Stand::Write
    } else if enough.len() < voters.len() / 2 + 1 {
        Stand::Refuse(low)
    } else if low.contains(&me) {
        Stand::HandOver(enough)
    } else {
        Stand::Write
    }
}

/// Whether this leader takes proposals, and why not.
#[derive(Default)]
pub(crate) struct Refusal {
    /// Looked at by each proposal.
    refuses: AtomicBool,
    why: Mutex<Option<(String, bool)>>,
}

impl Refusal {
    /// Why a proposal is not taken now.
    pub fn check(&self) -> Result<(), Attempt> {
        if !self.refuses.load(Ordering::Relaxed) {
            return Ok(());
        }
        match &*self.why.lock().expect("no panic while held") {
            None => Ok(()),
            Some((why, true)) => Err(Attempt::NotDone(why.clone())),
            Some((why, false)) => Err(Attempt::NoSpace(why.clone())),
        }
    }

    /// Why no writes are taken, for people.
    pub fn reason(&self) -> Option<String> {
        self.why.lock().expect("no panic while held").as_ref().map(|(why, _)| why.clone())
    }

    /// Sets the reason, with whether it passes in a moment; tells if it is new.
    fn set(&self, why: Option<(String, bool)>) -> bool {
        let mut now = self.why.lock().expect("no panic while held");
        let kind = |why: &Option<(String, bool)>| why.as_ref().map(|(_, passes)| *passes);
        let is_new = kind(&now) != kind(&why);
        self.refuses.store(why.is_some(), Ordering::Relaxed);
        *now = why;
        is_new
    }
}

/// Bytes that may still be written into a folder.
pub(crate) fn free(path: &Path) -> io::Result<u64> {
    #[cfg(test)]
    if let Some(bytes) = crate::sim::free_bytes() {
        return Ok(bytes);
    }
    let found = statvfs(path)?;
    // Types differ between platforms.
    #[allow(clippy::useless_conversion, clippy::unnecessary_cast)]
    Ok(found.blocks_available() as u64 * found.fragment_size() as u64)
}

/// The folder with least space, and what may still be written there.
fn least(folders: &[PathBuf]) -> io::Result<(PathBuf, u64)> {
    let mut least: Option<(PathBuf, u64)> = None;
    for path in folders {
        let bytes = free(path)?;
        if least.as_ref().is_none_or(|(_, fewest)| bytes < *fewest) {
            least = Some((path.clone(), bytes));
        }
    }
    least.ok_or_else(|| io::Error::other("no folder is named"))
}

/// Looks for as long as the node runs.
pub(crate) async fn watch(node: Arc<Node>) {
    if node.config.disk_free_min_bytes == 0 {
        return;
    }
    let handle = Handle::new(node.clone());
    let folders = ["wal", "snapshots"].map(|part| node.config.data_dir.join(part)).to_vec();
    let mut failed = false;
    let mut ticks = interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !node.is_closed() {
        ticks.tick().await;
        let folders = folders.clone();
        // A network file system may let it hang.
        let looked = blocking::run(move || least(&folders)).await;
        match looked.map_err(io::Error::other).flatten() {
            Ok((path, free_bytes)) => {
                failed = false;
                note(&node, path, free_bytes);
            }
            // Perhaps it is the disk that goes; the log will say more.
            Err(error) if !failed => {
                failed = true;
                tracing::warn!(node = node.identity.node, %error, "free space can't be told");
            }
            Err(_) => {}
        }
        decide(&node, &handle).await;
    }
}

fn note(node: &Node, path: PathBuf, free_bytes: u64) {
    let snapshot_bytes = node.snapshots.current().map_or(0, |snapshot| snapshot.bytes);
    let floor_bytes = floor(node.config.disk_free_min_bytes, snapshot_bytes);
    let mut disk = node.disk.lock().expect("no panic while held");
    let was_low = disk.low;
    let low = is_low(was_low, free_bytes, floor_bytes);
    *disk = DiskStatus { path, free_bytes, floor_bytes, low };
    let (me, figures) = (&node.identity.node, disk.figures());
    if low && !was_low {
        tracing::error!(node = me, "the disk is nearly full: {figures}; free some space");
    } else if was_low && !low {
        tracing::info!(node = me, "there is space on the disk again: {figures}");
    }
}

/// As the leader: asks how the others stand, and takes writes or not.
async fn decide(node: &Node, handle: &Handle) {
    if !node.leader().is_leader {
        node.refusal.set(None);
        return;
    }
    let voters = handle.reports(ASK_MAX, |member| member.voter).await;
    let Some(me) = voters.iter().position(|(member, _)| member.raft_id == node.identity.raft_id)
    else {
        return;
    };
    let spaces: Vec<Space> = voters
        .iter()
        .map(|(_, report)| match report {
            Ok(report) if report.disk.low => Space::Low,
            Ok(_) => Space::Enough,
            Err(_) => Space::Unknown,
        })
        .collect();
    let figures = |those: &[usize]| {
        let one = |at: &usize| {
            let (member, report) = &voters[*at];
            let figures = report.as_ref().map(|report| report.disk.figures());
            format!("{}: {}", member.name, figures.unwrap_or_default())
        };
        those.iter().map(one).collect::<Vec<_>>().join("; ")
    };
    let (why, heirs) = match stand(me, &spaces) {
        Stand::Write => (None, Vec::new()),
        Stand::Refuse(low) => {
            let text = format!(
                "too few voters have space on their disks ({}); writes go on by themselves once \
                 there is some",
                figures(&low)
            );
            (Some((text, false)), Vec::new())
        }
        Stand::HandOver(heirs) => {
            let text = format!("the leader hands over, for its disk is full ({})", figures(&[me]));
            (Some((text, true)), heirs)
        }
    };
    if node.refusal.set(why) {
        match node.refusal.reason() {
            Some(reason) => {
                tracing::error!(node = node.identity.node, reason, "no writes are taken");
            }
            None => tracing::info!(node = node.identity.node, "writes are taken again"),
        }
    }
    for heir in heirs {
        match handle.transfer_leadership(Some(&voters[heir].0.name)).await {
            Ok(_) => return,
            Err(error) => {
                tracing::info!(node = node.identity.node, %error, "tried for want of space");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Space::{Enough, Low, Unknown};

    #[test]
    fn the_floor_leaves_room_for_the_snapshot_that_frees_the_log() {
        assert_eq!(floor(64, 0), 64);
        assert_eq!(floor(64, 100), 264);
        assert_eq!(floor(0, 100), 0, "it is switched off");
        assert_eq!(floor(u64::MAX, 1), u64::MAX);
    }

    #[test]
    fn a_voter_gets_clear_of_the_floor_before_it_counts_as_well() {
        assert!(!is_low(false, 100, 100));
        assert!(is_low(false, 99, 100));
        assert!(is_low(true, 119, 100));
        assert!(!is_low(true, 120, 100));
        assert!(!is_low(false, 0, 0) && !is_low(true, 0, 0), "without a floor");
    }

    #[test]
    fn writes_go_on_while_a_majority_answers_and_has_space() {
        for (voters, expected) in [
            (vec![Enough], Stand::Write),
            (vec![Low], Stand::Refuse(vec![0])),
            (vec![Enough, Low, Enough], Stand::Write),
            (vec![Low, Enough, Enough], Stand::HandOver(vec![1, 2])),
            (vec![Enough, Low, Low], Stand::Refuse(vec![1, 2])),
            (vec![Low, Low, Low], Stand::Refuse(vec![0, 1, 2])),
            // One that is away can't make up for one that is low.
            (vec![Enough, Low, Unknown], Stand::Refuse(vec![1])),
            (vec![Low, Enough, Unknown], Stand::Refuse(vec![0])),
            (vec![Enough, Unknown, Unknown], Stand::Write),
            (vec![Low, Low, Enough, Enough, Enough], Stand::HandOver(vec![2, 3, 4])),
        ] {
            assert_eq!(stand(0, &voters), expected, "{voters:?}");
        }
    }

    #[test]
    fn free_space_of_the_fullest_folder_counts() {
        let dir = tempfile::tempdir().unwrap();
        let (path, free) = least(&[dir.path().to_owned()]).unwrap();
        assert_eq!(path, dir.path());
        assert!(free > 0);
        assert!(least(&[dir.path().join("none")]).is_err());
    }
}
