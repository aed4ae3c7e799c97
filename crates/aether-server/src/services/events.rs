//! The audit records as a stream. The replicated state is the only buffer: a
//! reader is a position in it, and so goes on at any node.

use std::ops::Bound;
use std::sync::Arc;

use aether_core::audit::{AuditPosition, SubjectFilter};
use aether_core::records::AuditRecord;
use aether_core::state::State;
use aether_proto::v1;
use tonic::{Response, Status};

use super::Streamed;
use super::following::{Places, Pulse};
use super::reading::{self, Handover};
use crate::control::{Control, Read};
use crate::deadline::Deadline;
use crate::status;

/// Latest events unless the reader says how many: a screen or two.
const LAST: u32 = 100;

/// Gives the audit records.
#[derive(Clone)]
pub struct Events {
    control: Control,
    places: Places,
}

/// One reader's wishes and where it is.
struct Reader {
    filter: Option<SubjectFilter>,
    follow: bool,
    /// Everything that fits up to here was sent.
    at: AuditPosition,
    to: Handover<v1::EventsResponse>,
}

impl Events {
    /// Over the node's parts.
    pub fn new(control: Control, places: Places) -> Self {
        Self { control, places }
    }

    /// The events that a request asks for.
    pub async fn open(
        &self,
        deadline: Deadline,
        request: v1::EventsRequest,
    ) -> Result<Response<Streamed<v1::EventsResponse>>, Status> {
        let v1::EventsRequest { after, last, subject, follow } = request;
        let filter: Option<SubjectFilter> = status::parsed_if_any("subject", &subject)?;
        let read = self.control.read(false, deadline).await;
        let state = &read.published.state;
        let first = match after {
            Some(v1::EventPosition { index, n }) => {
                let after = AuditPosition::new(index, n);
                check_end(&read, after)?;
                check_kept(state, after)?;
                (later(state, after, filter.as_ref()), after)
            }
            None => {
                (latest(state, last.unwrap_or(LAST), filter.as_ref()), AuditPosition::default())
            }
        };
        let place = self.places.take()?;
        let this = self.clone();
        Ok(reading::answer(move |to| async move {
            let _place = place;
            let (records, at) = first;
            let reader = Reader { filter, follow, at, to };
            this.push(reader, read, records).await
        }))
    }

    /// Sends what is there, and, if it is wanted, what comes.
    async fn push(
        &self,
        mut reader: Reader,
        read: Read,
        records: Vec<Arc<AuditRecord>>,
    ) -> Result<(), Status> {
        let mut states = self.control.watch();
        reader.send(&records).await;
        reader.pass_over(&read.published.state);
        reader.mark(self.control.as_of(&read)).await;
        if !reader.follow {
            return Ok(());
        }
        // A reader holds on to no state while it waits.
        drop((read, records));
        let mut pulse = Pulse::new(self.control.clone());
        loop {
            let published = Arc::clone(&states.borrow_and_update());
            let state = &published.state;
            check_kept(state, reader.at)?;
            reader.send(&later(state, reader.at, reader.filter.as_ref())).await;
            reader.pass_over(state);
            drop(published);
            tokio::select! {
                changed = states.changed() => if changed.is_err() { return Ok(()) },
                beat = pulse.beat() => {
                    let read = Read::own(self.control.local(), !beat?);
                    reader.mark(self.control.as_of(&read)).await;
                }
            }
        }
    }
}

impl Reader {
    async fn send(&mut self, records: &[Arc<AuditRecord>]) {
        for record in records {
            let position = Some(position(record.position()));
            let event = Some(event(record));
            self.to.tell(v1::EventsResponse { event, position, as_of: None }).await;
            self.at = record.position();
        }
    }

    /// What does not fit has been looked at, too.
    fn pass_over(&mut self, state: &State) {
        let last = state.audit.get_max().map(|(last, _)| *last);
        self.at = self.at.max(last.unwrap_or_default());
    }

    /// Tells that the stream lives, and how far it is.
    async fn mark(&self, as_of: v1::AsOf) {
        let position = Some(position(self.at));
        self.to.tell(v1::EventsResponse { event: None, position, as_of: Some(as_of) }).await;
    }
}

/// Those after a position that fit.
fn later(
    state: &State,
    after: AuditPosition,
    filter: Option<&SubjectFilter>,
) -> Vec<Arc<AuditRecord>> {
    let records = state.audit.range((Bound::Excluded(after), Bound::Unbounded));
    let records = records.map(|(_, record)| record);
    records.filter(|record| fits(record, filter)).cloned().collect()
}

/// The last `count` that fit.
fn latest(state: &State, count: u32, filter: Option<&SubjectFilter>) -> Vec<Arc<AuditRecord>> {
    let records = state.audit.values().rev().filter(|record| fits(record, filter));
    let mut latest: Vec<_> = records.take(count as usize).cloned().collect();
    latest.reverse();
    latest
}

fn fits(record: &AuditRecord, filter: Option<&SubjectFilter>) -> bool {
    filter.is_none_or(|filter| filter.takes(&record.subject))
}

/// Refuses a position that no reader can have been given.
fn check_end(read: &Read, after: AuditPosition) -> Result<(), Status> {
    let last = read.published.state.meta.index;
    if after.index <= last {
        return Ok(());
    }
    let problem = format!(
        "position {after} is after the end of the log, {last}; it is of another cluster, or of \
         before a restore"
    );
    Err(read.missing(status::out_of_range("future_position", problem)))
}

/// Refuses to go on where events would be left out.
fn check_kept(state: &State, after: AuditPosition) -> Result<(), Status> {
    let Some(forgotten) = state.meta.audit_forgotten.filter(|forgotten| after < *forgotten) else {
        return Ok(());
    };
    let oldest = state.audit.get_min().map_or(forgotten, |(oldest, _)| *oldest);
    let problem = format!(
        "events after {after} are not kept any more, the oldest is {oldest}; go on after \
         {forgotten}, and without those in between"
    );
    Err(status::out_of_range("compacted", problem))
}

fn position(at: AuditPosition) -> v1::EventPosition {
    v1::EventPosition { index: at.index, n: at.n }
}

fn event(record: &AuditRecord) -> v1::Event {
    let (kind, id) = record.subject.parts();
    v1::Event {
        index: record.index,
        n: record.n,
        wall_ms: record.wall_ms,
        actor: record.actor.clone(),
        kind: kind.map(|kind| kind.to_string()).unwrap_or_default(),
        id: id.to_owned(),
        event: record.event.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::Code;

    #[test]
    fn a_position_after_which_events_are_gone_is_refused_with_the_oldest() {
        let mut state = State::default();
        let after = |index, n| AuditPosition::new(index, n);
        assert!(check_kept(&state, after(0, 0)).is_ok(), "nothing was let go of yet");
        state.meta.audit_forgotten = Some(after(7, 1));
        for kept in [after(7, 1), after(7, 2), after(8, 0)] {
            assert!(check_kept(&state, kept).is_ok(), "{kept}");
        }
        let refused = check_kept(&state, after(7, 0)).unwrap_err();
        assert_eq!(refused.code(), Code::OutOfRange);
        assert_eq!(aether_proto::errors::code_of(&refused).unwrap(), "compacted");
        assert!(refused.message().contains("go on after 7.1"), "{refused}");
    }
}
