//! Why a pick, a call or a start failed.

use std::fmt;
use std::time::Duration;

use aether_core::coordinates::{SliceName, Version};
use aether_core::ids::InstanceId;
use thiserror::Error;

use crate::body::BoxError;

/// A configuration that cannot work.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// No control-plane address, or absurdly many.
    #[error("control_plane holds {given} addresses; give 1 to {max}")]
    Nodes {
        /// How many were given.
        given: usize,
        /// How many are accepted.
        max: usize,
    },
    /// The name cannot become part of a session id.
    #[error("name '{name}' must be letters, digits, dots, dashes or underscores")]
    Name {
        /// The offending name, shortened.
        name: String,
    },
    /// A bound of zero.
    #[error("{what} must be above zero")]
    Zero {
        /// The field.
        what: &'static str,
    },
}

/// No node of the control plane has sent routing tables in time.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("no routing tables within {} ms; is one of {nodes} up?", waited.as_millis())]
pub struct NotReady {
    /// How long was waited.
    pub waited: Duration,
    /// The addresses that were tried.
    pub nodes: String,
}

/// Why no instance could be picked.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PickError {
    /// No tables have arrived since the start.
    #[error("{slice}: routing tables have not arrived yet")]
    NotReady {
        /// The slice.
        slice: SliceName,
    },
    /// The tables do not name the slice.
    #[error("{slice}: no such slice in the routing tables")]
    NoTable {
        /// The slice.
        slice: SliceName,
    },
    /// No side with a weight above zero has a ready instance.
    #[error("{slice}: no instance is ready")]
    NoEndpoint {
        /// The slice.
        slice: SliceName,
    },
    /// New calls are held for a moment, because the slice is about to switch to
    /// another version. [`SliceHandle::pick_when_open`](crate::SliceHandle::pick_when_open)
    /// waits for it.
    #[error("{slice}: calls are held until the switch to another version")]
    Held {
        /// The slice.
        slice: SliceName,
    },
    /// The invoker has been closed.
    #[error("{slice}: the invoker has been closed")]
    Closed {
        /// The slice.
        slice: SliceName,
    },
}

/// Which instance a failed call was sent to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallTarget {
    /// The slice.
    pub slice: SliceName,
    /// The version.
    pub version: Version,
    /// The instance.
    pub instance: InstanceId,
}

impl fmt::Display for CallTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} at instance {}", self.slice, self.version, self.instance)
    }
}

/// Why a call got no response.
#[derive(Debug, Error)]
pub enum CallError {
    /// There was no instance to send it to.
    #[error(transparent)]
    Pick(#[from] PickError),
    /// It reached no instance: nothing has been carried out.
    #[error("{target}: not reached, after {attempts} attempts")]
    Unreachable {
        /// The last instance tried.
        target: CallTarget,
        /// How many instances were tried.
        attempts: usize,
        /// Why the last attempt failed.
        source: BoxError,
    },
    /// It was sent and no response came: it may have been carried out.
    #[error("{target}: the connection broke before a response")]
    Broken {
        /// The instance.
        target: CallTarget,
        /// What broke.
        source: BoxError,
    },
    /// No response in time: it may have been carried out.
    #[error("{target}: no response within {} ms", after.as_millis())]
    Timeout {
        /// The instance.
        target: CallTarget,
        /// The time that the call was given.
        after: Duration,
    },
    /// The caller's own request body failed, or did not come in time. No fault
    /// of the instance; it may have seen a part of the request.
    #[error("{target}: the request body did not come to its end")]
    RequestBody {
        /// The instance.
        target: CallTarget,
        /// What the body failed with.
        source: BoxError,
    },
    /// The instance has as many calls in flight as are allowed: not sent.
    #[error("{target}: {in_flight} calls are in flight already")]
    Overloaded {
        /// The instance.
        target: CallTarget,
        /// Calls in flight.
        in_flight: u64,
    },
}

impl CallError {
    /// The instance that the call was last sent to, if there was one.
    pub fn target(&self) -> Option<&CallTarget> {
        match self {
            Self::Pick(_) => None,
            Self::Unreachable { target, .. }
            | Self::Broken { target, .. }
            | Self::Timeout { target, .. }
            | Self::RequestBody { target, .. }
            | Self::Overloaded { target, .. } => Some(target),
        }
    }
}
