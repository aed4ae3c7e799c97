//! Runs a slice's process: start, wait, restart with backoff, stop.

use std::fs;
use std::io::{self, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::cgroup::{self, Cgroups};
use super::control::{Board, Restart};
use super::enter;
use super::log_file::LogFile;
use super::spec::{End, Layout, Phase, ShimSpec, ShimState, port_is_free};
use crate::{fsio, procfs};

/// How long the pipes of an ended slice may stay open. They close with the last
/// process that holds them, and by then all were killed.
const PIPES_CLOSE_MAX: Duration = Duration::from_secs(1);

/// Time between two looks for processes that were killed and are still there.
const SWEEP_INTERVAL: Duration = Duration::from_millis(10);

/// How long such processes are waited for; after that they hang in the kernel,
/// and nothing can be done about them.
const SWEEP_MAX: Duration = Duration::from_secs(10);

/// What happens to a shim.
#[derive(Debug)]
pub(super) enum Event {
    /// The slice's process ended.
    Ended(ExitStatus),
    /// The slice's process does not answer its liveness probe.
    Restart(Restart),
    /// The agent wants the slice stopped.
    Stop,
}

/// Whether the slice goes on or is to end.
#[derive(Debug, PartialEq, Eq)]
enum Go {
    On,
    Stop,
}

/// One slice's process, over and over.
pub(super) struct Supervisor {
    spec: ShimSpec,
    layout: Layout,
    cgroups: Cgroups,
    board: Board,
    state: ShimState,
    events: Receiver<Event>,
    sender: SyncSender<Event>,
    stdout: Arc<Mutex<LogFile>>,
    stderr: Arc<Mutex<LogFile>>,
    /// The agent has asked for the end.
    asked_to_stop: bool,
}

impl Supervisor {
    /// Prepares to run what `spec` says, in the directory of `layout`.
    pub fn new(layout: Layout, spec: ShimSpec) -> io::Result<Self> {
        // Stops and one end at a time: neither sender ever waits for long.
        let (sender, events) = sync_channel(16);
        let board = Board::open(&layout, sender.clone())?;
        fs::create_dir_all(layout.logs())?;
        fs::create_dir_all(&spec.work_dir)?;
        let log = |name| Arc::new(Mutex::new(LogFile::new(layout.logs().join(name), spec.logs)));
        let name = cgroup::name_of(&spec.instance, layout.dir());
        let cgroups = Cgroups::make(&spec.manifest.resources, &name);
        let state = ShimState {
            boot_id: fsio::boot_id(),
            shim: procfs::this(),
            child: None,
            phase: Phase::Waiting,
            restarts: spec.restarts,
            ends_in_a_row: spec.ends_in_a_row,
            last_end: None,
            last_error_line: String::new(),
            killed: None,
            cgroups: cgroups.dirs(),
            unenforced: cgroups.unenforced.clone(),
        };
        let (stdout, stderr) = (log("stdout.log"), log("stderr.log"));
        let asked_to_stop = false;
        Ok(Self {
            spec,
            layout,
            cgroups,
            board,
            state,
            events,
            sender,
            stdout,
            stderr,
            asked_to_stop,
        })
    }

    /// Runs the slice until it was asked to stop and is gone.
    pub fn run(&mut self) {
        // Before the first start, so that whoever finds this shim killed knows
        // its session and with it every process it started.
        self.show(Phase::Waiting);
        let mut go = Go::On;
        while go == Go::On {
            let started = Instant::now();
            let kills = self.cgroups.oom_kills();
            go = match self.start() {
                Ok((process, pipes)) => match self.next_event() {
                    Event::Ended(status) => {
                        self.sweep(process);
                        self.close(pipes);
                        let end = self.end_of(status, kills);
                        self.wait_after(end, started.elapsed())
                    }
                    Event::Restart(restart) => {
                        let end = End::NotLive(restart.problem);
                        self.state.last_end = Some(end.clone());
                        self.stop(process, Phase::Restarting);
                        self.close(pipes);
                        match self.asked_to_stop {
                            true => Go::Stop,
                            false => self.wait_after(end, started.elapsed()),
                        }
                    }
                    Event::Stop => {
                        self.stop(process, Phase::Stopping);
                        self.close(pipes);
                        Go::Stop
                    }
                },
                Err(end) => self.wait_after(end, Duration::ZERO),
            };
        }
        cgroup::remove(&self.cgroups.dirs());
        self.state.child = None;
        self.show(Phase::Stopped);
    }

    /// What happens next to the process that runs.
    fn next_event(&self) -> Event {
        loop {
            match self.events.recv() {
                // Meant for an earlier process.
                Ok(Event::Restart(restart)) if Some(restart.process) != self.state.child => {}
                Ok(event) => return event,
                // The channel cannot close: this holds a sender.
                Err(_) => return Event::Stop,
            }
        }
    }

    /// How the process ended. `kills`: how many were killed before it started
    /// because there was no memory left.
    fn end_of(&self, status: ExitStatus, kills: u64) -> End {
        let failure = self.layout.enter_failure();
        if let Ok(problem) = fs::read_to_string(&failure) {
            let _ = fs::remove_file(failure);
            return End::NotStarted(problem);
        }
        // A shell passes on as 137 that what it ran was killed.
        let killed = status.signal() == Some(Signal::SIGKILL as i32) || status.code() == Some(137);
        match self.spec.manifest.resources.memory {
            Some(limit) if killed && self.cgroups.oom_kills() > kills => {
                End::OutOfMemory(limit.to_string())
            }
            _ => end_of(status),
        }
    }

    fn start(&mut self) -> Result<(Pid, Receiver<()>), End> {
        let listen = self.spec.listen;
        if !port_is_free(listen.ip(), listen.port()) {
            return Err(End::PortTaken(listen));
        }
        let mut child = self.spawn().map_err(|error| {
            let program = self.spec.command.first().map_or("", String::as_str);
            End::NotStarted(format!("'{program}': {error}"))
        })?;
        let (done, pipes) = sync_channel(2);
        if let Some(pipe) = child.stdout.take() {
            copy(pipe, self.stdout.clone(), done.clone());
        }
        if let Some(pipe) = child.stderr.take() {
            copy(pipe, self.stderr.clone(), done);
        }
        let pid = i32::try_from(child.id()).unwrap_or(0);
        self.state.child = procfs::stat(pid).map(|stat| stat.process);
        self.show(Phase::Running);
        let events = self.sender.clone();
        thread::spawn(move || wait_for(child, &events));
        Ok((Pid::from_raw(pid), pipes))
    }

    fn spawn(&self) -> io::Result<Child> {
        let Some((program, arguments)) = self.spec.command.split_first() else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "no program is named"));
        };
        let entrances = self.cgroups.entrances();
        let mut command = if entrances.is_empty() {
            let mut command = Command::new(program);
            command.args(arguments);
            command
        } else {
            let failure = self.layout.enter_failure();
            let _ = fs::remove_file(&failure); // Of a shim that was killed.
            // This very program, with the arguments that make it a shim.
            let mut own: Vec<_> = std::env::args_os().skip(1).collect();
            own.pop();
            let mut command = Command::new("/proc/self/exe");
            command.args(own).arg(enter::ENTER);
            command.args(enter::arguments(&failure, &entrances, &self.spec.command));
            command
        };
        command
            .env_clear()
            .envs(&self.spec.env)
            .current_dir(&self.spec.work_dir)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
    }

    /// Notes an end and waits for the time of the next start.
    fn wait_after(&mut self, end: End, up: Duration) -> Go {
        self.state.child = None;
        self.state.ends_in_a_row = self.spec.restart.in_a_row(self.state.ends_in_a_row, up);
        self.state.last_end = Some(end);
        self.state.last_error_line = lock(&self.stderr).last_line();
        self.show(Phase::Waiting);
        let until = Instant::now() + self.spec.restart.wait(self.state.ends_in_a_row);
        loop {
            match self.events.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Err(RecvTimeoutError::Timeout) => {
                    self.state.restarts = self.state.restarts.saturating_add(1);
                    return Go::On;
                }
                Ok(Event::Restart(_) | Event::Ended(_)) => {} // It has ended.
                Ok(Event::Stop) | Err(RecvTimeoutError::Disconnected) => return Go::Stop,
            }
        }
    }

    /// Signal, grace, kill; then everything that the slice left behind.
    fn stop(&mut self, process: Pid, phase: Phase) {
        self.show(phase);
        let _ = kill(process, self.spec.stop_signal()); // It may have ended.
        if !self.ended_within(self.spec.grace()) {
            self.state.killed = Some(format!(
                "it did not end within {:?} of {} and was killed",
                self.spec.grace(),
                self.spec.stop_signal()
            ));
            self.show(Phase::Stopping);
            loop {
                let _ = killpg(process, Signal::SIGKILL);
                if self.ended_within(SWEEP_MAX) {
                    break;
                }
            }
        }
        self.sweep(process);
    }

    fn ended_within(&mut self, time: Duration) -> bool {
        let until = Instant::now() + time;
        loop {
            match self.events.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(Event::Ended(_)) => return true,
                Ok(Event::Stop) => self.asked_to_stop = true,
                Ok(Event::Restart(_)) => {} // It is being stopped.
                Err(_) => return false,
            }
        }
    }

    /// Kills and reaps whatever is left of an ended slice. Its descendants are
    /// our children once their parents are gone, whatever group they chose.
    fn sweep(&self, group: Pid) {
        let _ = killpg(group, Signal::SIGKILL);
        let until = Instant::now() + SWEEP_MAX;
        while !reap_all() && Instant::now() < until {
            for stat in procfs::all() {
                if stat.parent == self.state.shim.pid && !stat.zombie {
                    let _ = kill(Pid::from_raw(stat.process.pid), Signal::SIGKILL);
                }
            }
            thread::sleep(SWEEP_INTERVAL);
        }
    }

    fn close(&self, pipes: Receiver<()>) {
        let until = Instant::now() + PIPES_CLOSE_MAX;
        for _ in 0..2 {
            let left = until.saturating_duration_since(Instant::now());
            let _ = pipes.recv_timeout(left); // Later output still goes to the log.
        }
    }

    fn show(&mut self, phase: Phase) {
        self.state.phase = phase;
        self.board.show(&self.state);
    }
}

/// Reaps ended children; true when there are none left, ended or not.
fn reap_all() -> bool {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => return false,
            Err(Errno::EINTR) | Ok(_) => {}
            Err(_) => return true,
        }
    }
}

/// Waits for the slice's process, and reaps what else ends meanwhile: it was
/// left to us by its parents.
fn wait_for(child: Child, events: &SyncSender<Event>) {
    let leader = Pid::from_raw(i32::try_from(child.id()).unwrap_or(0));
    let status = loop {
        match waitpid(None, None) {
            Ok(WaitStatus::Exited(pid, code)) if pid == leader => {
                break ExitStatus::from_raw((code & 0xff) << 8);
            }
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == leader => {
                break ExitStatus::from_raw(signal as i32);
            }
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => break ExitStatus::from_raw(0),
        }
    };
    let _ = events.send(Event::Ended(status)); // Fails only when the shim ends.
}

fn end_of(status: ExitStatus) -> End {
    match (status.code(), status.signal()) {
        (Some(code), _) => End::Status(code),
        (None, number) => {
            let number = number.unwrap_or(0);
            let name = Signal::try_from(number).map(|signal| signal.to_string());
            End::Signal(name.unwrap_or_else(|_| number.to_string()))
        }
    }
}

/// Copies a pipe to a log until its last writer is gone.
fn copy(mut pipe: impl Read + Send + 'static, log: Arc<Mutex<LogFile>>, done: SyncSender<()>) {
    thread::spawn(move || {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match pipe.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => lock(&log).write(&buffer[..read]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        let _ = done.send(()); // Nobody waits any more when it took too long.
    });
}

fn lock(log: &Mutex<LogFile>) -> std::sync::MutexGuard<'_, LogFile> {
    log.lock().unwrap_or_else(PoisonError::into_inner)
}
