//! A file system of its own in a file, whose power can be cut.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Sparse; much more than a test writes.
const SIZE_BYTES: u64 = 256 * 1024 * 1024;
/// Longer than a round: what nobody syncs is not to be written by the way.
const OPTIONS: &str = "loop,noatime,commit=300";

/// `EXT4_IOC_SHUTDOWN` with `EXT4_GOING_FLAGS_NOLOGFLUSH`: from now on nothing
/// reaches the disk, not even the journal that is in memory.
const CUT: &str = "\
import fcntl, os, struct, sys
files = [os.open(path, os.O_RDONLY) for path in sys.argv[1:]]
for file in files:
    fcntl.ioctl(file, 0x8004587D, struct.pack('I', 2))
";

/// An ext4 in a file; unmounted when dropped.
pub struct Disk {
    image: PathBuf,
    at: PathBuf,
}

impl Disk {
    /// Makes and mounts it. `None` where that can't be had: without root's
    /// rights, loop devices, e2fsprogs or Python.
    pub fn make(image: &Path, at: &Path) -> Option<Self> {
        std::fs::create_dir_all(at).unwrap();
        File::create(image).and_then(|file| file.set_len(SIZE_BYTES)).unwrap();
        let made = succeeds(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(image))
            && succeeds(Command::new("python3").args(["-c", CUT]));
        let disk = Self { image: image.to_owned(), at: at.to_owned() };
        let made = made && disk.try_mount();
        // A data directory is empty at first.
        made.then(|| std::fs::remove_dir(at.join("lost+found")).unwrap())?;
        Some(disk)
    }

    fn try_mount(&self) -> bool {
        let mut command = Command::new("mount");
        succeeds(command.args(["-o", OPTIONS]).arg(&self.image).arg(&self.at))
    }

    /// # Panics
    /// When it can't be mounted.
    pub fn mount(&self) {
        assert!(self.try_mount(), "{} can't be mounted", self.image.display());
    }

    /// Nothing runs on it any more.
    ///
    /// # Panics
    /// When something does.
    pub fn unmount(&self) {
        assert!(succeeds(Command::new("umount").arg(&self.at)), "{} is in use", self.at.display());
    }

    /// Where it is mounted.
    pub fn at(&self) -> &Path {
        &self.at
    }
}

/// Cuts the power of all of them.
///
/// # Panics
/// When the kernel refuses.
pub fn cut(disks: &[Disk]) {
    let paths = disks.iter().map(Disk::at);
    assert!(succeeds(Command::new("python3").args(["-c", CUT]).args(paths)), "no shutdown");
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: when a test fails, files may be open in it. Fails when it is
        // not mounted, which is well.
        succeeds(Command::new("umount").arg("--lazy").arg(&self.at));
    }
}

fn succeeds(command: &mut Command) -> bool {
    let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    quiet.status().is_ok_and(|status| status.success())
}
