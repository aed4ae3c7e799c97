//! Logs of instances that are gone: where they are, whose they were, and how
//! much of them is kept.
//!
//! When an instance is gone, its logs stay on its node. The node keeps those of
//! the last [`INSTANCES_MAX`] of them, and of these as many as fit into
//! [`BYTES_MAX`]; the oldest go first. There is no limit of age.

use std::io;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;
use std::{collections::BTreeMap, fs};

use aether_core::coordinates::{Artifact, SliceName, Version};
use aether_core::ids::InstanceId;
use serde::{Deserialize, Serialize};

use crate::fsio::{self, Survives};

/// Instances whose logs are kept after they are gone: ten failed updates of
/// three instances each.
const INSTANCES_MAX: usize = 32;

/// Bytes of the logs that are kept of them, in all. The logs of the last one
/// are kept whatever their size, which has a bound of its own.
const BYTES_MAX: u64 = 512 << 20;

/// The file beside the logs of an instance that says whose they are. In the
/// same directory, so that one rename puts both away.
const ABOUT: &str = "instance.json";

/// Whose logs a directory holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct About {
    pub slice: SliceName,
    pub artifact: Artifact,
    /// Wall clock in milliseconds since 1970 of when they were put away.
    pub gone_wall_ms: Option<u64>,
}

impl About {
    /// Reads it; absent where it never was or cannot be read.
    fn read(logs: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(logs.join(ABOUT)).ok()?).ok()
    }

    /// Writes it into a directory of logs, which is made if need be.
    pub fn write(&self, logs: &Path) -> io::Result<()> {
        fsio::create_private_dir(logs)?;
        fsio::write_atomic(&logs.join(ABOUT), &serde_json::to_vec(self)?, Survives::Process)
    }
}

/// Where the logs of an instance are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// Where its shim writes them, perhaps soon.
    Live(PathBuf),
    /// Put away: nobody writes there any more.
    Kept(PathBuf),
}

impl Place {
    pub fn dir(&self) -> &Path {
        match self {
            Self::Live(dir) | Self::Kept(dir) => dir,
        }
    }
}

fn instances_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("instances")
}

fn kept_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("logs")
}

/// Finds the logs of an instance that is or was here.
pub(super) fn find(data_dir: &Path, id: &InstanceId) -> Option<Place> {
    let instance = instances_dir(data_dir).join(id.as_str());
    let (live, kept) = (instance.join("logs"), kept_dir(data_dir).join(id.as_str()));
    // In this order: they are moved from the one to the other, and the rest of
    // the instance's directory goes later.
    if live.is_dir() {
        return Some(Place::Live(live));
    }
    if kept.is_dir() {
        return Some(Place::Kept(kept));
    }
    // It is there before its logs are.
    instance.is_dir().then_some(Place::Live(live))
}

/// What is known of the logs of one instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Known {
    pub about: Option<About>,
    /// How long the instance has been gone, in milliseconds.
    pub gone_ms: Option<u64>,
}

fn known(place: &Place, now_wall_ms: u64) -> Known {
    let about = About::read(place.dir());
    let gone_ms = matches!(place, Place::Kept(_))
        .then(|| now_wall_ms.saturating_sub(gone_wall_ms(place.dir(), about.as_ref())));
    Known { about, gone_ms }
}

/// What is known of the logs of one instance.
pub(super) fn find_one(data_dir: &Path, id: &InstanceId) -> Option<Known> {
    Some(known(&find(data_dir, id)?, fsio::wall_ms()))
}

/// All logs of a version of a slice that the node has.
pub(super) fn find_all(
    data_dir: &Path,
    slice: &SliceName,
    version: &Version,
) -> BTreeMap<InstanceId, Known> {
    let now_wall_ms = fsio::wall_ms();
    // Live ones first: what is put away meanwhile is seen twice, but not missed.
    let dirs = [instances_dir(data_dir), kept_dir(data_dir)];
    let entries = dirs.iter().flat_map(fs::read_dir).flatten().flatten();
    let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<InstanceId>().ok());
    let mut all = BTreeMap::new();
    for id in ids {
        let Some(known) = find(data_dir, &id).map(|place| known(&place, now_wall_ms)) else {
            continue;
        };
        let asked = |about: &About| about.slice == *slice && about.artifact.version == *version;
        if known.about.as_ref().is_some_and(asked) {
            all.insert(id, known);
        }
    }
    all
}

/// When logs were put away; what their directory tells where nothing else does.
fn gone_wall_ms(logs: &Path, about: Option<&About>) -> u64 {
    let noted = about.and_then(|about| about.gone_wall_ms);
    noted.unwrap_or_else(|| {
        let changed = fs::metadata(logs).and_then(|meta| meta.modified()).ok();
        let since = changed.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    })
}

/// Removes the directory of an instance that is gone, except for its logs,
/// which are put away. Done again after a crash, it goes on where it was.
pub(crate) fn put_away(data_dir: &Path, id: &InstanceId) -> io::Result<()> {
    let (dir, kept) = (instances_dir(data_dir).join(id.as_str()), kept_dir(data_dir));
    let logs = dir.join("logs");
    if logs.is_dir() {
        let target = kept.join(id.as_str());
        fsio::create_private_dir(&kept)?;
        fsio::remove_tree(&target)?;
        if let Some(about) = About::read(&logs) {
            // On a full disk the time of the directory has to do.
            let _ = About { gone_wall_ms: Some(fsio::wall_ms()), ..about }.write(&logs);
        }
        fs::rename(&logs, target)?;
        prune(&kept, INSTANCES_MAX, BYTES_MAX)?;
    }
    fsio::remove_tree(&dir)
}

/// Removes the oldest logs beyond the bounds. Others may do so at the same time.
fn prune(kept: &Path, instances_max: usize, bytes_max: u64) -> io::Result<()> {
    let mut all: Vec<(u64, PathBuf)> = fs::read_dir(kept)?
        .flatten()
        .map(|entry| {
            let path = entry.path();
            (gone_wall_ms(&path, About::read(&path).as_ref()), path)
        })
        .collect();
    all.sort();
    let mut bytes = 0;
    for (nth, (_, path)) in all.iter().rev().enumerate() {
        let files = fs::read_dir(path).into_iter().flatten().flatten();
        let sizes = files.filter_map(|file| file.metadata().ok()).map(|meta| meta.len());
        bytes += sizes.sum::<u64>();
        if nth >= instances_max || (nth > 0 && bytes > bytes_max) {
            fsio::remove_tree(path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about(version: &str) -> About {
        About {
            slice: "org.example:a".parse().unwrap(),
            artifact: format!("org.example:a:{version}").parse().unwrap(),
            gone_wall_ms: None,
        }
    }

    fn id(text: &str) -> InstanceId {
        text.parse().unwrap()
    }

    /// An instance with a log of so many bytes.
    fn instance(data_dir: &Path, name: &str, about: Option<&About>, bytes: usize) {
        let logs = data_dir.join("instances").join(name).join("logs");
        fs::create_dir_all(&logs).unwrap();
        fs::write(logs.join("stdout.log"), vec![b'x'; bytes]).unwrap();
        if let Some(about) = about {
            about.write(&logs).unwrap();
        }
    }

    fn names(data_dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(data_dir.join("logs")).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn the_logs_of_the_last_few_instances_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        for n in 0..INSTANCES_MAX + 3 {
            let name = format!("i-{n:03}");
            instance(dir.path(), &name, Some(&about("1.0.0")), 1);
            put_away(dir.path(), &id(&name)).unwrap();
            assert!(!dir.path().join("instances").join(&name).exists());
            // Whatever the resolution of the clock.
            let logs = dir.path().join("logs").join(&name);
            About { gone_wall_ms: Some(n as u64), ..about("1.0.0") }.write(&logs).unwrap();
        }
        let names = names(dir.path());
        assert_eq!(names.len(), INSTANCES_MAX);
        assert_eq!(names[0], "i-003", "the oldest went first");
    }

    #[test]
    fn the_kept_logs_have_a_bound_in_bytes_that_the_last_one_may_exceed() {
        let dir = tempfile::tempdir().unwrap();
        for (n, bytes) in [400, 300, 300, 5_000].into_iter().enumerate() {
            let name = format!("i-{n}");
            instance(dir.path(), &name, None, bytes);
            put_away(dir.path(), &id(&name)).unwrap();
            let logs = dir.path().join("logs").join(&name);
            About { gone_wall_ms: Some(n as u64), ..about("1.0.0") }.write(&logs).unwrap();
            let room = 2 * fs::metadata(logs.join(ABOUT)).unwrap().len() + 700;
            prune(&dir.path().join("logs"), 9, room).unwrap();
            match n {
                1 => assert_eq!(names(dir.path()), ["i-0", "i-1"], "both fit exactly"),
                2 => assert_eq!(names(dir.path()), ["i-1", "i-2"]),
                3 => assert_eq!(names(dir.path()), ["i-3"]),
                _ => {}
            }
        }
    }

    #[test]
    fn a_crash_while_logs_are_put_away_loses_none() {
        let dir = tempfile::tempdir().unwrap();
        instance(dir.path(), "a-1-0", Some(&about("1.0.0")), 7);
        let kept = dir.path().join("logs");
        fs::create_dir_all(&kept).unwrap();
        // As far as it came: the rest of the instance is still there.
        fs::rename(dir.path().join("instances/a-1-0/logs"), kept.join("a-1-0")).unwrap();
        assert_eq!(find(dir.path(), &id("a-1-0")), Some(Place::Kept(kept.join("a-1-0"))));
        put_away(dir.path(), &id("a-1-0")).unwrap();
        assert_eq!(fs::read(kept.join("a-1-0/stdout.log")).unwrap().len(), 7);
        assert!(!dir.path().join("instances/a-1-0").exists());
    }

    #[test]
    fn logs_are_found_by_version_before_and_after_they_are_put_away() {
        let dir = tempfile::tempdir().unwrap();
        instance(dir.path(), "a-1-0", Some(&about("1.0.0")), 1);
        instance(dir.path(), "a-1-1", Some(&about("1.0.0")), 1);
        instance(dir.path(), "a-2-0", Some(&about("2.0.0")), 1);
        instance(dir.path(), "a-3-0", None, 1);
        for gone in ["a-1-1", "a-3-0"] {
            put_away(dir.path(), &id(gone)).unwrap();
        }
        fs::create_dir_all(dir.path().join("instances/a-4-0")).unwrap();
        let slice: SliceName = "org.example:a".parse().unwrap();
        let found = |slice: &SliceName, version: &str| {
            find_all(dir.path(), slice, &version.parse().unwrap())
        };
        let ones = found(&slice, "1.0.0");
        assert_eq!(ones.keys().map(InstanceId::as_str).collect::<Vec<_>>(), ["a-1-0", "a-1-1"]);
        assert_eq!(ones[&id("a-1-0")].gone_ms, None);
        assert!(ones[&id("a-1-1")].gone_ms.is_some());
        assert!(found(&slice, "3.0.0").is_empty());
        assert!(found(&"org.example:a@blue".parse().unwrap(), "1.0.0").is_empty());
        // By its id, also where nothing tells whose it was.
        let known = find_one(dir.path(), &id("a-3-0")).unwrap();
        assert!(known.about.is_none() && known.gone_ms.is_some());
        assert_eq!(find_one(dir.path(), &id("a-4-0")).unwrap().gone_ms, None);
        assert_eq!(find_one(dir.path(), &id("a-5-0")), None);
    }

    #[test]
    fn an_instance_without_logs_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("instances/a-1-0/work")).unwrap();
        put_away(dir.path(), &id("a-1-0")).unwrap();
        assert_eq!(find(dir.path(), &id("a-1-0")), None);
    }

    #[test]
    fn whose_logs_they_are_is_written_and_read_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let here = About {
            slice: "org.example:a@blue".parse().unwrap(),
            artifact: "org.example:a:1.2.3-rc.1".parse().unwrap(),
            gone_wall_ms: None,
        };
        let gone = About { gone_wall_ms: Some(u64::MAX), ..here.clone() };
        for (name, about) in [("instance.json", &here), ("instance-gone.json", &gone)] {
            let file = crate::frozen::kept(name);
            about.write(dir.path()).unwrap();
            file.holds(&fs::read(dir.path().join("instance.json")).unwrap());
            crate::frozen::reads(&file, about);
            fs::write(dir.path().join("instance.json"), file.bytes()).unwrap();
            assert_eq!(About::read(dir.path()).as_ref(), Some(about));
        }
        let newer =
            r#"{"slice":"org.example:a@blue","artifact":"org.example:a:1.2.3-rc.1","by":1}"#;
        assert_eq!(serde_json::from_str::<About>(newer).unwrap(), here);
    }
}
