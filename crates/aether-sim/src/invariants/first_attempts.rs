//! What a session counts are the first attempts of its calls, each once: a failed one
//! counts though its retry succeeds, and no retry does. (Design, section 6, "Retries
//! take no split ticket and are no evidence".)

use std::collections::BTreeMap;

use crate::invoker::Invoker;

/// By caller, its process and how many of its first attempts have an outcome.
#[derive(Debug, Default)]
pub struct FirstAttempts(BTreeMap<usize, (u64, u64)>);

impl FirstAttempts {
    /// A first attempt has its outcome.
    pub fn ended(&mut self, caller: usize, process: u64) {
        let known = self.0.entry(caller).or_default();
        if known.0 != process {
            *known = (process, 0);
        }
        known.1 += 1;
    }

    /// Looks at what a session tells.
    ///
    /// # Errors
    /// That it counted something else.
    pub fn told(&self, caller: usize, who: &Invoker) -> Result<(), String> {
        let known = self.0.get(&caller).filter(|(process, _)| *process == who.process);
        let ended = known.map_or(0, |(_, ended)| *ended);
        let counted: u64 = who.counted.values().map(|served| served.all.requests).sum();
        match counted == ended {
            true => Ok(()),
            false => Err(format!(
                "{} counted {counted} calls; {ended} first attempts had an outcome",
                who.session
            )),
        }
    }
}
