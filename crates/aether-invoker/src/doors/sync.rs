//! The atomics of the files that are also compiled for a model checker, which
//! puts its own in their place.

use std::sync::LazyLock;

pub(crate) use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::atomic::{compiler_fence, fence};

/// Whether the kernel can have all threads of this process order their memory
/// accesses at a word of one of them.
static ASYMMETRIC: LazyLock<bool> = LazyLock::new(kernel::register);

/// `membarrier(2)`, since Linux 4.14.
#[cfg(target_os = "linux")]
mod kernel {
    use rustix::thread::{MembarrierCommand, membarrier};

    pub(super) fn register() -> bool {
        membarrier(MembarrierCommand::RegisterPrivateExpedited).is_ok()
    }

    pub(super) fn order_all_threads() {
        membarrier(MembarrierCommand::PrivateExpedited).expect("the process is registered for it");
    }
}

#[cfg(not(target_os = "linux"))]
mod kernel {
    pub(super) fn register() -> bool {
        false
    }

    pub(super) fn order_all_threads() {}
}

/// One side of a pair of fences. What one thread writes before its light fence and
/// another before its [heavy](heavy_fence) one, at least one of the two sees after
/// its own. The light one is used for each call and costs nothing where the kernel
/// does its part in the heavy one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LightFence {
    asymmetric: bool,
}

impl LightFence {
    pub(crate) fn new() -> Self {
        Self { asymmetric: *ASYMMETRIC }
    }

    #[inline]
    pub(crate) fn pass(self) {
        if self.asymmetric {
            compiler_fence(Ordering::SeqCst);
        } else {
            fence(Ordering::SeqCst);
        }
    }
}

/// The other side; see [`LightFence`].
///
/// # Panics
/// If the kernel refuses what it has registered: a program that filters its system
/// calls has to let `membarrier` pass. Nothing could be said of the table then.
pub(crate) fn heavy_fence() {
    fence(Ordering::SeqCst);
    if *ASYMMETRIC {
        kernel::order_all_threads();
    }
}
