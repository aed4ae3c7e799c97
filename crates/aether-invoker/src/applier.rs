//! Turns routing messages into tables, and knows what an acknowledgement may
//! claim. The one writer of all tables; lives in the session's task.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use aether_core::coordinates::SliceName;
use aether_core::ids::{InstanceId, RevisionNo};
use aether_core::table::{SliceTable, VersionSet};
use aether_proto::convert::ConvertError;
use aether_proto::v1;
use thiserror::Error;

use crate::cache::Cached;
use crate::endpoint::{Endpoint, EndpointKey, Member, VersionInfo};
use crate::invoker::{Applied, Shared};
use crate::meter::Meter;
use crate::slice::{Members, Plan, SliceState};

/// How long the figures of an instance are kept after it left the tables, so
/// that they go on if it comes back. Longer than any update keeps an old
/// instance waiting between two routes.
const METER_KEPT: Duration = Duration::from_secs(600);

/// Beyond this many, figures of instances that left are dropped at once.
const METERS_MAX: usize = 50_000;

/// Instances in one report; the others follow in the next. A row takes about
/// half a kilobyte.
const TELEMETRY_ROWS_MAX: usize = 4_000;

/// Between two looks at a plan that has not settled. Only a pick whose thread
/// the system interrupted within a few instructions makes this wait at all.
const SETTLE_POLL: Duration = Duration::from_micros(200);

/// Looks without a pause, before that.
const SETTLE_YIELDS: u32 = 64;

/// A message that must not be applied.
#[derive(Debug, Error)]
pub(crate) enum ApplyError {
    #[error("revision {got:?} is older than {applied:?}, which is applied")]
    Older { got: Applied, applied: Applied },
    #[error("a change of incarnation {got} on tables of incarnation {applied}")]
    OtherIncarnation { got: u64, applied: u64 },
    #[error("a table cannot be read: {0}")]
    Table(#[from] ConvertError),
    #[error("the name of a removed slice cannot be read: {0}")]
    Removed(#[from] aether_core::coordinates::CoordinateError),
}

type MeterKey = (Arc<SliceName>, RevisionNo, InstanceId);

#[derive(Debug)]
struct MeterEntry {
    meter: Arc<Meter>,
    /// (requests, errors) that were sent last.
    reported: Option<(u64, u64)>,
    /// Since when no endpoint uses it.
    unused_since: Option<Instant>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Applier {
    shared: Arc<Shared>,
    /// Endpoints that tables name.
    members: HashMap<EndpointKey, Member>,
    /// Endpoints that left the tables and have calls in flight.
    departed: HashMap<EndpointKey, Arc<Endpoint>>,
    meters: HashMap<MeterKey, MeterEntry>,
}

impl Applier {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        let (members, departed, meters) = Default::default();
        Self { shared, members, departed, meters }
    }

    /// Applies one message. When this returns, no call will start by an older
    /// table any more.
    ///
    /// A change that is older than what is applied is passed over: tables come
    /// whole, so all it could say is known already, and later ones still fit. A
    /// snapshot that is older is an error: its node has not caught up. Only the first
    /// after the tables of a file always counts: nobody was told of those.
    pub(crate) async fn apply(&mut self, message: &v1::RoutingDown) -> Result<(), ApplyError> {
        let got = Applied { incarnation: message.incarnation, revision: message.revision };
        let is_first = message.snapshot && self.shared.cached_age().is_some();
        if let Some(applied) = self.shared.applied().filter(|_| !is_first) {
            let says_nothing =
                !message.snapshot && message.tables.is_empty() && message.removed.is_empty();
            if got < applied && message.snapshot {
                return Err(ApplyError::Older { got, applied });
            }
            if got < applied || (says_nothing && got.incarnation != applied.incarnation) {
                return Ok(());
            }
            if got.incarnation != applied.incarnation && !message.snapshot {
                let (got, applied) = (got.incarnation, applied.incarnation);
                return Err(ApplyError::OtherIncarnation { got, applied });
            }
        }
        // All or nothing: an acknowledgement speaks of the whole message.
        let tables: Vec<SliceTable> =
            message.tables.iter().map(TryInto::try_into).collect::<Result<_, _>>()?;
        let mut removed: Vec<SliceName> =
            message.removed.iter().map(|name| name.parse()).collect::<Result<_, _>>()?;
        if message.snapshot {
            let named: HashSet<&SliceName> = tables.iter().map(|table| &table.slice).collect();
            removed =
                self.shared.slice_states().into_iter().map(|s| SliceName::clone(&s.name)).collect();
            removed.retain(|slice| !named.contains(slice));
        }

        let mut retired = Vec::new();
        for table in tables {
            let state = self.shared.slice_state(&table.slice);
            if state.plan().table.as_deref() != Some(&table) {
                retired.push(self.replace(state, Some(table)));
            }
        }
        for slice in removed {
            let state = self.shared.slice_state(&slice);
            if state.plan().table.is_some() {
                retired.push(self.replace(state, None));
            }
        }
        self.settle(retired).await;
        if message.snapshot || !message.removed.is_empty() {
            self.shared.forget_unused_slices();
        }
        self.shared.set_applied(got);
        Ok(())
    }

    /// Applies the tables of a file, which a node confirmed so long ago.
    pub(crate) async fn apply_cached(&mut self, cached: Cached) -> Result<(), ApplyError> {
        // Before they are there to be seen.
        self.shared.set_cached(cached.age);
        let applied = self.apply(&cached.snapshot).await;
        if applied.is_err() {
            self.shared.forget_applied();
        }
        applied
    }

    /// All that is applied, as a node would send it to who has nothing.
    pub(crate) fn snapshot(&self) -> Option<v1::RoutingDown> {
        let Applied { incarnation, revision } = self.shared.applied()?;
        let states = self.shared.slice_states();
        let table = |state: &Arc<SliceState>| Some((&**state.plan().table.as_ref()?).into());
        Some(v1::RoutingDown {
            incarnation,
            revision,
            snapshot: true,
            tables: states.iter().filter_map(table).collect(),
            ..Default::default()
        })
    }

    /// Empties all tables: no call will start any more.
    pub(crate) async fn clear(&mut self) {
        let mut states = self.shared.slice_states();
        states.retain(|state| state.plan().table.is_some());
        let retired: Vec<_> = states.into_iter().map(|state| self.replace(state, None)).collect();
        self.settle(retired).await;
    }

    /// Swaps one table, and moves endpoints in and out of the tables.
    fn replace(&mut self, state: Arc<SliceState>, table: Option<SliceTable>) -> Retired {
        let table = table.map(Arc::new);
        let set = |side: fn(&SliceTable) -> &Option<VersionSet>| {
            table.as_deref().and_then(|table| side(table).as_ref())
        };
        let before = state.plan();
        let new = self.side(&state, set(|table| &table.new), &before);
        let old = self.side(&state, set(|table| &table.old), &before);
        let plan = state.swap(table, Arc::clone(&new), Arc::clone(&old));
        let dropped = dropped(&plan, [&new, &old]);
        for endpoint in &dropped {
            let key = key_of(&state, endpoint);
            self.members.remove(&key);
            self.departed.insert(key, Arc::clone(endpoint));
        }
        Retired { state, plan, dropped }
    }

    /// Waits until nobody picks by the retired plans any more.
    async fn settle(&mut self, retired: Vec<Retired>) {
        let mut looks = 0;
        while !retired.iter().all(|retired| retired.plan.is_settled()) {
            looks += 1;
            if looks < SETTLE_YIELDS {
                tokio::task::yield_now().await;
            } else {
                tokio::time::sleep(SETTLE_POLL).await;
            }
        }
        for Retired { state, dropped, .. } in retired {
            state.tallies.retire();
            // Those that a later table of the same message took back stay.
            let has_left =
                |endpoint: &&Arc<Endpoint>| self.departed.contains_key(&key_of(&state, endpoint));
            dropped.iter().filter(has_left).for_each(|endpoint| endpoint.leave());
        }
    }

    /// The instances of one side: those that the table `before` has, if it names the same.
    fn side(
        &mut self,
        state: &Arc<SliceState>,
        set: Option<&VersionSet>,
        before: &Plan,
    ) -> Arc<Members> {
        let same = before.sets().into_iter().find(|(known, _)| *known == set);
        if let Some((_, members)) = same {
            return Arc::clone(members);
        }
        let Some(set) = set else { return Arc::default() };
        let info = Arc::new(VersionInfo {
            slice: SliceName::clone(&state.name),
            revision: set.revision,
            version: set.version.clone(),
        });
        let wanted = set.endpoints.iter();
        let members: Vec<Member> = wanted.map(|wanted| self.member(state, &info, wanted)).collect();
        Arc::new(members.into())
    }

    /// The endpoint of a table row: the one that is there, or has calls in
    /// flight from earlier, or a new one.
    fn member(
        &mut self,
        state: &Arc<SliceState>,
        info: &Arc<VersionInfo>,
        wanted: &aether_core::table::Endpoint,
    ) -> Member {
        let key = EndpointKey {
            slice: Arc::clone(&state.name),
            revision: info.revision,
            instance: wanted.instance.clone(),
            address: wanted.address,
        };
        if let Some(member) = self.members.get(&key) {
            return member.clone();
        }
        let endpoint = self.departed.remove(&key).unwrap_or_else(|| {
            Arc::new(Endpoint::new(
                Arc::clone(info),
                wanted.instance.clone(),
                wanted.address,
                self.meter(state, info.revision, &wanted.instance),
                Arc::clone(&self.shared.became_idle),
                self.shared.config.idle_connections_max,
            ))
        });
        endpoint.come_back();
        let member = Member::new(endpoint);
        self.members.insert(key, member.clone());
        member
    }

    fn meter(
        &mut self,
        state: &Arc<SliceState>,
        revision: RevisionNo,
        instance: &InstanceId,
    ) -> Arc<Meter> {
        let key = (Arc::clone(&state.name), revision, instance.clone());
        let entry = self.meters.entry(key).or_insert_with(|| MeterEntry {
            meter: Arc::default(),
            reported: None,
            unused_since: None,
        });
        Arc::clone(&entry.meter)
    }

    /// Instances that left the tables and have calls in flight. Those that
    /// have none any more are let go, with their connections.
    pub(crate) fn busy(&mut self) -> Vec<v1::BusyInstance> {
        let mut busy: HashMap<InstanceId, u64> = HashMap::new();
        self.departed.retain(|key, endpoint| match endpoint.in_flight() {
            0 => {
                endpoint.pool.close();
                false
            }
            in_flight => {
                *busy.entry(key.instance.clone()).or_default() += in_flight;
                true
            }
        });
        let report = |(instance, in_flight): (InstanceId, u64)| v1::BusyInstance {
            instance_id: instance.to_string(),
            in_flight,
        };
        busy.into_iter().map(report).collect()
    }

    /// Calls that began though they were to be held.
    pub(crate) fn late(&self) -> Vec<v1::LateCalls> {
        let late = |state: Arc<SliceState>| {
            let (route_revision, calls) = state.late()?;
            Some(v1::LateCalls { slice: state.name.to_string(), route_revision, calls })
        };
        self.shared.slice_states().into_iter().filter_map(late).collect()
    }

    /// Calls in flight on all endpoints.
    pub(crate) fn in_flight(&self) -> u64 {
        self.all().map(|endpoint| endpoint.in_flight()).sum()
    }

    /// Closes connections that were idle for too long.
    pub(crate) fn sweep_connections(&self) {
        self.all().for_each(|endpoint| endpoint.pool.sweep());
    }

    fn all(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        let members = self.members.values().map(|member| &member.endpoint);
        members.chain(self.departed.values())
    }

    /// Figures that changed since they were last sent. Forgets those of
    /// instances that are long gone.
    pub(crate) fn telemetry(&mut self) -> Vec<v1::EndpointTelemetry> {
        let mut changed = Vec::new();
        let now = Instant::now();
        let kept = if self.meters.len() > METERS_MAX { Duration::ZERO } else { METER_KEPT };
        self.meters.retain(|(slice, revision, instance), entry| {
            let totals = entry.meter.totals();
            if totals != (0, 0) && entry.reported != Some(totals) {
                if changed.len() == TELEMETRY_ROWS_MAX {
                    return true;
                }
                let reading = entry.meter.read();
                entry.reported = Some((reading.requests, reading.errors));
                let (bucket_index, bucket_count) = reading.buckets.into_iter().unzip();
                changed.push(v1::EndpointTelemetry {
                    slice: slice.to_string(),
                    revision: revision.0,
                    instance_id: instance.to_string(),
                    requests: reading.requests,
                    errors: reading.errors,
                    latency_sum_us: reading.latency_sum_us,
                    bucket_index,
                    bucket_count,
                });
            }
            // The other references are those of endpoints.
            if Arc::strong_count(&entry.meter) > 1 {
                entry.unused_since = None;
                return true;
            }
            now - *entry.unused_since.get_or_insert(now) < kept
        });
        changed
    }

    /// A new node knows nothing of this session: tell it everything.
    pub(crate) fn forget_reported(&mut self) {
        for entry in self.meters.values_mut() {
            entry.reported = None;
        }
    }
}

/// A plan that was replaced, and whose.
#[derive(Debug)]
struct Retired {
    state: Arc<SliceState>,
    plan: Arc<Plan>,
    /// Endpoints that it names and its successor does not.
    dropped: Vec<Arc<Endpoint>>,
}

/// Endpoints that a plan names and its successor does not.
fn dropped(plan: &Plan, next: [&Arc<Members>; 2]) -> Vec<Arc<Endpoint>> {
    let is_kept = |members: &Arc<Members>| next.iter().any(|next| Arc::ptr_eq(next, members));
    let left: Vec<_> = plan.sets().map(|(_, members)| members).into();
    if left.iter().all(|members| is_kept(members)) {
        return Vec::new();
    }
    let named: HashSet<_> =
        next.into_iter().flat_map(|next| next.endpoints()).map(Arc::as_ptr).collect();
    let left = left.into_iter().flat_map(|members| members.endpoints());
    left.filter(|endpoint| !named.contains(&Arc::as_ptr(endpoint))).cloned().collect()
}

fn key_of(state: &SliceState, endpoint: &Endpoint) -> EndpointKey {
    EndpointKey {
        slice: Arc::clone(&state.name),
        revision: endpoint.info.revision,
        instance: endpoint.instance.clone(),
        address: endpoint.address,
    }
}
