//! Switches of the example slice, from arguments or the environment.

use std::ffi::OsString;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;
use std::time::Duration;

/// What the switches do.
pub const USAGE: &str = "\
An HTTP server to try Aether with. Listens on HOST:PORT (127.0.0.1:8000 unless
set in the environment) and answers every path with its version and instance;
/ready tells whether it is ready, /slow?ms=N answers late, /echo sends the body
back.

Each switch can also be set in the environment: --fail-rate as FAIL_RATE, and so
on. A switch without a value is set there as 1 or 0.

  --fail-rate SHARE      answer 500 to that share (0 to 1) of calls, evenly
  --latency TIME         answer that much later
  --start-delay TIME     not ready before
  --never-ready          never ready
  --crash-after TIME     end with status 101 after that time
  --exit-on-start CODE   end at once with that status
  --no-listen            run, but listen nowhere
  --ignore-sigterm       do not stop when asked to";

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
    /// Share of calls answered with 500, in millionths.
    pub fail_ppm: u32,
    /// Added to each answer.
    pub latency: Duration,
    /// Not ready before.
    pub start_delay: Duration,
    /// Never ready.
    pub never_ready: bool,
    /// Ends with status 101 after that time.
    pub crash_after: Option<Duration>,
    /// Ends at once with this status.
    pub exit_on_start: Option<u8>,
    /// Runs, but listens nowhere.
    pub no_listen: bool,
    /// Does not stop when asked to.
    pub ignore_sigterm: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: 8_000,
            version: "unknown".to_owned(),
            instance: "unknown".to_owned(),
            fail_ppm: 0,
            latency: Duration::ZERO,
            start_delay: Duration::ZERO,
            never_ready: false,
            crash_after: None,
            exit_on_start: None,
            no_listen: false,
            ignore_sigterm: false,
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

const WITH_VALUE: [&str; 5] =
    ["--fail-rate", "--latency", "--start-delay", "--crash-after", "--exit-on-start"];
const PLAIN: [&str; 3] = ["--never-ready", "--no-listen", "--ignore-sigterm"];

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
        for switch in WITH_VALUE.iter().chain(&PLAIN) {
            let name = switch.trim_start_matches('-').replace('-', "_").to_uppercase();
            match env(&name) {
                Some(text) if PLAIN.contains(switch) && text == "0" => {}
                Some(text) => options.set(switch, &text)?,
                None => {}
            }
        }
        let mut args = args.into_iter().map(|arg| arg.to_string_lossy().into_owned());
        while let Some(arg) = args.next() {
            if PLAIN.contains(&arg.as_str()) {
                options.set(&arg, "1")?;
            } else if let Some((switch, text)) = arg.split_once('=') {
                options.set(switch, text)?;
            } else if WITH_VALUE.contains(&arg.as_str()) {
                let text =
                    args.next().ok_or_else(|| OptionsError(format!("{arg} needs a value")))?;
                options.set(&arg, &text)?;
            } else {
                return Err(OptionsError(format!("'{arg}' is no switch of the example slice")));
            }
        }
        Ok(options)
    }

    fn set(&mut self, switch: &str, text: &str) -> Result<(), OptionsError> {
        match switch {
            "--fail-rate" => self.fail_ppm = share(text)?,
            "--latency" => self.latency = time(switch, text)?,
            "--start-delay" => self.start_delay = time(switch, text)?,
            "--crash-after" => self.crash_after = Some(time(switch, text)?),
            "--exit-on-start" => self.exit_on_start = Some(value(switch, text)?),
            "--never-ready" => self.never_ready = flag(switch, text)?,
            "--no-listen" => self.no_listen = flag(switch, text)?,
            "--ignore-sigterm" => self.ignore_sigterm = flag(switch, text)?,
            _ => {
                return Err(OptionsError(format!("'{switch}' is no switch of the example slice")));
            }
        }
        Ok(())
    }
}

fn value<T: FromStr<Err: fmt::Display>>(what: &str, text: &str) -> Result<T, OptionsError> {
    text.parse().map_err(|error| OptionsError(format!("{what} cannot be '{text}': {error}")))
}

fn time(what: &str, text: &str) -> Result<Duration, OptionsError> {
    humantime::parse_duration(text).map_err(|error| {
        OptionsError(format!("{what} cannot be '{text}': {error}; write it as 50ms or 2s"))
    })
}

fn flag(what: &str, text: &str) -> Result<bool, OptionsError> {
    match text {
        "1" | "true" => Ok(true),
        _ => Err(OptionsError(format!("{what} is set by 1, not by '{text}'"))),
    }
}

/// A share from 0 to 1, in millionths.
fn share(text: &str) -> Result<u32, OptionsError> {
    let share: f64 = value("--fail-rate", text)?;
    if !(0.0..=1.0).contains(&share) {
        return Err(OptionsError(format!("--fail-rate must be from 0 to 1, not {text}")));
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
    fn what_cannot_be_used_is_named() {
        for (args, part) in [
            (&["--fail-rate", "2"][..], "0 to 1"),
            (&["--fail-rate", "NaN"], "0 to 1"),
            (&["--latency", "50"], "50ms"),
            (&["--latency"], "needs a value"),
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
