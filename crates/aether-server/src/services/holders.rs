//! Who holds an archive that is being pushed: it counts as pushed once a
//! majority of the voters have it on their disks, so that no majority can be
//! without it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use aether_agent::artifact::Digest;
use aether_core::ids::NodeName;
use aether_proto::peer::HoldArchiveRequest;
use aether_proto::peer::peer_client::PeerClient;
use aether_replica::Handle;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

/// What the other voters may take for a small archive: a connection, a copy,
/// and a sync on a busy disk.
const HOLD_MAX: Duration = Duration::from_secs(10);

/// Slowest copy that is waited for, in bytes per second.
const COPY_RATE_MIN: u64 = 1024 * 1024;

/// How much of a push's time the copies may take: the rest is for the entry
/// that makes the artifact known.
const PART: f64 = 0.75;

/// How long the copies of an archive may take altogether.
pub fn longest(size_bytes: u64) -> Duration {
    HOLD_MAX + Duration::from_secs(size_bytes / COPY_RATE_MIN)
}

/// Too few voters hold an archive.
#[derive(Debug, PartialEq, Eq)]
pub struct TooFew {
    voters: usize,
    needed: usize,
    held: usize,
    /// What the others answered.
    problems: BTreeMap<NodeName, String>,
}

impl fmt::Display for TooFew {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { voters, needed, held, .. } = self;
        write!(f, "{held} of {voters} voters hold its archive, {needed} have to")?;
        for (i, (voter, problem)) in self.problems.iter().enumerate() {
            write!(f, "{}{voter}: {problem}", if i == 0 { " (" } else { "; " })?;
        }
        f.write_str(if self.problems.is_empty() { "" } else { ")" })
    }
}

/// Has the other voters copy an archive that this one holds, side by side, and
/// waits until with this one a majority holds it. Gives those that do.
///
/// # Errors
/// When too few of them answered that they do, within `most`.
pub async fn spread(
    replica: &Handle,
    own: &NodeName,
    digest: Digest,
    most: Duration,
) -> Result<BTreeSet<NodeName>, TooFew> {
    let mut copies = BTreeMap::new();
    for member in replica.status().members.into_iter().filter(|member| member.voter) {
        let Ok(name) = member.name.parse::<NodeName>() else { continue };
        if name == *own {
            continue;
        }
        let channel = replica.peer_channel(&member.name);
        let request = HoldArchiveRequest { sha256: digest.to_string(), from: own.to_string() };
        copies.insert(name, async move {
            let channel = channel.ok_or("it has no address")?;
            let mut request = tonic::Request::new(request);
            request.set_timeout(most);
            let answer = PeerClient::new(channel).hold_archive(request).await;
            answer.map(drop).map_err(|status| status.message().to_owned())
        });
    }
    gather(copies, Instant::now() + most.mul_f64(PART)).await
}

/// Waits for as many copies as make a majority with the one that is here.
async fn gather<F>(
    copies: BTreeMap<NodeName, F>,
    until: Instant,
) -> Result<BTreeSet<NodeName>, TooFew>
where
    F: Future<Output = Result<(), String>> + Send + 'static,
{
    let voters = copies.len() + 1;
    let needed = voters / 2 + 1;
    let mut waited_for: BTreeSet<NodeName> = copies.keys().cloned().collect();
    let mut held = BTreeSet::new();
    let mut problems = BTreeMap::new();
    let mut asked = JoinSet::new();
    for (voter, copy) in copies {
        asked.spawn(async move { (voter, copy.await) });
    }
    let mut missing = "not waited for: with it there were too few";
    // As long as those that could still do it are enough.
    while held.len() + 1 < needed && held.len() + 1 + waited_for.len() >= needed {
        let Ok(Some(Ok((voter, answer)))) = timeout_at(until, asked.join_next()).await else {
            missing = "no answer in time";
            break;
        };
        waited_for.remove(&voter);
        match answer {
            Ok(()) => drop(held.insert(voter)),
            Err(problem) => drop(problems.insert(voter, problem)),
        }
    }
    if held.len() + 1 >= needed {
        // The rest go on, and are known to hold it when they say so.
        asked.detach_all();
        return Ok(held);
    }
    for voter in waited_for {
        problems.insert(voter, missing.to_owned());
    }
    Err(TooFew { voters, needed, held: held.len() + 1, problems })
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;

    use super::*;

    type Copy = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

    /// Voters by what they do: `+` copies it, `-` cannot, `.` never answers.
    async fn push(others: &str, most: Duration) -> Result<String, String> {
        let copies = others.chars().enumerate().map(|(i, does)| {
            let copy: Copy = match does {
                '+' => Box::pin(async { Ok(()) }),
                '-' => Box::pin(async { Err("connection refused".to_owned()) }),
                _ => Box::pin(std::future::pending()),
            };
            (format!("n{}", i + 2).parse().unwrap(), copy)
        });
        let gathered = gather(copies.collect(), Instant::now() + most).await;
        let names = |held: BTreeSet<NodeName>| {
            held.iter().map(|name| name.to_string()).collect::<Vec<_>>().join(" ")
        };
        gathered.map(names).map_err(|few| few.to_string())
    }

    const LIMIT: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn a_majority_is_enough_and_neither_a_dead_nor_a_frozen_voter_holds_it_up() {
        let began = Instant::now();
        assert_eq!(push("", LIMIT).await.unwrap(), "", "a single voter");
        for (others, held) in [("-+", "n3"), (".+", "n3"), ("+-", "n2"), ("..++", "n4 n5")] {
            assert_eq!(push(others, LIMIT).await.unwrap(), held, "{others}");
        }
        assert!(began.elapsed() < LIMIT, "nobody was waited for");
    }

    #[tokio::test]
    async fn too_few_are_counted_and_named_with_their_answers() {
        let began = Instant::now();
        assert_eq!(
            push("--", LIMIT).await.unwrap_err(),
            "1 of 3 voters hold its archive, 2 have to (n2: connection refused; n3: connection refused)"
        );
        assert_eq!(
            push("+---", LIMIT).await.unwrap_err().split(" (").next(),
            Some("2 of 5 voters hold its archive, 3 have to")
        );
        let few = push("---.", LIMIT).await.unwrap_err();
        assert!(few.contains("n5: not waited for"), "{few}");
        assert!(began.elapsed() < LIMIT, "what cannot succeed is not waited for");
    }

    #[tokio::test]
    async fn a_frozen_voter_is_waited_for_only_so_long() {
        let (began, short) = (Instant::now(), Duration::from_millis(200));
        assert_eq!(
            push("-.", short).await.unwrap_err(),
            "1 of 3 voters hold its archive, 2 have to (n2: connection refused; n3: no answer in time)"
        );
        assert!(began.elapsed() >= short);
    }
}
