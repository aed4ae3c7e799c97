//! How services read and write the replicated state, from any node.

use std::sync::Arc;
use std::time::Duration;

use aether_core::command::{Answer, Command, Request};
use aether_proto::v1;
use aether_replica::{Handle, ProposeError};
use tokio::sync::watch;
use tonic::Status;

use crate::deadline::Deadline;
use crate::machine::{Published, States, decode_outcome, encode_request};
use crate::status;

/// How long a write may take before its outcome counts as unknown. A failover
/// takes well below two seconds; the rest is for a slow disk.
pub(crate) const WRITE_MAX: Duration = Duration::from_secs(10);

/// How long a read waits for the leader before the local copy answers. Longer
/// than a failover at its usual speed, shorter than a person's patience.
const READ_MAX: Duration = Duration::from_millis(1_500);

/// A state to answer from, and how fresh it is.
pub struct Read {
    /// The state.
    pub published: Arc<Published>,
    /// This is the node's own copy: the leader could not be asked, or was not.
    pub stale: bool,
    /// The caller wanted it so.
    by_choice: bool,
}

impl Read {
    /// The node's own copy, when the leader may not have been asked.
    pub fn own(published: Arc<Published>, stale: bool) -> Self {
        Self { published, stale, by_choice: false }
    }

    /// The node's own copy just after a write of the caller's.
    pub fn after_write(published: Arc<Published>) -> Self {
        Self { published, stale: false, by_choice: false }
    }

    /// The error for something that is not in this state. What an own copy does
    /// not have may exist all the same; who asked for it is told what it has.
    pub fn missing(&self, problem: Status) -> Status {
        match self.stale && !self.by_choice {
            true => status::unavailable(
                "the leader could not be asked, and here ".to_owned() + problem.message(),
            ),
            false => problem,
        }
    }
}

/// Access to the replicated state.
#[derive(Clone)]
pub struct Control {
    replica: Handle,
    states: States,
    node: Arc<str>,
}

impl Control {
    /// Over a replica and the states that its machine publishes.
    pub fn new(replica: Handle, states: States, node: &str) -> Self {
        Self { replica, states, node: node.into() }
    }

    /// The replica behind it.
    pub fn replica(&self) -> &Handle {
        &self.replica
    }

    /// The node's own copy, as it is now.
    pub fn local(&self) -> Arc<Published> {
        Arc::clone(&self.states.newest.borrow())
    }

    /// From now on every published state that is not only another one in values
    /// under `config/`.
    pub fn watch(&self) -> watch::Receiver<Arc<Published>> {
        self.states.coordinated.clone()
    }

    /// A state that holds every write acknowledged before the call; the node's
    /// own copy, marked so, if the leader cannot be asked or `stale` is wanted.
    pub async fn read(&self, stale: bool, deadline: Deadline) -> Read {
        let wait = deadline.within(READ_MAX);
        let fresh = !stale && self.replica.read_barrier(wait).await.is_ok();
        Read { published: self.local(), stale: !fresh, by_choice: stale }
    }

    /// Name of this node.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// How fresh an answer from `read` is.
    pub fn as_of(&self, read: &Read) -> v1::AsOf {
        v1::AsOf {
            index: read.published.state.meta.index,
            stale: read.stale,
            node: self.node.to_string(),
        }
    }

    /// Waits until this node has a state that holds every write acknowledged
    /// before the call.
    ///
    /// # Errors
    /// `Unavailable` when no leader could be asked in time.
    pub async fn barrier(&self, deadline: Deadline) -> Result<Arc<Published>, Status> {
        match self.replica.read_barrier(deadline.within(READ_MAX)).await {
            Ok(_) => Ok(self.local()),
            Err(error) => Err(status::unavailable(error)),
        }
    }

    /// Proposes a command and waits until it is applied here, but no longer than
    /// the caller does.
    ///
    /// # Errors
    /// The refusal of the command, `Unavailable` when it provably was not
    /// done, `Unknown` when it may or may not have been.
    pub async fn write(
        &self,
        deadline: Deadline,
        actor: &str,
        request_id: &str,
        command: Command,
    ) -> Result<Answer, Status> {
        const ACTOR_BYTES_MAX: usize = 200;
        if actor.len() > ACTOR_BYTES_MAX {
            return Err(status::invalid(
                "actor",
                format!("is {} bytes long, at most {ACTOR_BYTES_MAX} are accepted", actor.len()),
            ));
        }
        self.until_level_of(&command, deadline).await?;
        let request = Request {
            request_id: Some(request_id.to_owned()).filter(|id| !id.is_empty()),
            actor: if actor.is_empty() { "anonymous".to_owned() } else { actor.to_owned() },
            command,
        };
        match self.replica.propose(encode_request(&request), deadline.within(WRITE_MAX)).await {
            Ok(applied) => {
                decode_outcome(&applied.response).map_err(|refusal| status::refused(&refusal))
            }
            Err(error) => Err(not_written(error)),
        }
    }
}

fn not_written(error: ProposeError) -> Status {
    match error {
        ProposeError::Unknown { .. } => status::unknown(error),
        ProposeError::TooLarge { .. } => status::invalid("request", error.to_string()),
        ProposeError::NoSpace { .. } => status::no_space(error),
        ProposeError::NotDone { .. } | ProposeError::NotLeader { .. } => status::unavailable(error),
    }
}
