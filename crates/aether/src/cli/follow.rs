//! Follows an update through its changes, over the failure of any one node.

use std::ops::ControlFlow;

use aether_core::records::UpdateState;
use aether_proto::v1;
use tokio::time::Instant;
use tonic::Streaming;

use super::client::Client;
use super::exit::{Exit, Failure};
use super::options::Wait;
use super::progress::{Progress, Shown};
use super::reconnect::Reconnect;
use super::render;
use super::update::updates;

/// Calls `on` for every message of the update until it breaks or the update
/// has ended, and gives the last message.
///
/// # Errors
/// The update does not exist, nobody answered for too long, or `on` failed.
pub async fn follow(
    client: &Client,
    update_id: &str,
    mut on: impl FnMut(&v1::Update) -> Result<ControlFlow<()>, Failure>,
) -> Result<v1::Update, Failure> {
    let mut reference = v1::UpdateRef { update_id: update_id.to_owned(), ..Default::default() };
    let mut reconnect = Reconnect::new(client);
    loop {
        let opened = client
            .open(reference.clone(), async |channel, request| updates(channel).watch(request).await)
            .await;
        let lost = match opened {
            Ok(mut stream) => {
                reconnect.answered();
                while let Some(update) = next(&mut stream).await {
                    reconnect.heard();
                    // `current` may mean another update after a reconnect.
                    reference.update_id.clone_from(&update.update_id);
                    if on(&update)?.is_break() || is_terminal(&update) {
                        return Ok(update);
                    }
                }
                Failure::new(
                    Exit::Unreachable,
                    "no node tells of this update any more; try 'aether update status'",
                )
            }
            Err(failure) => failure,
        };
        reconnect.after(lost).await?;
    }
}

/// The next message; a broken stream ends like one that is over.
async fn next(stream: &mut Streaming<v1::Update>) -> Option<v1::Update> {
    stream.message().await.ok().flatten()
}

/// The state of an update, if this client knows it.
pub fn state_of(update: &v1::Update) -> Option<UpdateState> {
    UpdateState::ALL.into_iter().find(|state| state.as_str() == update.state)
}

/// Whether nothing will happen to it any more.
pub fn is_terminal(update: &v1::Update) -> bool {
    state_of(update).is_some_and(UpdateState::is_terminal)
}

/// How a waiting verb judges the update that it waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// What was asked for is there.
    Done,
    /// It will not come any more.
    Missed,
    /// Not yet.
    Waiting,
}

/// Waits until `judge` is done, saying each change on stderr.
///
/// # Errors
/// The update went elsewhere, or `wait_timeout` passed: both exit 1.
pub async fn wait_for(
    client: &Client,
    update_id: &str,
    wait: &Wait,
    judge: impl Fn(UpdateState) -> Verdict,
) -> Result<v1::Update, Failure> {
    let began = Instant::now();
    let mut news = render::change::News::default();
    let progress = Progress::waiting();
    let _shown = Shown(&progress);
    progress.now(format!("update {update_id}"));
    let following = follow(client, update_id, |update| {
        if news.is_new(update) {
            progress.say(&render::change::change(update, began.elapsed().as_millis() as u64));
        }
        progress.now(render::change::progress(update));
        Ok(match state_of(update).map(&judge) {
            Some(Verdict::Waiting) | None => ControlFlow::Continue(()),
            Some(_) => ControlFlow::Break(()),
        })
    });
    let Ok(ended) = tokio::time::timeout(wait.wait_timeout.duration(), following).await else {
        return Err(Failure::failed(format!(
            "not there after {}; it goes on: 'aether update explain {update_id}' says what it \
             waits for",
            wait.wait_timeout
        )));
    };
    let update = ended?;
    match state_of(&update).map(judge) {
        Some(Verdict::Done) => Ok(update),
        _ => Err(went_elsewhere(&update)),
    }
}

/// The error for an update that did not go where it was to go.
pub fn went_elsewhere(update: &v1::Update) -> Failure {
    let why = update.outcome.as_ref().map(render::update::reason).unwrap_or_default();
    let why = if why.is_empty() { String::new() } else { format!(" ({why})") };
    Failure::failed(format!(
        "update {} of {} is {}{why}; 'aether update status {}' shows its history",
        update.update_id, update.artifact_base, update.state, update.update_id
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminal_states_are_the_cores() {
        let update = |state: &str| v1::Update { state: state.into(), ..Default::default() };
        for state in ["COMPLETED", "ROLLED_BACK", "FAILED"] {
            assert!(is_terminal(&update(state)), "{state}");
        }
        for state in ["PENDING", "ROUTING", "ROLLING_BACK", "", "LATER_INVENTION"] {
            assert!(!is_terminal(&update(state)), "{state}");
        }
    }

    #[test]
    fn an_update_that_went_elsewhere_says_why() {
        let update = v1::Update {
            update_id: "u1".into(),
            artifact_base: "a.b:c".into(),
            state: "ROLLED_BACK".into(),
            outcome: Some(v1::Reason { code: "crash_loop".into(), message: "exit 1".into() }),
            ..Default::default()
        };
        let failure = went_elsewhere(&update);
        assert_eq!(failure.exit(), Exit::Failed);
        assert!(failure.message().contains("ROLLED_BACK (crash_loop: exit 1)"));
    }

    use crate::cli::client::tests::{over, update};
    use crate::cli::fake::Fake;
    use tonic::Status;

    #[tokio::test]
    async fn a_broken_stream_goes_on_at_another_node_with_the_same_update() {
        let first = Fake::default();
        first.will_stream(
            "Updates/Watch",
            vec![Ok(update("u1", "ROUTING")), Err(Status::unavailable("going down"))],
        );
        let second = Fake::default();
        second.will_stream("Updates/Watch", vec![Ok(update("u1", "COMPLETED"))]);
        let client = over(&[first.serve().await, second.serve().await]);
        let mut states = Vec::new();
        let ended = follow(&client, "current", |update| {
            states.push(update.state.clone());
            Ok(ControlFlow::Continue(()))
        });
        assert_eq!(ended.await.unwrap().state, "COMPLETED");
        assert_eq!(states, ["ROUTING", "COMPLETED"]);
        assert_eq!(first.asked(), ["Updates/Watch update_id=current"]);
        assert_eq!(second.asked(), ["Updates/Watch update_id=u1"]);
    }

    #[tokio::test]
    async fn an_update_that_is_not_there_is_not_asked_for_again() {
        let node = Fake::default();
        node.will_refuse(Status::not_found("update u9 does not exist"));
        let client = over(&[node.serve().await]);
        let failure = follow(&client, "u9", |_| Ok(ControlFlow::Continue(()))).await.unwrap_err();
        assert_eq!(failure.exit(), Exit::NotFound);
        assert_eq!(node.asked(), ["Updates/Watch update_id=u9"]);
    }

    #[tokio::test]
    async fn a_wait_ends_with_what_it_waits_for_or_fails() {
        let wait = |text: &str| Wait { wait: true, wait_timeout: text.parse().unwrap() };
        let judge = |state| match state {
            UpdateState::Deployed => Verdict::Done,
            UpdateState::RollingBack => Verdict::Missed,
            _ => Verdict::Waiting,
        };
        for (last, exit) in [("DEPLOYED", None), ("ROLLING_BACK", Some(Exit::Failed))] {
            let node = Fake::default();
            node.will_stream(
                "Updates/Watch",
                vec![Ok(update("u1", "DEPLOYING")), Ok(update("u1", last))],
            );
            let client = over(&[node.serve().await]);
            let result = wait_for(&client, "u1", &wait("1m"), judge).await;
            assert_eq!(result.map_err(|failure| failure.exit()).err(), exit, "{last}");
        }
        let node = Fake::default();
        node.will_stream("Updates/Watch", vec![Ok(update("u1", "DEPLOYING"))]);
        let client = over(&[node.serve().await]);
        let late = wait_for(&client, "u1", &wait("200ms"), judge).await.unwrap_err();
        assert!(late.message().contains("not there after 200ms"), "{}", late.message());
    }
}
