//! What every verb that speaks with a cluster understands: the global options,
//! and what holds when they are not given.
//!
//! A flag goes before a variable of the environment, that before the context,
//! and that before the default. Nothing of it is looked at before a verb asks:
//! a variable meant for the client never keeps a node from starting.

use std::cell::OnceCell;
use std::ffi::OsString;
use std::fmt::Display;

use aether_core::duration::Millis;
use clap::Args;

use super::client::{Address, Client};
use super::config::{self, Config, Context, ContextName, Environment};
use super::exit::Failure;
use super::options;
use super::output::{Format, Output, say};
use super::terminal::Colour;

/// Where a node listens for clients unless it is told otherwise.
const ADDRESS: &str = "127.0.0.1:8090";

/// How long a request may take where nothing is said: an election and a retry.
const TIMEOUT: Millis = Millis(10_000);

/// The options.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Client addresses of nodes, separated by commas; tried in turn
    /// [env: AETHER_ADDR] [default: 127.0.0.1:8090]
    #[arg(long, short, global = true, value_delimiter = ',', value_name = "HOST:PORT")]
    addr: Vec<String>,
    /// How results are printed [env: AETHER_OUTPUT] [default: table]
    #[arg(long, short, global = true, value_enum, ignore_case = true, value_name = "FORMAT")]
    output: Option<Format>,
    /// How long a request may take, over all addresses [env: AETHER_TIMEOUT]
    /// [default: 10s]
    #[arg(long, global = true, value_name = "DURATION", value_parser = options::timeout)]
    timeout: Option<Millis>,
    /// Who asks, for the history [env: AETHER_ACTOR] [default: $USER]
    #[arg(long, global = true, value_name = "NAME")]
    actor: Option<String>,
    /// The context that the other options default to; see 'aether context'
    /// [env: AETHER_CONTEXT]
    #[arg(long, global = true, value_name = "NAME")]
    context: Option<ContextName>,
    /// Whether states have a colour; NO_COLOR and CLICOLOR are heeded too
    #[arg(
        long,
        global = true,
        value_enum,
        default_value = "auto",
        value_name = "WHEN",
        ignore_case = true,
        alias = "colour"
    )]
    color: Colour,
    #[arg(skip)]
    settings: OnceCell<Settings>,
}

/// What holds for a verb.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    addr: Vec<Address>,
    timeout: Millis,
    actor: String,
    output: Format,
}

impl Global {
    /// Decides what holds; before the verb is carried out, and once.
    ///
    /// # Errors
    /// A variable or the configuration file makes no sense.
    pub fn settle(&self) -> Result<(), Failure> {
        let config = self.config()?;
        let settings = self.settings(&environment, config.as_ref()).map_err(Failure::usage)?;
        let _ = self.settings.set(settings);
        Ok(())
    }

    /// The configuration file, if there may be one. Says what to warn of.
    ///
    /// # Errors
    /// It makes no sense.
    pub fn config(&self) -> Result<Option<Config>, Failure> {
        let config = config::path(&environment).map(|path| Config::load(&path)).transpose()?;
        if let Some(warning) = config.as_ref().and_then(Config::warning) {
            say(&format!("warning: {warning}"));
        }
        Ok(config)
    }

    /// What the flags, and nothing else, say: for 'context set'.
    ///
    /// # Errors
    /// A flag makes no sense.
    pub fn flags(&self) -> Result<Context, Failure> {
        let actor = self.actor.as_deref().map(options::actor).transpose();
        Ok(Context {
            addr: addresses(self.addr.iter().map(String::as_str)).map_err(Failure::usage)?,
            timeout: self.timeout,
            actor: actor.map_err(Failure::usage)?,
            output: self.output,
        })
    }

    /// The context that is asked for by a flag or a variable.
    ///
    /// # Errors
    /// The variable makes no sense.
    pub fn context(&self) -> Result<Option<ContextName>, Failure> {
        self.named(&environment).map_err(Failure::usage)
    }

    /// A client to the cluster.
    ///
    /// # Errors
    /// The options make no sense.
    pub fn client(&self) -> Result<Client, Failure> {
        let settings = self.settled();
        Client::new(settings.addr.clone(), settings.timeout.duration(), settings.actor.clone())
    }

    /// Stdout.
    pub fn output(&self) -> Output {
        Output::new(self.settled().output).painted(self.color.on_stdout())
    }

    /// Stdout of the verbs that need no cluster and look at no context.
    pub fn plain_output(&self) -> Output {
        Output::new(self.output.unwrap_or(Format::Table)).painted(self.color.on_stdout())
    }

    fn settled(&self) -> &Settings {
        self.settings.get().expect("settle() is called before a verb")
    }

    fn named(&self, environment: Environment<'_>) -> Result<Option<ContextName>, String> {
        match &self.context {
            Some(name) => Ok(Some(name.clone())),
            None => variable(environment, "AETHER_CONTEXT", str::parse),
        }
    }

    fn settings(
        &self,
        environment: Environment<'_>,
        config: Option<&Config>,
    ) -> Result<Settings, String> {
        let context = match (self.named(environment)?, config) {
            (Some(name), Some(config)) => config.context(&name)?.clone(),
            (Some(name), None) => {
                return Err(format!("no place for contexts, so no '{name}': set AETHER_CONFIG"));
            }
            (None, Some(config)) => match &config.contents.current {
                Some(name) => config.context(name)?.clone(),
                None => Context::default(),
            },
            (None, None) => Context::default(),
        };
        let split = |text: &str| addresses(text.split(','));
        let addr = first([
            addresses(self.addr.iter().map(String::as_str))?,
            variable(environment, "AETHER_ADDR", split)?.flatten(),
            context.addr,
        ]);
        let timeout = variable(environment, "AETHER_TIMEOUT", options::timeout)?;
        let output = variable(environment, "AETHER_OUTPUT", str::parse)?;
        // A user's name was not chosen for us, so one that does not fit is passed over.
        let user = environment("USER").and_then(|name| options::actor(name.to_str()?).ok());
        let actor = first([
            self.actor.as_deref().map(options::actor).transpose()?,
            variable(environment, "AETHER_ACTOR", options::actor)?,
            context.actor.or(user),
        ]);
        Ok(Settings {
            addr: addr.unwrap_or_else(|| vec![ADDRESS.parse().expect("it is an address")]),
            timeout: first([self.timeout, timeout, context.timeout]).unwrap_or(TIMEOUT),
            actor: actor.unwrap_or_else(|| "cli".to_owned()),
            output: first([self.output, output, context.output]).unwrap_or(Format::Table),
        })
    }
}

/// The flag's, else the environment's, else the context's.
fn first<T>(candidates: [Option<T>; 3]) -> Option<T> {
    candidates.into_iter().flatten().next()
}

/// Addresses, if there are any.
fn addresses<'a>(texts: impl Iterator<Item = &'a str>) -> Result<Option<Vec<Address>>, String> {
    let addresses: Vec<Address> =
        texts.map(|text| text.trim().parse()).collect::<Result<_, _>>()?;
    Ok((!addresses.is_empty()).then_some(addresses))
}

/// What a variable says, if it says anything.
fn variable<T, E: Display>(
    environment: Environment<'_>,
    name: &str,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> Result<Option<T>, String> {
    let Some(text) = environment(name) else { return Ok(None) };
    let text = text.to_str().ok_or_else(|| format!("{name} is not UTF-8"))?;
    parse(text).map(Some).map_err(|problem| format!("{name}: {problem}"))
}

/// The process's environment; what is empty counts as not set.
fn environment(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        global: Global,
    }

    const FILE: &str = "current = 'dev'\n[contexts.dev]\naddr = ['dev:1']\ntimeout = '1s'\n\
                        actor = 'ctx'\noutput = 'yaml'\n[contexts.prod]\naddr = ['prod:1']\n";

    fn settings(line: &str, variables: &[(&str, &str)], file: &str) -> Result<Settings, String> {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("config.toml");
        std::fs::write(&path, file).unwrap();
        let config = Config::load(&path).unwrap();
        let words = std::iter::once("aether").chain(line.split_whitespace());
        let environment =
            |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| v.into());
        Line::parse_from(words).global.settings(&environment, Some(&config))
    }

    fn expected(addr: &[&str], timeout_ms: u64, actor: &str, output: Format) -> Settings {
        Settings {
            addr: addr.iter().map(|text| text.parse().unwrap()).collect(),
            timeout: Millis(timeout_ms),
            actor: actor.into(),
            output,
        }
    }

    #[test]
    fn flags_go_before_the_environment_before_the_context_before_the_defaults() {
        let variables = [
            ("AETHER_ADDR", "env:1, env:2"),
            ("AETHER_TIMEOUT", "2s"),
            ("AETHER_ACTOR", "env"),
            ("AETHER_OUTPUT", "JSON"),
            ("USER", "user"),
        ];
        let flags = "-a flag:1,flag:2 --timeout 3s --actor flag -o table";
        let default = expected(&[ADDRESS], 10_000, "user", Format::Table);
        assert_eq!(settings("", &variables[4..], "").unwrap(), default);
        let of_context = expected(&["dev:1"], 1_000, "ctx", Format::Yaml);
        assert_eq!(settings("", &variables[4..], FILE).unwrap(), of_context);
        let of_environment = expected(&["env:1", "env:2"], 2_000, "env", Format::Json);
        assert_eq!(settings("", &variables, FILE).unwrap(), of_environment);
        let of_flags = expected(&["flag:1", "flag:2"], 3_000, "flag", Format::Table);
        assert_eq!(settings(flags, &variables, FILE).unwrap(), of_flags);
    }

    #[test]
    fn a_context_is_named_by_flag_or_variable() {
        let addr = |line: &str, variables: &[(&str, &str)]| {
            settings(line, variables, FILE).map(|settings| settings.addr[0].to_string())
        };
        assert_eq!(addr("--context prod", &[("AETHER_CONTEXT", "dev")]), Ok("prod:1".into()));
        assert_eq!(addr("", &[("AETHER_CONTEXT", "prod")]), Ok("prod:1".into()));
        assert!(addr("--context other", &[]).unwrap_err().contains("no context 'other'"));
        let bad = addr("", &[("AETHER_CONTEXT", "a b")]).unwrap_err();
        assert!(bad.starts_with("AETHER_CONTEXT: 'a b' is not the name"), "{bad}");
    }

    #[test]
    fn a_variable_that_makes_no_sense_is_named() {
        for (name, value) in [
            ("AETHER_ADDR", "nowhere"),
            ("AETHER_ADDR", ","),
            ("AETHER_OUTPUT", "xml"),
            ("AETHER_TIMEOUT", "5"),
            ("AETHER_TIMEOUT", "0s"),
            ("AETHER_ACTOR", "a\nb"),
        ] {
            let problem = settings("", &[(name, value)], "").unwrap_err();
            assert!(problem.starts_with(&format!("{name}: ")), "{problem}");
            assert_eq!(settings("", &[("USER", "a\nb")], "").unwrap().actor, "cli");
        }
    }
}
