//! The control groups that hold one instance to its limits.
//!
//! The shim makes them before its slice is started and removes them when it is
//! gone; the slice's process enters them by itself, before it becomes the
//! slice's program, so that nothing it ever does is outside. The shim stays
//! outside: it must not be killed for memory that the slice uses.
//!
//! Both versions of the kernel's interface are used, whichever has the
//! controller. What cannot be enforced is said, and the instance runs without.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use aether_core::ids::InstanceId;
use aether_core::manifest::Resources;
use sha2::{Digest as _, Sha256};

/// The group below which those of all instances of this machine are.
const BASE: &str = "aether";

/// Period of the processor quota, in microseconds: the kernel's default.
const CPU_PERIOD_US: u64 = 100_000;

/// Time between two attempts to remove a group whose processes were killed.
const REMOVE_INTERVAL: Duration = Duration::from_millis(10);

/// How long that is tried. What hangs in the kernel for longer stays behind,
/// with a group that holds nothing else.
const REMOVE_MAX: Duration = Duration::from_secs(2);

/// A file of a group, and what is written to it.
type Setting = (&'static str, String);

/// One controller's files, of both interfaces.
struct Limit {
    /// As in the manifest.
    name: &'static str,
    controller: &'static str,
    v2: Vec<Setting>,
    v1: Vec<Setting>,
}

/// The groups of one instance.
#[derive(Debug, Default)]
pub(super) struct Cgroups {
    /// The groups, one per hierarchy that is used.
    dirs: Vec<PathBuf>,
    /// File that counts the kills for want of memory.
    kills: Option<PathBuf>,
    /// Which limits are not enforced, and why.
    pub unenforced: Option<String>,
}

impl Cgroups {
    /// Makes the groups for the limits that are set; none without limits.
    pub fn make(resources: &Resources, name: &str) -> Self {
        let mut made = Self::default();
        if resources.is_unlimited() {
            return made;
        }
        let mounts = Mounts::find();
        let mut missing = Vec::new();
        for limit in limits(resources) {
            if let Err(problem) = made.enforce(&mounts, &limit, name) {
                missing.push(format!("{} ({problem})", limit.name));
            }
        }
        if !missing.is_empty() {
            made.unenforced = Some(missing.join(", "));
        }
        made
    }

    fn enforce(&mut self, mounts: &Mounts, limit: &Limit, name: &str) -> Result<(), String> {
        let (parent, files, unified) = mounts.parent_for(limit)?;
        let dir = parent.join(name);
        let text = |error: io::Error| format!("{}: {error}", dir.display());
        fs::create_dir_all(&dir).map_err(text)?;
        let mut files = files.iter();
        // The first file is the limit itself; the others refine it and are not
        // there on every kernel.
        let (file, value) = files.next().ok_or("no file is known for it")?;
        let written = fs::write(dir.join(file), value);
        if !self.dirs.contains(&dir) {
            self.dirs.push(dir.clone());
        }
        written.map_err(text)?;
        for (file, value) in files {
            let _ = fs::write(dir.join(file), value);
        }
        if limit.controller == "memory" {
            let file = if unified { "memory.events" } else { "memory.oom_control" };
            self.kills = Some(dir.join(file));
        }
        Ok(())
    }

    /// The files into which a process writes itself to enter.
    pub fn entrances(&self) -> Vec<PathBuf> {
        self.dirs.iter().map(|dir| dir.join("cgroup.procs")).collect()
    }

    /// The groups, for whoever has to remove them when this process is killed.
    pub fn dirs(&self) -> Vec<PathBuf> {
        self.dirs.clone()
    }

    /// How many processes were killed so far because there was no memory left.
    pub fn oom_kills(&self) -> u64 {
        let text = self.kills.as_ref().and_then(|file| fs::read_to_string(file).ok());
        text.as_deref().map_or(0, oom_kills_in)
    }
}

/// The count in `memory.events` or `memory.oom_control`.
fn oom_kills_in(text: &str) -> u64 {
    let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
    count.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
}

/// Removes groups whose processes were killed. Fine if they are not there.
pub(crate) fn remove(dirs: &[PathBuf]) {
    let until = Instant::now() + REMOVE_MAX;
    for dir in dirs {
        loop {
            match fs::remove_dir(dir) {
                // Killed processes leave it only when they have ended.
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {}
                _ => break,
            }
            if Instant::now() >= until {
                break;
            }
            thread::sleep(REMOVE_INTERVAL);
        }
    }
}

/// Name of an instance's groups. Instances of several clusters on one machine
/// may have the same id, but not the same directory.
pub(super) fn name_of(instance: &InstanceId, dir: &Path) -> String {
    let digest = Sha256::digest(dir.as_os_str().as_encoded_bytes());
    let hash: String = digest[..6].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{instance}-{hash}")
}

fn limits(resources: &Resources) -> Vec<Limit> {
    let mut limits = Vec::new();
    if let Some(memory) = resources.memory {
        let bytes = memory.0.to_string();
        limits.push(Limit {
            name: "memory",
            controller: "memory",
            // All of the instance is killed, not any one of its processes; and
            // swap is no way around the limit.
            v2: vec![
                ("memory.max", bytes.clone()),
                ("memory.swap.max", "0".to_owned()),
                ("memory.oom.group", "1".to_owned()),
            ],
            v1: vec![
                ("memory.limit_in_bytes", bytes.clone()),
                ("memory.memsw.limit_in_bytes", bytes),
            ],
        });
    }
    if let Some(cpu) = resources.cpu {
        let quota_us = u64::from(cpu.millis) * CPU_PERIOD_US / 1_000;
        limits.push(Limit {
            name: "cpu",
            controller: "cpu",
            v2: vec![("cpu.max", format!("{quota_us} {CPU_PERIOD_US}"))],
            v1: vec![("cpu.cfs_quota_us", quota_us.to_string())],
        });
    }
    if let Some(count) = resources.processes {
        let files = vec![("pids.max", count.to_string())];
        limits.push(Limit { name: "processes", controller: "pids", v2: files.clone(), v1: files });
    }
    limits
}

/// Where the hierarchies are mounted, and where in them this process is.
#[derive(Debug, Default)]
struct Mounts {
    /// The unified hierarchy.
    v2: Option<PathBuf>,
    /// Path of this process in it.
    v2_own: PathBuf,
    /// Controllers with a hierarchy of the older kind, with its mount point
    /// and the path of this process in it.
    v1: Vec<(String, PathBuf, PathBuf)>,
}

impl Mounts {
    fn find() -> Self {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        Self::read(&mounts, &own)
    }

    /// From the texts of `/proc/self/mountinfo` and `/proc/self/cgroup`.
    fn read(mounts: &str, own: &str) -> Self {
        let own: Vec<(&str, PathBuf)> = own
            .lines()
            .filter_map(|line| {
                let (_, rest) = line.split_once(':')?;
                let (controllers, path) = rest.split_once(':')?;
                Some((controllers, PathBuf::from(path.trim_start_matches('/'))))
            })
            .collect();
        let own_in = |controller: &str| {
            let found = own.iter().find(|(names, _)| match controller {
                "" => names.is_empty(),
                name => names.split(',').any(|one| one == name),
            });
            found.map(|(_, path)| path.clone()).unwrap_or_default()
        };
        let mut all = Self { v2_own: own_in(""), ..Self::default() };
        for line in mounts.lines() {
            // proc(5): the fields before " - " end with the mount's own
            // options; the fifth is the mount point. After it: type, source,
            // options of the file system.
            let Some((before, after)) = line.split_once(" - ") else { continue };
            let Some(point) = before.split(' ').nth(4).map(PathBuf::from) else { continue };
            let mut after = after.split(' ');
            match (after.next(), after.nth(1)) {
                (Some("cgroup2"), _) => all.v2 = Some(point),
                (Some("cgroup"), Some(options)) => {
                    for controller in
                        options.split(',').filter(|o| ["memory", "cpu", "pids"].contains(o))
                    {
                        all.v1.push((controller.to_owned(), point.clone(), own_in(controller)));
                    }
                }
                _ => {}
            }
        }
        all
    }

    /// The group below which a limit is made, with its files; and whether that
    /// is in the unified hierarchy.
    fn parent_for<'a>(&self, limit: &'a Limit) -> Result<(PathBuf, &'a [Setting], bool), String> {
        if let Some((_, point, own)) = self.v1.iter().find(|(name, ..)| name == limit.controller) {
            // Below its own group, so that what limits this node limits its
            // instances too. In a container that path may not be visible.
            let within = point.join(own);
            let parent = if within.is_dir() { within } else { point.clone() };
            return Ok((parent.join(BASE), &limit.v1, false));
        }
        let Some(mount) = &self.v2 else {
            return Err("this machine has no control groups".to_owned());
        };
        let parent = self.unified_parent(mount);
        enable(&parent, limit.controller)?;
        let base = parent.join(BASE);
        fs::create_dir_all(&base).map_err(|error| format!("{}: {error}", base.display()))?;
        enable(&base, limit.controller)?;
        Ok((base, &limit.v2, true))
    }

    /// A group without processes of its own, as the unified hierarchy demands:
    /// the unit's, when systemd put the node into a group below it
    /// (`Delegate=yes` and `DelegateSubgroup=`), or the root.
    fn unified_parent(&self, mount: &Path) -> PathBuf {
        let unit =
            self.v2_own.parent().filter(|unit| unit.extension().is_some_and(|e| e == "service"));
        unit.map_or_else(|| mount.to_owned(), |unit| mount.join(unit))
    }
}

/// Makes a controller available to the groups below one.
fn enable(parent: &Path, controller: &str) -> Result<(), String> {
    let file = parent.join("cgroup.subtree_control");
    let text = |error: io::Error| {
        format!(
            "controller '{controller}' is not available below {}: {error}; run the node as root, or in a systemd unit with Delegate=yes and DelegateSubgroup=node",
            parent.display()
        )
    };
    let enabled = fs::read_to_string(&file).map_err(text)?;
    if enabled.split_ascii_whitespace().any(|name| name == controller) {
        return Ok(());
    }
    fs::write(&file, format!("+{controller}")).map_err(text)
}

#[cfg(test)]
mod tests {
    use aether_core::manifest::{ByteSize, Cpu};

    use super::*;

    #[test]
    fn both_interfaces_are_found_in_the_kernels_words() {
        let unified = Mounts::read(
            "25 1 0:24 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n",
            "0::/system.slice/aether.service/node\n",
        );
        let mount = Path::new("/sys/fs/cgroup");
        assert_eq!(unified.v2.as_deref(), Some(mount));
        assert_eq!(unified.unified_parent(mount), mount.join("system.slice/aether.service"));
        let outside = Mounts::read("", "0::/user.slice/user-0.slice/session-1.scope\n");
        assert_eq!(outside.unified_parent(mount), mount);
        let older = Mounts::read(
            "30 25 0:26 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
             31 25 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
             32 25 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n",
            "4:memory:/a/b\n3:cpu,cpuacct:/\n1:name=systemd:/x\n",
        );
        let expected = [
            ("cpu".to_owned(), PathBuf::from("/sys/fs/cgroup/cpu,cpuacct"), PathBuf::new()),
            ("memory".to_owned(), PathBuf::from("/sys/fs/cgroup/memory"), PathBuf::from("a/b")),
        ];
        assert_eq!(older.v1, expected);
        assert_eq!(older.v2, None);
    }

    #[test]
    fn limits_become_the_kernels_values() {
        let resources = Resources {
            memory: Some(ByteSize(64 << 20)),
            cpu: Some(Cpu { millis: 1_500 }),
            processes: Some(7),
        };
        let values: Vec<_> = limits(&resources)
            .into_iter()
            .map(|limit| (limit.v1[0].clone(), limit.v2[0].clone()))
            .collect();
        let pair = |a, x: &str, b, y: &str| ((a, x.to_owned()), (b, y.to_owned()));
        assert_eq!(
            values,
            [
                pair("memory.limit_in_bytes", "67108864", "memory.max", "67108864"),
                pair("cpu.cfs_quota_us", "150000", "cpu.max", "150000 100000"),
                pair("pids.max", "7", "pids.max", "7"),
            ]
        );
    }

    #[test]
    fn a_limit_that_cannot_be_enforced_is_named_with_the_reason() {
        let resources = Resources { processes: Some(7), ..Resources::default() };
        let mut made = Cgroups::default();
        let problem = made.enforce(&Mounts::default(), &limits(&resources)[0], "a-1-0");
        assert!(problem.unwrap_err().contains("no control groups"));
        assert!(made.entrances().is_empty());
        // Without a controller, as below a group that was not delegated.
        let dir = tempfile::tempdir().unwrap();
        let mounts = Mounts { v2: Some(dir.path().to_owned()), ..Mounts::default() };
        let problem = made.enforce(&mounts, &limits(&resources)[0], "a-1-0").unwrap_err();
        assert!(problem.contains("'pids' is not available") && problem.contains("Delegate=yes"));
    }

    #[test]
    fn a_unified_hierarchy_gets_its_controllers_and_limits() {
        let dir = tempfile::tempdir().unwrap();
        let (root, base) = (dir.path(), dir.path().join(BASE));
        fs::create_dir(&base).unwrap();
        // A stand-in that holds what is written: whether the kernel takes it
        // is seen on a machine that has this interface.
        fs::write(root.join("cgroup.subtree_control"), "cpu memory pids").unwrap();
        fs::write(base.join("cgroup.subtree_control"), "cpu memory pids").unwrap();
        let mounts = Mounts { v2: Some(root.to_owned()), ..Mounts::default() };
        let resources = Resources { memory: Some(ByteSize(64 << 20)), ..Resources::default() };
        let mut made = Cgroups::default();
        made.enforce(&mounts, &limits(&resources)[0], "a-1-0").unwrap();
        let group = base.join("a-1-0");
        assert_eq!(fs::read_to_string(group.join("memory.max")).unwrap(), "67108864");
        assert_eq!(fs::read_to_string(group.join("memory.oom.group")).unwrap(), "1");
        assert_eq!(made.entrances(), [group.join("cgroup.procs")]);
        fs::write(group.join("memory.events"), "low 0\noom 3\noom_kill 2\noom_group_kill 1\n")
            .unwrap();
        assert_eq!(made.oom_kills(), 2);
    }
}
