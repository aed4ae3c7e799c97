//! What is kept of the reloads of an instance for the next agent: who runs with which
//! configuration, and which files are laid. It decides nothing.
//!
//! Agents of other releases read it too, and write it without what they do not know.
//! Hence fields are only ever added, each with a default, and what was always there goes
//! on to say what it said.

use std::fs;

use serde::{Deserialize, Serialize};

use crate::fsio::{Survives, write_atomic};
use crate::procfs::Process;
use crate::shim::spec::{Adopted, Layout};

/// The last reload of an instance.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Kept {
    /// Who was signalled, or is about to be, or has what is said here anyway.
    pub process: Process,
    /// Which reload it was; 0 for none.
    pub reload: u64,
    /// Digest of the configuration that was laid for it; empty for none.
    pub config: String,
    /// The signal was sent, or was not needed.
    pub done: bool,
    /// What is laid for those that come after the process; absent where an earlier
    /// release kept it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub laid: Option<Laid>,
}

/// The files that an instance has.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Laid {
    /// Digest of the configuration that they are of; empty for none.
    pub config: String,
    /// Who ran when the last of them was laid: whoever comes later begins with them.
    /// Absent while they are being laid, or if nobody ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beside: Option<Process>,
}

/// Which reload an instance has, and the configuration of it: absent if an earlier
/// release started it.
pub(super) type Settled = (u64, Option<String>);

/// Who runs while files are laid.
#[derive(Debug, Clone)]
pub(super) struct Runs {
    pub shim: Process,
    pub process: Option<Process>,
    /// What all processes of this shim began with while nothing was laid.
    pub began: Settled,
}

/// With what its shim was started.
pub(super) fn began(spec: &Adopted) -> Settled {
    (spec.reload, spec.config_digest.clone())
}

impl Kept {
    pub fn read(layout: &Layout) -> Option<Self> {
        serde_json::from_slice(&fs::read(layout.reload()).ok()?).ok()
    }

    pub fn write(&self, layout: &Layout) -> std::io::Result<()> {
        // With the machine the process goes too, and is started with its files.
        write_atomic(&layout.reload(), &serde_json::to_vec(self)?, Survives::Process)
    }

    /// Which reload the instance has, with its files. `None`: nobody knows.
    pub fn settled(&self) -> Option<Settled> {
        let has_files = |laid: &Laid| laid.config == self.config && laid.beside.is_some();
        let is_settled = self.done && self.laid.as_ref().is_none_or(has_files);
        is_settled.then(|| (self.reload, Some(self.config.clone())))
    }

    /// Digest of the configuration that a living process of the instance has read.
    /// `None`: nobody knows.
    pub fn read_by(&self, process: Process) -> Option<&str> {
        if self.done && self.process == process {
            return Some(&self.config);
        }
        // An instance has one process at a time.
        let laid = self.laid.as_ref()?;
        laid.beside.is_some_and(|beside| beside != process).then_some(&laid.config)
    }

    /// Files of this configuration are about to be laid: what is known of the process is
    /// kept first, so that it can go back to what it has without a signal.
    pub fn begin(layout: &Layout, runs: &Runs, config: &str) -> std::io::Result<()> {
        let known = match (Self::read(layout), runs.process, &runs.began) {
            (Some(kept), Some(process), _) => kept.read_by(process).map(|config| {
                let reload = if kept.process == process { kept.reload } else { 0 };
                (reload, config.to_owned())
            }),
            (None, Some(_), (reload, Some(config))) => Some((*reload, config.clone())),
            _ => None,
        };
        let done = known.is_some();
        let (reload, had) = known.unwrap_or_default();
        // Where nobody runs, its shim stands for nobody.
        let process = runs.process.unwrap_or(runs.shim);
        let laid = Some(Laid { config: config.to_owned(), beside: None });
        Self { process, reload, config: had, done, laid }.write(layout)
    }

    /// They are laid.
    pub fn end(layout: &Layout, runs: &Runs) -> std::io::Result<()> {
        let Some(beside) = runs.process.filter(Process::is_alive) else { return Ok(()) };
        let Some(kept) = Self::read(layout) else { return Ok(()) };
        let laid = kept.laid.map(|laid| Laid { beside: Some(beside), ..laid });
        Self { laid, ..kept }.write(layout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frozen::{kept, reads};

    fn process(pid: i32) -> Process {
        Process { pid, start_ticks: u64::MAX }
    }

    #[test]
    fn what_is_kept_of_a_reload_is_written_and_read_as_it_was() {
        let (process, config) = (process(i32::MAX), "0".repeat(64));
        let laid = Some(Laid { config: config.clone(), beside: Some(process) });
        for (name, laid) in [("reload.json", None), ("reload-laid.json", laid)] {
            let (reload, config) = (u64::MAX, config.clone());
            let reload = Kept { process, reload, config, done: true, laid };
            let dir = tempfile::tempdir().unwrap();
            let layout = Layout::new(dir.path().to_owned());
            reload.write(&layout).unwrap();
            kept(name).holds(&fs::read(layout.reload()).unwrap());
            reads(&kept(name), &reload);
            assert_eq!(layout.reload().file_name().unwrap(), "reload.json");
        }
        let newer = r#"{"process":{"pid":2147483647,"start_ticks":18446744073709551615,"of":1},
            "reload":7,"config":"","done":false,"newer":{}}"#;
        let read = serde_json::from_str::<Kept>(newer).unwrap();
        let config = String::new();
        assert_eq!(read, Kept { process, reload: 7, config, done: false, laid: None });
    }

    #[test]
    fn who_runs_with_what_is_known_before_and_after_files_are_laid() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path().to_owned());
        let me = crate::procfs::this();
        let shim = process(1);
        let running = |process| Runs { shim, process, began: (3, Some("a".into())) };
        let kept = || Kept::read(&layout).unwrap();
        // Nothing was laid yet: whoever runs began with what its shim was started with.
        Kept::begin(&layout, &running(Some(me)), "b").unwrap();
        assert_eq!((kept().read_by(me), kept().reload), (Some("a"), 3));
        assert_eq!(kept().read_by(process(2)), None, "it may have some of each");
        assert_eq!(kept().settled(), None, "its files may be of another one");
        Kept::end(&layout, &running(Some(me))).unwrap();
        assert_eq!((kept().read_by(me), kept().read_by(process(2))), (Some("a"), Some("b")));
        assert_eq!(kept().settled(), None);
        // And back, by which it has both again.
        Kept::begin(&layout, &running(Some(me)), "a").unwrap();
        Kept::end(&layout, &running(Some(me))).unwrap();
        assert_eq!(kept().settled(), Some((3, Some("a".to_owned()))));
        // One that came later has what is laid, but of no reload that is known.
        Kept::begin(&layout, &running(Some(process(2))), "b").unwrap();
        assert_eq!((kept().read_by(process(2)), kept().reload), (Some("a"), 0));
        // It is gone at the end: who comes next may have begun before it.
        Kept::end(&layout, &running(Some(process(2)))).unwrap();
        assert_eq!(kept().read_by(process(4)), None);
        // While nobody runs nothing is known of anybody.
        Kept::begin(&layout, &running(None), "b").unwrap();
        assert!(!kept().done && kept().settled().is_none());
    }
}
