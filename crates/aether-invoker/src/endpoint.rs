//! One instance at one address: its calls in flight, its recent refusals, its
//! idle connections and its figures. It lives as long as a table names it or a
//! call is in flight on it, across any number of table swaps.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, OnceLock};
use std::time::Instant;

use aether_core::coordinates::{SliceName, Version};
use aether_core::ids::{InstanceId, RevisionNo};
use http::uri::Authority;
use tokio::sync::Notify;

use crate::doors::calls::Calls;
use crate::doors::counter::Lane;
use crate::doors::lane;
use crate::error::CallTarget;
use crate::meter::Meter;
use crate::pool::Pool;

/// First time that an instance is skipped after it refused a connection. It
/// doubles with each further refusal.
const EJECTION_MS_MIN: u64 = 100;
/// Longest time. A restarted instance is found again within it.
const EJECTION_MS_MAX: u64 = 5_000;

/// Milliseconds since the process first asked; never 0.
fn clock_ms() -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    START.elapsed().as_millis() as u64 + 1
}

/// What the instances of one version have in common.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct VersionInfo {
    pub(crate) slice: SliceName,
    pub(crate) revision: RevisionNo,
    pub(crate) version: Version,
}

/// What makes two table rows the same endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct EndpointKey {
    pub(crate) slice: Arc<SliceName>,
    pub(crate) revision: RevisionNo,
    pub(crate) instance: InstanceId,
    pub(crate) address: SocketAddr,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(crate) info: Arc<VersionInfo>,
    pub(crate) instance: InstanceId,
    pub(crate) address: SocketAddr,
    /// The address as requests name it that name no host.
    pub(crate) authority: Authority,
    pub(crate) pool: Pool,
    pub(crate) meter: Arc<Meter>,
    calls: Calls,
    /// Told by the last call of a lane after no table names it any more.
    became_idle: Arc<Notify>,
    /// [`clock_ms`] until which it is skipped; 0 for not at all.
    ejected_until_ms: AtomicU64,
    refusals: AtomicU32,
    /// Over which protocols it has answered.
    http1: AtomicBool,
    http2: AtomicBool,
}

/// What an instance answers over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http1,
    Http2,
}

impl Endpoint {
    pub(crate) fn new(
        info: Arc<VersionInfo>,
        instance: InstanceId,
        address: SocketAddr,
        meter: Arc<Meter>,
        became_idle: Arc<Notify>,
        idle_connections_max: usize,
    ) -> Self {
        Self {
            info,
            instance,
            address,
            authority: address.to_string().parse().expect("an address is an authority"),
            pool: Pool::new(idle_connections_max),
            meter,
            calls: Calls::new(lane::count()),
            became_idle,
            ejected_until_ms: AtomicU64::new(0),
            refusals: AtomicU32::new(0),
            http1: AtomicBool::new(false),
            http2: AtomicBool::new(false),
        }
    }

    /// Calls in flight; see [`Calls::in_flight`].
    pub(crate) fn in_flight(&self) -> u64 {
        self.calls.in_flight()
    }

    /// Counts a call as in flight that ends on this thread. Only from inside of a door.
    #[inline]
    pub(crate) fn begin_bound(&self, lane: Lane) {
        self.calls.begin_bound(lane);
    }

    /// Counts such a call as over.
    #[inline]
    pub(crate) fn end_bound(&self, lane: Lane) {
        if self.calls.end_bound(lane) {
            self.became_idle.notify_one();
        }
    }

    /// No table names it any more, and those that did have settled.
    pub(crate) fn leave(&self) {
        self.calls.leave();
    }

    /// A table names it again.
    pub(crate) fn come_back(&self) {
        self.calls.come_back();
        self.pool.reopen();
    }

    /// Whether calls should rather go elsewhere, as long as others take them.
    #[inline]
    pub(crate) fn is_ejected(&self) -> bool {
        let until = self.ejected_until_ms.load(Ordering::Relaxed);
        until != 0 && clock_ms() < until
    }

    /// It has answered over a protocol.
    pub(crate) fn spoke(&self, protocol: Protocol) {
        let spoke = match protocol {
            Protocol::Http1 => &self.http1,
            Protocol::Http2 => &self.http2,
        };
        // Reading first keeps the cache line shared in the usual case.
        if !spoke.load(Ordering::Relaxed) {
            spoke.store(true, Ordering::Relaxed);
        }
    }

    /// Whether it has answered over HTTP/1.1, and never over HTTP/2.
    pub(crate) fn speaks_http1_only(&self) -> bool {
        self.http1.load(Ordering::Relaxed) && !self.http2.load(Ordering::Relaxed)
    }

    /// A connection was refused: skip it for a while. Several that were refused at a
    /// time count once.
    pub(crate) fn eject(&self) {
        if self.is_ejected() {
            return;
        }
        let refusals = self.refusals.fetch_add(1, Ordering::Relaxed).min(10);
        let skip_ms = (EJECTION_MS_MIN << refusals).min(EJECTION_MS_MAX);
        self.ejected_until_ms.store(clock_ms() + skip_ms, Ordering::Relaxed);
    }

    /// A connection was accepted.
    pub(crate) fn forgive(&self) {
        // Reading first keeps the cache line shared in the usual case.
        if self.refusals.load(Ordering::Relaxed) != 0 {
            self.refusals.store(0, Ordering::Relaxed);
            self.ejected_until_ms.store(0, Ordering::Relaxed);
        }
    }

    /// For errors and log lines.
    pub(crate) fn target(&self) -> CallTarget {
        CallTarget {
            slice: self.info.slice.clone(),
            version: self.info.version.clone(),
            instance: self.instance.clone(),
        }
    }
}

/// An endpoint for as long as tables name it without a break. Each thread refers to
/// the endpoint through a [`Handle`] of its own: were all calls to count in one
/// place who holds it, threads would wait for each other there.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    pub(crate) endpoint: Arc<Endpoint>,
    handles: Arc<[OnceLock<Arc<Handle>>]>,
}

impl Member {
    pub(crate) fn new(endpoint: Arc<Endpoint>) -> Self {
        Self { endpoint, handles: (0..lane::count()).map(|_| OnceLock::new()).collect() }
    }

    /// Counts a call as in flight. Only between entering and settling a gate. A
    /// thread's first call allocates.
    #[inline]
    pub(crate) fn announce(&self, lane: Lane) -> InFlight {
        self.endpoint.calls.begin(lane);
        let handle = || Arc::new(Handle { endpoint: Arc::clone(&self.endpoint), lane: lane.index });
        InFlight(Arc::clone(self.handles[lane.index].get_or_init(handle)))
    }
}

/// An endpoint as the calls of one thread refer to it.
#[derive(Debug)]
struct Handle {
    endpoint: Arc<Endpoint>,
    /// Where its calls are counted.
    lane: usize,
}

/// A call that is counted as in flight for as long as this is there.
#[derive(Debug)]
pub(crate) struct InFlight(Arc<Handle>);

impl InFlight {
    #[inline]
    pub(crate) fn endpoint(&self) -> &Arc<Endpoint> {
        &self.0.endpoint
    }

    /// Calls in flight at the endpoint, with this, if they are more than `max`.
    #[inline]
    pub(crate) fn above(&self, max: u64) -> Option<u64> {
        self.0.endpoint.calls.above(max, self.0.lane)
    }
}

impl Drop for InFlight {
    #[inline]
    fn drop(&mut self) {
        let endpoint = &self.0.endpoint;
        if endpoint.calls.end(self.0.lane) {
            endpoint.became_idle.notify_one();
        }
    }
}

#[cfg(test)]
fn endpoint_for_tests(name: &str, became_idle: Arc<Notify>) -> Arc<Endpoint> {
    let info = Arc::new(VersionInfo {
        slice: "org.example:a".parse().unwrap(),
        revision: RevisionNo(1),
        version: "1.0.0".parse().unwrap(),
    });
    let address = SocketAddr::from(([127, 0, 0, 1], 1));
    let meter = Arc::default();
    Arc::new(Endpoint::new(info, name.parse().unwrap(), address, meter, became_idle, 8))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_last_call_of_a_leaving_endpoint_says_so() {
        let idle = Arc::new(Notify::new());
        let endpoint = endpoint_for_tests("a", Arc::clone(&idle));
        let member = Member::new(Arc::clone(&endpoint));
        let [first, second, third] = [(); 3].map(|()| member.announce(lane::current()));
        drop(first);
        endpoint.leave();
        // What outlasts the tables is the call, not the row.
        drop(member);
        assert_eq!(endpoint.in_flight(), 2);
        // Wherever it ends.
        std::thread::spawn(|| drop(second)).join().unwrap();
        drop(third);
        idle.notified().await;
        assert_eq!(endpoint.in_flight(), 0);
        // And so does one that is bound to its thread.
        endpoint.begin_bound(lane::current());
        endpoint.end_bound(lane::current());
        idle.notified().await;
    }

    #[test]
    fn a_refusal_ejects_until_a_connection_is_accepted() {
        let endpoint = endpoint_for_tests("a", Arc::default());
        assert!(!endpoint.is_ejected());
        endpoint.eject();
        assert!(endpoint.is_ejected());
        endpoint.forgive();
        assert!(!endpoint.is_ejected());
    }
}
