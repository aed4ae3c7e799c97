//! Makes the node follow the last accepted directive: holds it against what
//! there is, and carries out what [`decide`] says.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use std::{fs, io};

use aether_core::ids::InstanceId;
use aether_core::records::Desired;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::artifact::Digest;
use crate::decide::{Action, Known, decide};
use crate::directive::{Assignment, Directive, Keeper, Verdict};
use crate::instance::{Instance, Shared, Told};
use crate::logs::put_away;
use crate::shim::spec::Adopted;

/// How long the instances of an earlier agent are looked for before the first
/// report. Each takes milliseconds; one that hangs must not hold up the rest.
const LOOK_MAX: Duration = Duration::from_secs(2);

/// Time until a directive that could not be kept (full disk) is tried again.
const KEEP_RETRY: Duration = Duration::from_secs(1);

/// An instance that exists here.
struct Existing {
    told: watch::Sender<Told>,
    task: tokio::task::AbortHandle,
}

/// Makes the node follow the last accepted directive.
pub(crate) struct Reconciler {
    shared: Arc<Shared>,
    keeper: Arc<Mutex<Keeper>>,
    instances: BTreeMap<InstanceId, Existing>,
    tasks: JoinSet<()>,
}

impl Reconciler {
    /// Starts a task for every instance that an earlier agent left in `dir`.
    /// Returns when all were looked at, so that the first report is whole.
    pub async fn start(shared: Arc<Shared>, keeper: Keeper, dir: &Path) -> io::Result<Self> {
        let mut reconciler = Self {
            shared,
            keeper: Arc::new(Mutex::new(keeper)),
            instances: BTreeMap::new(),
            tasks: JoinSet::new(),
        };
        for entry in fs::read_dir(dir)? {
            let name = entry?.file_name();
            match name.to_string_lossy().parse::<InstanceId>() {
                Ok(id) => reconciler.find_again(id),
                Err(_) => tracing::warn!(?name, "not the directory of an instance; left alone"),
            }
        }
        reconciler.reconcile();
        reconciler.wait_until_looked_at().await;
        Ok(reconciler)
    }

    /// Until it is told otherwise, an instance that is found keeps running, and
    /// is not started.
    fn find_again(&mut self, id: InstanceId) {
        // It runs on from its unpacked tree also when its specification cannot
        // be read, and what nobody claims is removed.
        let digest = Adopted::digest(&self.shared.layout(&id));
        if let Some(digest) = digest.or_else(|| self.assigned_digest(&id)) {
            self.shared.preparer.claim(&id, digest);
        }
        let told = Told { desired: Desired::Drain, work: None, reload: 0 };
        self.create(id, told);
    }

    fn assigned_digest(&self, id: &InstanceId) -> Option<Digest> {
        let accepted = lock(&self.keeper).accepted().cloned()?;
        let work = accepted.assignments.get(id)?.work.as_ref().ok()?;
        work.digest().ok()
    }

    fn create(&mut self, id: InstanceId, told: Told) {
        let (told, receiver) = watch::channel(told);
        let instance = Instance::new(id.clone(), self.shared.clone(), receiver);
        let task = self.tasks.spawn(instance.run());
        self.instances.insert(id, Existing { told, task });
    }

    async fn wait_until_looked_at(&self) {
        let mut changes = self.shared.board.changes();
        let until = Instant::now() + LOOK_MAX;
        while !self.instances.keys().all(|id| self.shared.board.has(id)) {
            let changed = tokio::time::timeout_at(until, changes.changed());
            if changed.await.is_err() {
                tracing::warn!("some instances do not answer; reporting without them");
                return;
            }
        }
    }

    /// Follows every directive that is offered, for as long as the agent lives.
    pub async fn run(mut self, mut offered: mpsc::Receiver<Directive>) {
        let mut changes = self.shared.board.changes();
        let mut unkept: Option<(Directive, Instant)> = None;
        loop {
            let retry_at = unkept.as_ref().map(|(_, at)| *at);
            tokio::select! {
                directive = offered.recv() => match directive {
                    Some(directive) => unkept = self.offer(directive).await,
                    None => std::future::pending().await, // The agent is being shut down.
                },
                () = tokio::time::sleep_until(retry_at.unwrap_or_else(Instant::now)),
                    if retry_at.is_some() =>
                {
                    if let Some((directive, _)) = unkept.take() {
                        unkept = self.offer(directive).await;
                    }
                }
                _ = changes.changed() => {} // Something may have stopped.
            }
            self.reconcile();
            while self.tasks.try_join_next().is_some() {}
        }
    }

    /// Gives the directive back when it could not be kept, and when to try again.
    async fn offer(&mut self, directive: Directive) -> Option<(Directive, Instant)> {
        let fence = directive.fence;
        let (keeper, offered) = (self.keeper.clone(), directive.clone());
        // It is synced to the disk, for which the runtime's threads don't wait.
        let verdict = tokio::task::spawn_blocking(move || lock(&keeper).offer(offered)).await;
        match verdict {
            Ok(Ok(Verdict::Accepted)) => tracing::debug!(?fence, "directive accepted"),
            Ok(Ok(Verdict::Known)) => {}
            Ok(Ok(Verdict::Older(seen))) => {
                tracing::warn!(?fence, ?seen, "older directive refused");
            }
            Ok(Err(error)) => {
                tracing::error!(%error, "directive not followed, because it cannot be kept");
                return Some((directive, Instant::now() + KEEP_RETRY));
            }
            Err(_) => {} // The runtime ends.
        }
        None
    }

    fn reconcile(&mut self) {
        let directive = lock(&self.keeper).accepted().cloned();
        let Some(directive) = directive else { return };
        let known = self.instances.iter().map(|(id, existing)| {
            let stopped = self.shared.board.is_stopped(id);
            let told = existing.told.borrow().desired;
            (id.clone(), Known { told, stopped })
        });
        let wanted = directive.assignments.iter();
        let wanted = wanted.map(|(id, assignment)| (id.clone(), assignment.desired));
        for action in decide(&wanted.collect(), &known.collect()) {
            self.carry_out(action, &directive);
        }
        // Who holds an archive may change while it is being fetched.
        for (id, assignment) in &directive.assignments {
            if let Some(existing) = self.instances.get(id) {
                existing.told.send_if_modified(|told| {
                    let work = Some(assignment.work.clone());
                    let differs = told.work != work || told.reload != assignment.reload();
                    (told.work, told.reload) = (work, assignment.reload());
                    differs
                });
            }
        }
    }

    fn carry_out(&mut self, action: Action, directive: &Directive) {
        let told = |id: &InstanceId, desired| {
            let assignment = directive.assignments.get(id);
            let work = assignment.map(|assignment| assignment.work.clone());
            Told { desired, work, reload: assignment.map_or(0, Assignment::reload) }
        };
        match action {
            Action::Create(id, desired) => {
                tracing::info!(instance = %id, ?desired, "assigned");
                let told = told(&id, desired);
                self.create(id, told);
            }
            Action::Tell(id, desired) => {
                let told = told(&id, desired);
                if told.work.is_none() {
                    tracing::warn!(instance = %id, "nobody wants it: stopping it");
                }
                if let Some(existing) = self.instances.get(&id) {
                    existing.told.send_replace(told);
                }
            }
            Action::Forget(id) => self.forget(&id),
        }
    }

    fn forget(&mut self, id: &InstanceId) {
        if let Some(existing) = self.instances.remove(id) {
            existing.task.abort();
        }
        self.shared.board.remove(id);
        let (shared, id) = (self.shared.clone(), id.clone());
        tokio::task::spawn_blocking(move || {
            if let Err(error) = put_away(&shared.config.data_dir, &id) {
                // Found and forgotten again by the next agent.
                tracing::warn!(instance = %id, %error, "files of a gone instance stay");
            }
            shared.preparer.give_up(&id);
        });
    }
}

fn lock(keeper: &Mutex<Keeper>) -> std::sync::MutexGuard<'_, Keeper> {
    keeper.lock().unwrap_or_else(PoisonError::into_inner)
}
