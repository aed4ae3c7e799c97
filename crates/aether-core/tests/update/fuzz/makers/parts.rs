//! Parts of commands that are large themselves: gates and configurations.

use super::*;

impl Dice<'_> {
    pub(super) fn gates(&mut self) -> Vec<Gate> {
        let names = if self.one_in(8) { ["a", "a"] } else { ["a", "b"] };
        let count = 1 + self.below(2) as usize;
        let mut gate = |name: &str| {
            let url = self.pick(&["http://h:1/a", "http://h", "http://[::1]/", "https://h"]);
            let source = match self.below(3) {
                0 => GateSource::Webhook { url: url.to_owned() },
                1 => GateSource::Prometheus {
                    url: url.to_owned(),
                    query: "up".to_owned(),
                    condition: self.pick(&["< 1", ">= 0.5", "0"]).to_owned(),
                },
                _ => GateSource::Command {
                    program: self.pick(&["/bin/true", "true"]).to_owned(),
                    arguments: vec!["a".to_owned()],
                },
            };
            let when = self.pick(&[GateWhen::Before, GateWhen::After]);
            Gate {
                step: self.one_in(4).then(|| self.below(4) as u32),
                failures_max: self.below(3) as u32,
                inconclusive_max: self.below(3) as u32,
                interval_ms: if self.one_in(4) { self.count() } else { 1_000 },
                ..Gate::new(name, when, source)
            }
        };
        names[..count].iter().map(|name| gate(name)).collect()
    }

    /// A number of a configuration that there is as often as not.
    pub(super) fn config_no(&mut self) -> ConfigNo {
        ConfigNo(if self.one_in(8) { u32::MAX } else { self.below(6) as u32 })
    }

    pub(super) fn remake(&mut self) -> Remake {
        let pick = match self.one_in(2) {
            true => ConfigPick::Latest {},
            false => ConfigPick::Number { no: self.config_no() },
        };
        Remake { config: self.one_in(2).then_some(pick), restart: self.one_in(3) }
    }

    pub(super) fn push_config(&mut self) -> Command {
        let paths = ["app.conf", "etc/a", "etc", "../x", "/x"];
        let count = self.below(3);
        let files = (0..count).map(|_| {
            let length =
                if self.one_in(8) { CONFIG_FILE_BYTES_MAX + 1 } else { self.below(9) as usize };
            (self.pick(&paths).to_owned(), "x".repeat(length).into())
        });
        let files = files.collect();
        let names = ["MODE", "A=B", "PORT"];
        let count = self.below(3);
        let env = (0..count).map(|_| (self.pick(&names).to_owned(), self.count().to_string()));
        let env = env.collect();
        Command::PushConfig {
            slice: self.slice(),
            env,
            files,
            if_latest: self.one_in(8).then(|| self.config_no()),
        }
    }
}
