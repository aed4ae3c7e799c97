//! How updates go: strategies of a start, and a person's word on the way.

use aether_proto::v1;
use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::Services;
use crate::call::request;
use crate::extract::{Caller, OptionalJson, UpdateRef};
use crate::gate::GateBody;
use crate::options::named;
use crate::problem::Problem;
use crate::schema::{self, ChangedUpdate, IfMatch, InUpdate, WriteHeaders};
use crate::updates::changed;

pub(crate) fn routes() -> OpenApiRouter<Services> {
    OpenApiRouter::new().routes(routes!(pause)).routes(routes!(promote))
}

/// How an update goes. With `MANUAL`, or without a strategy, people set every
/// ratio.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct StrategyBody {
    /// CANARY if absent and there are steps, otherwise MANUAL.
    #[schema(inline, value_type = Option<schema::StrategyName>)]
    #[serde(default, deserialize_with = "named")]
    name: Option<String>,
    /// Of CANARY; the guide's recommended ratios if absent. Shares never fall, and
    /// the last step is 1:0.
    #[schema(inline, value_type = Option<schema::Steps>)]
    #[serde(default, deserialize_with = "named")]
    steps: Option<String>,
    /// Steps of so many percent each, in the place of `steps`.
    #[schema(minimum = 1, maximum = 100)]
    step_percent: Option<u32>,
    /// How long a step holds that does not say so; of BLUE_GREEN how long the new
    /// version has to be healthy after the switch. Milliseconds; 300000 if absent.
    /// Of ROLLING how long each batch has to be shown to be healthy by its calls; not
    /// at all if absent or 0.
    #[schema(maximum = 2592000000u64)]
    hold_ms: Option<u64>,
    /// What follows when a threshold is exceeded or the new version does not stay
    /// up; PAUSE if absent.
    #[schema(inline, value_type = Option<schema::StepFailure>)]
    #[serde(default, deserialize_with = "named")]
    on_failure: Option<String>,
    /// How long after its hold a step may lack the requests for a verdict, until
    /// the update pauses as `inconclusive`. Milliseconds; 3600000 if absent.
    #[schema(minimum = 1, maximum = 2592000000u64)]
    patience_ms: Option<u64>,
    /// Calls of so long after a change of the ratio count for no verdict of a step.
    /// Milliseconds; 10000 if absent.
    #[schema(maximum = 2592000000u64)]
    warm_up_ms: Option<u64>,
    /// The new version has only the instances that the ratio needs. Of CANARY.
    scale_with_weight: Option<bool>,
    /// Number of the step, from 1, from which a rollback is refused. The switch of
    /// BLUE_GREEN is step 1.
    #[schema(minimum = 1, maximum = 100)]
    one_way_from: Option<u32>,
    /// How long all of the new set has to stay ready before the switch.
    /// Milliseconds; 0 if absent. Of BLUE_GREEN.
    #[schema(maximum = 2592000000u64)]
    verify_ms: Option<u64>,
    /// The switch of BLUE_GREEN follows by itself then; otherwise it waits for a
    /// promotion.
    auto_promote: Option<bool>,
    /// Most instances that may be missing at any time; shares are rounded down. 1 if
    /// absent, 0 where `maxSurge` is given. Of ROLLING.
    #[schema(inline, value_type = Option<schema::Share>)]
    #[serde(default, deserialize_with = "named")]
    max_unavailable: Option<String>,
    /// Most instances that may be there beyond those wanted; shares are rounded up. 0
    /// if absent. Of ROLLING.
    #[schema(inline, value_type = Option<schema::Share>)]
    #[serde(default, deserialize_with = "named")]
    max_surge: Option<String>,
    /// Sizes of the batches, the last of which repeats; as many as the bounds allow at
    /// once if absent. Of ROLLING.
    #[schema(inline, value_type = Option<schema::Shares>)]
    #[serde(default, deserialize_with = "named")]
    batches: Option<String>,
    /// How long a batch serves before the next one begins, milliseconds; 0 if absent.
    /// Of ROLLING.
    #[schema(maximum = 2592000000u64)]
    stagger_ms: Option<u64>,
    /// Every session holds new calls until all of them do, and only then the switch is
    /// made: no call begins at the old version after the first at the new. Of
    /// BLUE_GREEN.
    barrier: Option<bool>,
    /// How many new instances may fail to stay up before the update stops; 0 if absent.
    /// Of ROLLING.
    #[schema(maximum = 10000)]
    max_failures: Option<u32>,
    /// Instances are not replaced: they get the files of another configuration, and
    /// their processes the signal that `run.reload_signal` of the manifest names. Of
    /// ROLLING.
    reload: Option<bool>,
    /// Who outside is asked before a step is entered or left. Not of MANUAL.
    #[schema(max_items = 16)]
    gates: Option<Vec<GateBody>>,
}

impl StrategyBody {
    pub(crate) fn message(self) -> v1::Strategy {
        v1::Strategy {
            name: self.name.unwrap_or_default(),
            steps: self.steps.unwrap_or_default(),
            step_percent: self.step_percent,
            hold_ms: self.hold_ms,
            on_failure: self.on_failure.unwrap_or_default(),
            patience_ms: self.patience_ms,
            warm_up_ms: self.warm_up_ms,
            scale_with_weight: self.scale_with_weight.unwrap_or_default(),
            one_way_from: self.one_way_from,
            verify_ms: self.verify_ms,
            auto_promote: self.auto_promote.unwrap_or_default(),
            max_unavailable: self.max_unavailable.unwrap_or_default(),
            max_surge: self.max_surge.unwrap_or_default(),
            batches: self.batches.unwrap_or_default(),
            stagger_ms: self.stagger_ms,
            barrier: self.barrier.unwrap_or_default(),
            max_failures: self.max_failures,
            reload: self.reload.unwrap_or_default(),
            gates: self.gates.unwrap_or_default().into_iter().map(GateBody::message).collect(),
        }
    }
}

/// Why an update is to pause.
#[derive(Deserialize, Default, ToSchema)]
#[serde(deny_unknown_fields)]
struct PauseBody {
    /// For the history.
    #[schema(max_length = 100)]
    why: Option<String>,
}

/// Pauses what goes on by itself, until it is resumed.
#[utoipa::path(
    post, path = "/rolling-update/{id}/pause", tag = "updates", operation_id = "pauseUpdate",
    params(InUpdate, WriteHeaders, IfMatch), request_body = Option<PauseBody>,
    responses(ChangedUpdate)
)]
async fn pause(
    State(services): State<Services>,
    UpdateRef(update_id): UpdateRef,
    caller: Caller,
    OptionalJson(body): OptionalJson<PauseBody>,
) -> Result<Response, Problem> {
    let if_modified = caller.precondition.of_update(&services, &update_id).await?;
    let message = v1::PauseRequest {
        update_id,
        why: body.why.unwrap_or_default(),
        if_modified,
        request_id: caller.request_id,
        actor: caller.actor,
    };
    changed(services.updates.pause(request(message))).await
}

/// How far an update is to be promoted.
#[derive(Deserialize, Default, ToSchema)]
#[serde(deny_unknown_fields)]
struct PromoteBody {
    /// To the last step at once.
    full: Option<bool>,
    /// Past the capacity guard and a pause.
    force: Option<bool>,
}

/// Enters the next step of an update that goes by steps.
///
/// Beyond the last step it completes.
#[utoipa::path(
    post, path = "/rolling-update/{id}/promote", tag = "updates", operation_id = "promoteUpdate",
    params(InUpdate, WriteHeaders, IfMatch), request_body = Option<PromoteBody>,
    responses(ChangedUpdate)
)]
async fn promote(
    State(services): State<Services>,
    UpdateRef(update_id): UpdateRef,
    caller: Caller,
    OptionalJson(body): OptionalJson<PromoteBody>,
) -> Result<Response, Problem> {
    let if_modified = caller.precondition.of_update(&services, &update_id).await?;
    let message = v1::PromoteRequest {
        update_id,
        full: body.full.unwrap_or_default(),
        force: body.force.unwrap_or_default(),
        if_modified,
        request_id: caller.request_id,
        actor: caller.actor,
    };
    changed(services.updates.promote(request(message))).await
}
