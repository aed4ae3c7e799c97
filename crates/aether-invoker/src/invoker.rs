//! The invoker: what all slices of one session share.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use aether_core::coordinates::SliceName;
use aether_core::ids::{RevisionNo, SessionId};
use aether_core::table::SliceTable;
use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Body;
use tokio::sync::{Notify, mpsc, oneshot, watch};

use crate::applier::Applier;
use crate::body::{BoxError, ResponseBody};
use crate::call::RetryBudget;
use crate::clock;
use crate::config::Config;
use crate::error::{CallError, ConfigError, NotReady};
use crate::keeper::aside;
use crate::session::Session;
use crate::slice::{SliceHandle, SliceState};
use crate::tally::RouteTally;

/// How far the tables are. A later one is greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Applied {
    pub(crate) incarnation: u64,
    pub(crate) revision: u64,
}

/// The stream to the control plane.
#[derive(Debug, Default)]
struct Link {
    node: Option<SocketAddr>,
    heard_at: Option<Instant>,
    /// How old the tables of a file were, and when that was.
    cached: Option<(Duration, Instant)>,
}

/// What callers and the session's task share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) session: SessionId,
    /// A departed endpoint has become idle.
    pub(crate) became_idle: Arc<Notify>,
    pub(crate) budget: RetryBudget,
    slices: ArcSwap<HashMap<SliceName, Arc<SliceState>>>,
    /// Held while `slices` is replaced.
    slices_writer: Mutex<()>,
    applied: watch::Sender<Option<Applied>>,
    link: Mutex<Link>,
    closed: AtomicBool,
}

impl Shared {
    pub(crate) fn new(config: Config, session: SessionId) -> Self {
        Self {
            config,
            session,
            became_idle: Arc::default(),
            budget: RetryBudget::new(),
            slices: ArcSwap::default(),
            slices_writer: Mutex::new(()),
            applied: watch::Sender::new(None),
            link: Mutex::default(),
            closed: AtomicBool::new(false),
        }
    }

    pub(crate) fn applied(&self) -> Option<Applied> {
        *self.applied.borrow()
    }

    pub(crate) fn set_applied(&self, applied: Applied) {
        self.applied.send_replace(Some(applied));
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    pub(crate) fn set_closed(&self) {
        self.closed.store(true, Ordering::Release);
    }

    fn link(&self) -> MutexGuard<'_, Link> {
        self.link.lock().expect("no code panics while it holds the link")
    }

    pub(crate) fn set_node(&self, node: Option<SocketAddr>) {
        self.link().node = node;
    }

    pub(crate) fn heard(&self) {
        let mut link = self.link();
        (link.heard_at, link.cached) = (Some(Instant::now()), None);
    }

    /// The tables are those of a file, which a node confirmed so long ago.
    pub(crate) fn set_cached(&self, age: Duration) {
        self.link().cached = Some((age, Instant::now()));
    }

    /// How old the tables are, if they are those of a file.
    pub(crate) fn cached_age(&self) -> Option<Duration> {
        let link = self.link();
        link.cached.map(|(age, at)| age + at.elapsed())
    }

    /// Since when a node confirmed them.
    pub(crate) fn heard_ago(&self) -> Option<Duration> {
        self.link().heard_at.map(|at| at.elapsed())
    }

    /// There are no tables any more.
    pub(crate) fn forget_applied(&self) {
        *self.link() = Link::default();
        self.applied.send_replace(None);
    }

    /// All slices that a table or a handle has named.
    pub(crate) fn slice_states(&self) -> Vec<Arc<SliceState>> {
        self.slices.load().values().cloned().collect()
    }

    /// The state of a slice, made if it is not there.
    pub(crate) fn slice_state(&self, name: &SliceName) -> Arc<SliceState> {
        let known = self.slices.load().get(name).map(Arc::clone);
        if let Some(state) = known.filter(|state| state.stays()) {
            return state;
        }
        let _writing = self.slices_writer.lock().expect("no code panics while it adds a slice");
        let mut slices = HashMap::clone(&self.slices.load());
        let make = || Arc::new(SliceState::new(name.clone(), seed(&self.session, name)));
        let state = Arc::clone(slices.entry(name.clone()).or_insert_with(make));
        self.slices.store(Arc::new(slices));
        state
    }

    /// Forgets slices that have neither a table nor a handle.
    pub(crate) fn forget_unused_slices(&self) {
        let _writing = self.slices_writer.lock().expect("no code panics while it adds a slice");
        let current = self.slices.load_full();
        let is_used = |state: &Arc<SliceState>| {
            state.plan().table.is_some() || !state.leave(|| Arc::strong_count(state) == 1)
        };
        let used: HashMap<_, _> = current.iter().filter(|(_, state)| is_used(state)).collect();
        if used.len() == current.len() {
            return;
        }
        let slices = used.into_iter();
        let slices = slices.map(|(name, state)| (name.clone(), Arc::clone(state))).collect();
        self.slices.store(Arc::new(slices));
    }
}

/// Where in a cycle a session starts to split calls to a slice, as a hash
/// (FNV-1a), so that a fleet is spread.
fn seed(session: &SessionId, slice: &SliceName) -> u64 {
    let text = format!("{session} {slice}");
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    // FNV's upper bits move little for short texts; this is the finalizer of
    // splitmix64.
    let hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

/// How an invoker is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Its session.
    pub session: SessionId,
    /// (incarnation, revision) of the tables by which calls are made.
    pub applied: Option<(u64, u64)>,
    /// Time since a node last confirmed them.
    pub age: Option<Duration>,
    /// Whether they are those of the last process ([`Config::cache_file`]): no node has
    /// sent any since the start.
    pub is_cached: bool,
    /// The node that it is connected to.
    pub node: Option<SocketAddr>,
    /// Whether it has been closed.
    pub closed: bool,
}

/// Asks the session's task to end, and to say when it has.
pub(crate) type CloseRequest = oneshot::Sender<()>;

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    /// The session's task ends when the last of these is gone.
    close: mpsc::Sender<CloseRequest>,
}

/// Routing tables, kept up to date, and calls by them. Cheap to clone; the
/// session lasts until [`close`](Self::close), or until the last clone and the
/// last [`SliceHandle`] are dropped. It then ends in the same order, in the
/// background, if the runtime lasts long enough: before a process ends, close it.
#[derive(Debug, Clone)]
pub struct Invoker(Arc<Inner>);

impl Invoker {
    /// Starts a session. Returns at once: tables arrive later, see
    /// [`ready`](Self::ready), and are kept up to date by a task.
    ///
    /// # Errors
    /// If the configuration cannot work.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn connect(config: Config) -> Result<Self, ConfigError> {
        config.check()?;
        let session = config.session()?;
        let shared = Arc::new(Shared::new(config, session));
        let (close, requests) = mpsc::channel(1);
        let applier = Applier::new(Arc::clone(&shared));
        let session = Session::new(Arc::clone(&shared), applier, requests);
        tokio::spawn(async move {
            // The first look at this clock calibrates it, which may take a fifth of a second:
            // no call is to wait for that, and none can be made before there are tables.
            let _ = aside(clock::calibrate).await;
            session.run().await;
        });
        Ok(Self(Arc::new(Inner { shared, close })))
    }

    /// One without a session: tables come from elsewhere, or not at all.
    #[cfg(test)]
    pub(crate) fn unconnected(config: Config) -> Self {
        let session = config.session().expect("a name that an id can be made of");
        let shared = Arc::new(Shared::new(config, session));
        Self(Arc::new(Inner { shared, close: mpsc::channel(1).0 }))
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.0.shared
    }

    /// Waits for the first tables.
    ///
    /// # Errors
    /// If none arrive within `limit`.
    pub async fn ready(&self, limit: Duration) -> Result<(), NotReady> {
        let mut applied = self.shared().applied.subscribe();
        let arrived = tokio::time::timeout(limit, applied.wait_for(Option::is_some)).await;
        if let Ok(Ok(_)) = arrived {
            return Ok(());
        }
        let nodes: Vec<String> =
            self.shared().config.control_plane.iter().map(ToString::to_string).collect();
        Err(NotReady { waited: limit, nodes: nodes.join(", ") })
    }

    /// A handle for calls to one slice, whether or not the tables name it yet.
    /// Look it up once and keep it.
    pub fn slice(&self, name: &SliceName) -> SliceHandle {
        SliceHandle { invoker: self.clone(), state: self.shared().slice_state(name) }
    }

    /// Makes one call over HTTP/1.1; see [`SliceHandle::send_with`].
    ///
    /// # Errors
    /// If no instance gave a response.
    pub async fn send<B>(
        &self,
        slice: &SliceName,
        request: Request<B>,
    ) -> Result<Response<ResponseBody>, CallError>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        self.slice(slice).send(request).await
    }

    /// The session's id.
    pub fn session(&self) -> &SessionId {
        &self.shared().session
    }

    /// How it is doing.
    pub fn status(&self) -> Status {
        let shared = self.shared();
        let applied = shared.applied().map(|applied| (applied.incarnation, applied.revision));
        let link = shared.link();
        let cached = link.cached.map(|(age, at)| age + at.elapsed());
        Status {
            session: shared.session.clone(),
            applied,
            age: link.heard_at.map(|at| at.elapsed()).or(cached),
            is_cached: link.cached.is_some(),
            node: link.node,
            closed: shared.is_closed(),
        }
    }

    /// Time since a node last confirmed the tables; `None` before the first.
    pub fn age(&self) -> Option<Duration> {
        self.status().age
    }

    /// The table of one slice.
    pub fn table(&self, slice: &SliceName) -> Option<Arc<SliceTable>> {
        self.shared().slices.load().get(slice)?.plan().table.clone()
    }

    /// All tables, ordered by slice name.
    pub fn tables(&self) -> Vec<Arc<SliceTable>> {
        let mut tables: Vec<_> =
            self.shared().slices.load().values().filter_map(|s| s.plan().table.clone()).collect();
        tables.sort_by(|a, b| a.slice.cmp(&b.slice));
        tables
    }

    /// Changes whenever tables have been applied.
    pub fn changes(&self) -> Changes {
        Changes(self.shared().applied.subscribe())
    }

    /// See [`SliceHandle::tally`]. Empty for a slice that was never named.
    pub fn tally(&self, slice: &SliceName) -> BTreeMap<RevisionNo, u64> {
        let slices = self.shared().slices.load();
        slices.get(slice).map(|state| state.tallies.revisions()).unwrap_or_default()
    }

    /// See [`SliceHandle::route_tallies`]. Empty for a slice that was never
    /// named.
    pub fn route_tallies(&self, slice: &SliceName) -> Vec<RouteTally> {
        let slices = self.shared().slices.load();
        slices.get(slice).map(|state| state.tallies.routes()).unwrap_or_default()
    }

    /// Ends the session in order: new calls fail, those in flight are waited
    /// for ([`Config::close_timeout`]), and the control plane is told. Where
    /// calls outlast that, it is not told: the session's lease then ends it.
    pub async fn close(&self) {
        let (done, ended) = oneshot::channel();
        if self.0.close.send(done).await.is_ok() {
            // An error means that the task has ended, by another `close`.
            let _ = ended.await;
        }
    }
}

/// Tells when tables have been applied.
#[derive(Debug, Clone)]
pub struct Changes(watch::Receiver<Option<Applied>>);

impl Changes {
    /// Waits for the next application, or the first since the last time.
    /// `false` when the invoker is gone and there will be no other.
    pub async fn changed(&mut self) -> bool {
        self.0.changed().await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use crate::config::SessionKind;

    use super::*;

    #[test]
    fn a_slice_is_forgotten_once_nobody_has_it_and_whoever_takes_it_just_then_looks_again() {
        let config = Config::new("test", SessionKind::Invoker, vec![([127, 0, 0, 1], 1).into()]);
        let invoker = Invoker::unconnected(config);
        let (shared, name) = (invoker.shared(), "org.example:a".parse().unwrap());
        let state = shared.slice_state(&name);
        shared.forget_unused_slices();
        assert!(state.stays() && Arc::ptr_eq(&state, &shared.slice_state(&name)));
        // Taken between the two looks of the one who forgets: it is kept.
        let (looks, taken) = (AtomicBool::new(false), AtomicBool::new(false));
        let is_unused = || {
            let is_second = looks.swap(true, Ordering::Relaxed);
            taken.store(is_second && !state.stays(), Ordering::Relaxed);
            !is_second
        };
        assert!(!state.leave(is_unused) && state.stays());
        // Who took it then has seen that it may be about to go.
        assert!(taken.into_inner());
        drop(state);
        shared.forget_unused_slices();
        assert!(shared.slice_states().is_empty());
    }
}
