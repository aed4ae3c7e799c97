//! Switches of the example slice, from arguments or the environment.
//!
//! [`SWITCHES`] holds each with its help, so that what can be set and what the
//! help says of it do not part.

use std::ffi::OsString;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// One switch: its name, what its value is called, if it takes one, and what it
/// does.
struct Switch(&'static str, Option<&'static str>, &'static str);

const SWITCHES: [Switch; 22] = [
    Switch("--once", Some("FILE"), "behave well until FILE exists; times count from then"),
    Switch("--start-delay", Some("TIME"), "not ready before"),
    Switch("--never-ready", None, "never ready"),
    Switch("--flap", Some("TIME"), "ready for that time, not ready for that time, and so on"),
    Switch("--hang-ready", None, "take the question whether it is ready, never answer it"),
    Switch("--fail-rate", Some("SHARE"), "answer 500 to that share (0 to 1) of calls, evenly"),
    Switch("--latency", Some("TIME"), "answer that much later"),
    Switch("--slow-rate", Some("SHARE"), "only that share of calls is later (1 unless set)"),
    Switch("--hang-rate", Some("SHARE"), "never answer that share of calls"),
    Switch("--cut-rate", Some("SHARE"), "break that share of answers off in the middle"),
    Switch("--crash-after", Some("TIME"), "end with status 101 after that time"),
    Switch("--crash-at-call", Some("N"), "end with status 101 at the N-th call"),
    Switch("--exit-after", Some("TIME"), "end with status 0 after that time"),
    Switch("--exit-on-start", Some("CODE"), "end at once with that status"),
    Switch("--no-listen", None, "run, but listen nowhere"),
    Switch("--listen-after", Some("TIME"), "listen only after that time"),
    Switch("--listen-elsewhere", None, "listen on some other port than the one it was given"),
    Switch("--ignore-sigterm", None, "do not stop when asked to"),
    Switch("--leak", Some("MIB"), "use that many MiB of memory more each second, up to 4 GiB"),
    Switch("--flood", Some("MIB"), "write that many MiB of lines to standard output each second"),
    Switch(
        "--version-file",
        Some("FILE"),
        "say that the version is FILE's word; read at SIGHUP again",
    ),
    Switch("--fork", None, "start a child that leaves its session and ignores every signal"),
];

const ABOUT: &str = "\
An HTTP server to try Aether with. Listens on HOST:PORT (127.0.0.1:8000 unless
set in the environment) and answers every path with its version and instance;
/ready tells whether it is ready, /slow?ms=N answers late, /echo sends the body
back; the two take no part in what the switches below do to calls.

Each switch can also be set in the environment: --fail-rate as FAIL_RATE, and so
on. A switch without a value is set there as 1 or 0.
";

/// What the switches do, as `--help` prints it.
pub fn usage() -> String {
    let mut text = ABOUT.to_owned();
    for Switch(name, value, help) in &SWITCHES {
        let form = format!("{name} {}", value.unwrap_or_default());
        text += &format!("\n  {form:<22} {help}");
    }
    text
}

/// How the slice behaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Address to listen on, `HOST`.
    pub ip: IpAddr,
    /// Port to listen on, `PORT`.
    pub port: u16,
    /// What it says its version is, `AETHER_VERSION`.
    pub version: String,
    /// What it says its name is, `AETHER_INSTANCE`.
    pub instance: String,
    /// Behaves well until this file exists.
    pub once: Option<PathBuf>,
    /// Not ready before.
    pub start_delay: Duration,
    /// Never ready.
    pub never_ready: bool,
    /// Half a period of being ready and not ready in turn.
    pub flap: Option<Duration>,
    /// Never answers whether it is ready.
    pub hang_ready: bool,
    /// Share of calls answered with 500, in millionths.
    pub fail_ppm: u32,
    /// Added to the answers that are slow.
    pub latency: Duration,
    /// Share of calls that are slow, in millionths.
    pub slow_ppm: u32,
    /// Share of calls that are never answered, in millionths.
    pub hang_ppm: u32,
    /// Share of answers that break off, in millionths.
    pub cut_ppm: u32,
    /// Ends with status 101 after that time.
    pub crash_after: Option<Duration>,
    /// Ends with status 101 at that call, counted from 1.
    pub crash_at_call: Option<u64>,
    /// Ends with status 0 after that time.
    pub exit_after: Option<Duration>,
    /// Ends at once with this status.
    pub exit_on_start: Option<u8>,
    /// Runs, but listens nowhere.
    pub no_listen: bool,
    /// Listens only after that time.
    pub listen_after: Duration,
    /// Listens on a port that nobody asked for.
    pub listen_elsewhere: bool,
    /// Does not stop when asked to.
    pub ignore_sigterm: bool,
    /// MiB of memory that are used more each second.
    pub leak_mib: u32,
    /// MiB that are written to standard output each second.
    pub flood_mib: u32,
    /// Where the version that it says is read, again at each SIGHUP.
    pub version_file: Option<PathBuf>,
    /// Starts a child that outlives it.
    pub fork: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: 8_000,
            version: "unknown".to_owned(),
            instance: "unknown".to_owned(),
            once: None,
            start_delay: Duration::ZERO,
            never_ready: false,
            flap: None,
            hang_ready: false,
            fail_ppm: 0,
            latency: Duration::ZERO,
            slow_ppm: 1_000_000,
            hang_ppm: 0,
            cut_ppm: 0,
            crash_after: None,
            crash_at_call: None,
            exit_after: None,
            exit_on_start: None,
            no_listen: false,
            listen_after: Duration::ZERO,
            listen_elsewhere: false,
            ignore_sigterm: false,
            leak_mib: 0,
            flood_mib: 0,
            version_file: None,
            fork: false,
        }
    }
}

/// A switch that is unknown or has no usable value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OptionsError(String);

impl fmt::Display for OptionsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for OptionsError {}

impl Options {
    /// Reads the environment, then the arguments, which win.
    ///
    /// # Errors
    /// Names the switch or variable that cannot be used.
    pub fn read(
        args: impl IntoIterator<Item = OsString>,
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, OptionsError> {
        let mut options = Self::default();
        if let Some(text) = env("HOST") {
            options.ip = value("HOST", &text)?;
        }
        if let Some(text) = env("PORT") {
            options.port = value("PORT", &text)?;
        }
        options.version = env("AETHER_VERSION").unwrap_or(options.version);
        options.instance = env("AETHER_INSTANCE").unwrap_or(options.instance);
        for Switch(switch, takes, _) in &SWITCHES {
            let name = switch.trim_start_matches('-').replace('-', "_").to_uppercase();
            match env(&name) {
                Some(text) if takes.is_none() && text == "0" => {}
                Some(text) => options.set(switch, &text)?,
                None => {}
            }
        }
        let mut args = args.into_iter().map(|arg| arg.to_string_lossy().into_owned());
        while let Some(arg) = args.next() {
            if let Some((switch, text)) = arg.split_once('=') {
                options.set(switch, text)?;
                continue;
            }
            match SWITCHES.iter().find(|Switch(name, ..)| *name == arg) {
                Some(Switch(_, None, _)) => options.set(&arg, "1")?,
                Some(Switch(_, Some(_), _)) => {
                    let text = args.next();
                    let text = text.ok_or_else(|| OptionsError(format!("{arg} needs a value")))?;
                    options.set(&arg, &text)?;
                }
                None => return Err(unknown(&arg)),
            }
        }
        Ok(options)
    }

    fn set(&mut self, switch: &str, text: &str) -> Result<(), OptionsError> {
        match switch {
            "--once" => self.once = Some(PathBuf::from(text)),
            "--start-delay" => self.start_delay = time(switch, text)?,
            "--never-ready" => self.never_ready = flag(switch, text)?,
            "--flap" => self.flap = Some(period(switch, text)?),
            "--hang-ready" => self.hang_ready = flag(switch, text)?,
            "--fail-rate" => self.fail_ppm = share(switch, text)?,
            "--latency" => self.latency = time(switch, text)?,
            "--slow-rate" => self.slow_ppm = share(switch, text)?,
            "--hang-rate" => self.hang_ppm = share(switch, text)?,
            "--cut-rate" => self.cut_ppm = share(switch, text)?,
            "--crash-after" => self.crash_after = Some(time(switch, text)?),
            "--crash-at-call" => self.crash_at_call = Some(value(switch, text)?),
            "--exit-after" => self.exit_after = Some(time(switch, text)?),
            "--exit-on-start" => self.exit_on_start = Some(value(switch, text)?),
            "--no-listen" => self.no_listen = flag(switch, text)?,
            "--listen-after" => self.listen_after = time(switch, text)?,
            "--listen-elsewhere" => self.listen_elsewhere = flag(switch, text)?,
            "--ignore-sigterm" => self.ignore_sigterm = flag(switch, text)?,
            "--leak" => self.leak_mib = value(switch, text)?,
            "--flood" => self.flood_mib = value(switch, text)?,
            "--version-file" => self.version_file = Some(PathBuf::from(text)),
            "--fork" => self.fork = flag(switch, text)?,
            _ => return Err(unknown(switch)),
        }
        Ok(())
    }
}

fn unknown(switch: &str) -> OptionsError {
    OptionsError(format!("'{switch}' is no switch of the example slice"))
}

fn value<T: FromStr<Err: fmt::Display>>(what: &str, text: &str) -> Result<T, OptionsError> {
    text.parse().map_err(|error| OptionsError(format!("{what} cannot be '{text}': {error}")))
}

fn time(what: &str, text: &str) -> Result<Duration, OptionsError> {
    humantime::parse_duration(text).map_err(|error| {
        OptionsError(format!("{what} cannot be '{text}': {error}; write it as 50ms or 2s"))
    })
}

/// A time that something is repeated after.
fn period(what: &str, text: &str) -> Result<Duration, OptionsError> {
    match time(what, text)? {
        Duration::ZERO => Err(OptionsError(format!("{what} must be above zero"))),
        time => Ok(time),
    }
}

fn flag(what: &str, text: &str) -> Result<bool, OptionsError> {
    match text {
        "1" | "true" => Ok(true),
        _ => Err(OptionsError(format!("{what} is set by 1, not by '{text}'"))),
    }
}

/// A share from 0 to 1, in millionths.
fn share(what: &str, text: &str) -> Result<u32, OptionsError> {
    let share: f64 = value(what, text)?;
    if !(0.0..=1.0).contains(&share) {
        return Err(OptionsError(format!("{what} must be from 0 to 1, not {text}")));
    }
    // In range by the check above.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    Ok((share * 1e6).round() as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(args: &[&str], env: &[(&str, &str)]) -> Result<Options, OptionsError> {
        Options::read(args.iter().map(Into::into), |name| {
            env.iter().find(|(key, _)| *key == name).map(|(_, text)| (*text).to_owned())
        })
    }

    #[test]
    fn switches_come_from_arguments_or_the_environment_and_arguments_win() {
        let env = [
            ("PORT", "80"),
            ("AETHER_VERSION", "1.0.0"),
            ("FAIL_RATE", "0.5"),
            ("NEVER_READY", "1"),
            ("NO_LISTEN", "0"),
        ];
        let options = read(&["--fail-rate", "0.2", "--latency=50ms"], &env).unwrap();
        assert_eq!((options.port, options.fail_ppm), (80, 200_000));
        assert_eq!(options.latency, Duration::from_millis(50));
        assert!(options.never_ready);
        assert!(!options.no_listen);
        assert_eq!(read(&[], &[]).unwrap(), Options::default());
    }

    #[test]
    fn every_switch_sets_one_thing_both_ways_and_is_in_the_help() {
        let value_of = |takes: &Option<&str>| match takes {
            Some("TIME") => "7s",
            Some("SHARE") => "0.5",
            Some("FILE") => "/tmp/x",
            Some(_) => "7",
            None => "1",
        };
        let mut seen = Vec::new();
        for Switch(switch, takes, help) in &SWITCHES {
            let value = value_of(takes);
            let arg: &[&str] = if takes.is_some() { &[switch, value] } else { &[switch] };
            let by_argument = read(arg, &[]).unwrap();
            let name = switch.trim_start_matches("--").replace('-', "_").to_uppercase();
            assert_eq!(by_argument, read(&[], &[(&name, value)]).unwrap(), "{switch}");
            assert_ne!(by_argument, Options::default(), "{switch}");
            assert!(!seen.contains(&by_argument), "{switch} does what another one does");
            assert!(usage().contains(help) && usage().lines().all(|line| line.len() <= 90));
            seen.push(by_argument);
        }
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        for (args, part) in [
            (&["--fail-rate", "2"][..], "0 to 1"),
            (&["--cut-rate", "NaN"], "--cut-rate must be from 0 to 1"),
            (&["--latency", "50"], "50ms"),
            (&["--latency"], "needs a value"),
            (&["--flap", "0s"], "above zero"),
            (&["--leak", "-1"], "--leak"),
            (&["--exit-on-start", "300"], "300"),
            (&["--colour"], "--colour"),
            (&["--colour=red"], "--colour"),
        ] {
            let error = read(args, &[]).unwrap_err().to_string();
            assert!(error.contains(part), "{args:?}: {error}");
        }
        assert!(read(&[], &[("PORT", "x")]).unwrap_err().to_string().contains("PORT"));
    }
}
