//! Linearizable reads: many waiting readers share one question.
//!
//! A reader may use any answer to what was asked after it arrived. So readers
//! gather while a question is under way and all of them share the next one. Those
//! of a leader ask the voters ([`crate::rounds`]), those of another node its leader.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::node::Node;
use crate::rounds;

/// Readers waiting for a question; more of them wait for a place.
const WAITING_MAX: usize = 4_096;
/// Questions under way at once: a second one keeps a late reader from waiting for
/// almost two.
const QUESTIONS_MAX: usize = 2;
/// A question that takes longer failed: the leader may be gone.
const TIMEOUT: Duration = Duration::from_secs(1);

type Reply = oneshot::Sender<Result<u64, String>>;

/// Where readers line up.
pub(crate) struct ReadHub {
    waiting: mpsc::Sender<Reply>,
}

impl ReadHub {
    /// The hub, and the line that [`run`] serves.
    pub fn new() -> (Self, mpsc::Receiver<Reply>) {
        let (waiting, line) = mpsc::channel(WAITING_MAX);
        (ReadHub { waiting }, line)
    }

    /// An index confirmed after this call began.
    pub async fn index(&self) -> Result<u64, String> {
        let (tx, rx) = oneshot::channel();
        self.waiting.send(tx).await.map_err(|_| "the replica stopped")?;
        rx.await.unwrap_or_else(|_| Err("the replica stopped".to_owned()))
    }
}

/// Who is asked for an index.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Asked {
    /// The voters, as their leader.
    Voters,
    /// The leader, another node.
    Leader,
}

/// Serves readers until the hub is gone.
pub(crate) async fn run(node: Arc<Node>, asked: Asked, mut line: mpsc::Receiver<Reply>) {
    let places = Arc::new(tokio::sync::Semaphore::new(QUESTIONS_MAX));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else {
            return;
        };
        let mut readers = Vec::new();
        if line.recv_many(&mut readers, WAITING_MAX).await == 0 {
            return;
        }
        let node = node.clone();
        tokio::spawn(async move {
            let mut leadership = node.leadership.subscribe();
            let index = async {
                match asked {
                    Asked::Voters => rounds::confirm(&node, TIMEOUT).await,
                    Asked::Leader => node.index_of_leader(TIMEOUT).await,
                }
            };
            let index = tokio::select! {
                biased;
                index = index => index,
                // A leader that hangs is not waited for once there is another.
                _ = leadership.changed() => Err("the leadership moved".to_owned()),
            };
            for reader in readers {
                // A reader that gave up is gone.
                let _ = reader.send(index.clone());
            }
            drop(place);
        });
    }
}
