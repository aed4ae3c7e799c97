//! Finds what a cluster left running.

use std::fs;
use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Kills every process that was started below a directory: shims and slices
/// outlive their node on purpose, so whoever made the directory cleans up.
/// Returns how many there were.
pub fn kill_all_below(dir: &Path) -> usize {
    let Some(needle) = dir.to_str() else { return 0 };
    let own = std::process::id() as i32;
    let mut killed = 0;
    let Ok(entries) = fs::read_dir("/proc") else {
        return 0;
    };
    for entry in entries.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let proc = entry.path();
        let mentions = |file: &str| {
            fs::read(proc.join(file)).is_ok_and(|bytes| contains(&bytes, needle.as_bytes()))
        };
        let inside = || fs::read_link(proc.join("cwd")).is_ok_and(|cwd| cwd.starts_with(dir));
        if pid != own && (mentions("cmdline") || mentions("environ") || inside()) {
            // It may have ended by itself meanwhile.
            if kill(Pid::from_raw(pid), Signal::SIGKILL).is_ok() {
                killed += 1;
            }
        }
    }
    killed
}

fn contains(bytes: &[u8], needle: &[u8]) -> bool {
    bytes.windows(needle.len()).any(|window| window == needle)
}
