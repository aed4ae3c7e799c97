//! How a cluster comes into being anew, from a backup.
//!
//! Each founder was restored by itself (see `restore`) and knows the membership
//! already. Before it takes part it meets the others: all of them must have been
//! restored from the same backup, for the same voters, and none of them may have
//! met another directory of the same voter before. So a voter that was restored
//! a second time, after the cluster had begun, is found out: what it had
//! acknowledged is gone, as with one whose directory was emptied.
//!
//! Until then it neither stands for election nor votes nor takes entries. Whom
//! it met is written down before it does.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use aether_proto::raft as pb;
use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::error::OpenError;
use crate::files::replace_durably;
use crate::formation::{ASK_EVERY, ask};
use crate::node::Node;

const FILE: &str = "restored.json";

/// From what a directory was restored, and whom its node has met.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Restored {
    /// SHA-256 of the backup, hexadecimal.
    pub backup: String,
    /// The founding voters, each as `name=host:port`, in their order.
    pub voters: Vec<String>,
    /// Random, of this one act of restoring.
    pub life: String,
    /// The life of each founder, in their order, once all have been met.
    pub met: Vec<String>,
}

impl Restored {
    pub fn new(backup: String, config: &Config) -> Self {
        let voter = |v: &crate::config::Voter| format!("{}={}", v.name, v.peer_addr);
        Restored {
            backup,
            voters: config.voters.iter().map(voter).collect(),
            life: format!("{:032x}", rand::random::<u128>()),
            met: Vec::new(),
        }
    }

    pub fn has_met(&self) -> bool {
        !self.met.is_empty()
    }

    pub fn write(&self, dir: &Path) -> io::Result<()> {
        replace_durably(&dir.join(FILE), &serde_json::to_vec_pretty(self)?)
    }

    /// What the directory says, if it was restored.
    pub fn read(dir: &Path) -> Result<Option<Self>, OpenError> {
        let path = dir.join(FILE);
        let damaged =
            |e: serde_json::Error| OpenError::Damaged { path: path.clone(), detail: e.to_string() };
        match fs::read(&path) {
            Ok(json) => serde_json::from_slice(&json).map(Some).map_err(damaged),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(OpenError::io("read", &path)(error)),
        }
    }

    pub fn to_wire(&self) -> pb::Restored {
        let Restored { backup, voters, life, met } = self.clone();
        pb::Restored { backup, voters, life, met }
    }
}

/// What comes of asking everybody.
#[derive(Debug, PartialEq, Eq)]
enum Meeting {
    /// All are who they should be; the life of each.
    All(Vec<String>),
    /// Not yet. It passes with time, or when somebody sees to it.
    Not(String),
    /// Never.
    Never(String),
}

/// Somebody's answer, or why there is none.
type Answer = Result<pb::IdentifyResponse, String>;

/// Judges the answers of all founders, in their order; that of this node, the
/// `me`-th, is of no account.
fn judge(of: &Restored, me: usize, names: &[&str], answers: &[Answer]) -> Meeting {
    let mut lives = Vec::new();
    let mut missing = Vec::new();
    for (at, (name, answer)) in names.iter().zip(answers).enumerate() {
        if at == me {
            lives.push(of.life.clone());
            continue;
        }
        match answer.as_ref().map_err(Clone::clone).and_then(|a| same(of, at, name, a)) {
            Ok(other) => {
                if other.met.get(me).is_some_and(|met| *met != of.life) {
                    return Meeting::Never(format!(
                        "{name} has met another directory of this node, which was restored before \
                         this one: what that one acknowledged is gone. Replace this voter ('aether \
                         node replace'), or restore all founding voters anew"
                    ));
                }
                lives.push(other.life.clone());
            }
            Err(why) => missing.push(format!("{name}: {why}")),
        }
    }
    // Who has met all before must have met the same ones.
    for (name, answer) in names.iter().zip(answers) {
        let met = answer.as_ref().ok().and_then(|a| a.restored.as_ref()).map(|r| &r.met);
        if missing.is_empty() && met.is_some_and(|met| !met.is_empty() && *met != lives) {
            missing.push(format!("{name} has met other directories of the same voters"));
        }
    }
    match missing.is_empty() {
        true => Meeting::All(lives),
        false => Meeting::Not(missing.join("; ")),
    }
}

/// What a founder was restored from, if it is the same as here.
fn same<'a>(
    of: &Restored,
    at: usize,
    name: &str,
    answer: &'a pb::IdentifyResponse,
) -> Result<&'a pb::Restored, String> {
    if (answer.node.as_str(), answer.raft_id) != (name, at as u64 + 1) {
        return Err(format!("answers as {} with id {}", answer.node, answer.raft_id));
    }
    let Some(other) = &answer.restored else {
        let is = if answer.formed { "of another life of the cluster" } else { "new" };
        return Err(format!(
            "its data directory is {is}; move it away, and restore it from the same backup"
        ));
    };
    if other.backup != of.backup {
        return Err(format!(
            "it was restored from another backup, with SHA-256 {}; this node from {}",
            other.backup, of.backup
        ));
    }
    if other.voters != of.voters {
        return Err(format!(
            "it was restored for the voters {}; this node for {}",
            other.voters.join(", "),
            of.voters.join(", ")
        ));
    }
    Ok(other)
}

/// Runs on a restored founder until it has met all others, or never will.
pub(crate) async fn run(node: Arc<Node>) {
    let Some(mut of) = node.restored() else { return };
    let me = node.identity.raft_id as usize - 1;
    let founders: Vec<(String, String)> = of
        .voters
        .iter()
        .filter_map(|voter| voter.split_once('='))
        .map(|(name, address)| (name.to_owned(), address.to_owned()))
        .collect();
    let names: Vec<&str> = founders.iter().map(|(name, _)| name.as_str()).collect();
    let mut reported = String::new();
    while !node.is_closed() {
        let asked = founders.iter().enumerate().map(|(at, (_, address))| {
            let node = &node;
            async move { if at == me { Err(String::new()) } else { ask(node, address).await } }
        });
        let answers = futures::future::join_all(asked).await;
        match judge(&of, me, &names, &answers) {
            Meeting::All(lives) => {
                of.met = lives;
                if let Err(error) = of.write(&node.config.data_dir) {
                    let dir = node.config.data_dir.display();
                    return node.fail(format!("can't write {FILE} into {dir}: {error}"));
                }
                *node.restored.lock().expect("no panic while held") = Some(of);
                node.raft.runtime_config().elect(true);
                tracing::info!(node = node.identity.node, "all restored founders have met");
                return;
            }
            Meeting::Never(why) => return node.fail(why),
            Meeting::Not(why) => {
                if why != reported {
                    let me = &node.identity.node;
                    tracing::warn!(node = me, why, "the restored cluster can't begin yet");
                    reported = why;
                }
            }
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 3] = ["a", "b", "c"];

    fn restored(life: &str) -> Restored {
        Restored {
            backup: "b1".into(),
            voters: NAMES.map(|name| format!("{name}=h:{name}")).to_vec(),
            life: life.into(),
            met: Vec::new(),
        }
    }

    fn answer(at: usize, restored: Option<Restored>) -> Answer {
        Ok(pb::IdentifyResponse {
            node: NAMES[at].into(),
            raft_id: at as u64 + 1,
            formed: true,
            restored: restored.map(|restored| restored.to_wire()),
            ..Default::default()
        })
    }

    /// What `a` makes of these answers of `b` and `c`.
    fn judged(b: Answer, c: Answer) -> Meeting {
        judge(&restored("la"), 0, &NAMES, &[Err(String::new()), b, c])
    }

    fn not(meeting: Meeting) -> String {
        match meeting {
            Meeting::Not(why) => why,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn founders_of_one_backup_meet_also_when_some_have_met_before() {
        let met = vec!["la".to_owned(), "lb".into(), "lc".into()];
        let (b, c) = (restored("lb"), restored("lc"));
        assert_eq!(
            judged(answer(1, Some(b.clone())), answer(2, Some(c.clone()))),
            Meeting::All(met.clone())
        );
        let has_met = Restored { met: met.clone(), ..b };
        assert_eq!(judged(answer(1, Some(has_met)), answer(2, Some(c))), Meeting::All(met));
    }

    #[test]
    fn who_is_missing_or_differs_is_named_with_the_reason() {
        let c = || answer(2, Some(restored("lc")));
        assert_eq!(not(judged(Err("refused".into()), c())), "b: refused");
        let other = Restored { backup: "b2".into(), ..restored("lb") };
        let why = not(judged(answer(1, Some(other)), c()));
        assert!(why.contains("b: it was restored from another backup, with SHA-256 b2"), "{why}");
        let other = Restored { voters: vec!["a=h:a".into(), "b=h:x".into()], ..restored("lb") };
        let why = not(judged(answer(1, Some(other)), c()));
        assert!(why.contains("for the voters a=h:a, b=h:x; this node for a=h:a, b=h:b"), "{why}");
        let why = not(judged(answer(1, None), c()));
        assert!(why.contains("of another life of the cluster"), "{why}");
        assert!(not(judged(c(), c())).contains("b: answers as c with id 3"));
    }

    #[test]
    fn who_was_restored_again_is_found_out() {
        let met = vec!["older".to_owned(), "lb".into(), "lc".into()];
        let b = Restored { met, ..restored("lb") };
        let judged = judged(answer(1, Some(b)), Err("away".into()));
        assert!(matches!(judged, Meeting::Never(_)), "{judged:?}");
    }

    #[test]
    fn nobody_begins_while_another_one_was_restored_again() {
        let met = vec!["la".to_owned(), "lb".into(), "older".into()];
        let b = Restored { met, ..restored("lb") };
        let why = not(judged(answer(1, Some(b)), answer(2, Some(restored("lc")))));
        assert!(why.contains("b has met other directories"), "{why}");
    }
}
