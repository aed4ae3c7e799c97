//! Calls of a service in this process, bounded in time.

use std::future::Future;
use std::time::Duration;

use aether_proto::json::to_json;
use axum::Json;
use serde::Serialize;
use serde_json::Value;
use tonic::{Request, Response, Status};

use crate::problem::{Kind, Problem};

/// How long a request may take. Longer than an election and a retry, shorter
/// than the patience of the usual HTTP client and proxy (30 s and more).
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);

/// A service that keeps to [`DEADLINE`] answers by itself before we give up,
/// and says more than we could.
const DEADLINE_SLACK: Duration = Duration::from_secs(1);

/// A message with its deadline, as a service gets it from the network.
pub(crate) fn request<M>(message: M) -> Request<M> {
    let mut request = Request::new(message);
    request.set_timeout(DEADLINE);
    request
}

/// Waits for a service's answer.
pub(crate) async fn answer<M>(
    kind: Kind,
    call: impl Future<Output = Result<Response<M>, Status>>,
) -> Result<M, Problem> {
    answer_within(DEADLINE + DEADLINE_SLACK, kind, call).await
}

/// What a service that changes nothing answers, as JSON.
pub(crate) async fn read<M: Serialize>(
    call: impl Future<Output = Result<Response<M>, Status>>,
) -> Result<Json<Value>, Problem> {
    Ok(Json(to_json(&answer(Kind::Read, call).await?)))
}

/// What a service that changes something answers, as JSON.
pub(crate) async fn write<M: Serialize>(
    call: impl Future<Output = Result<Response<M>, Status>>,
) -> Result<Json<Value>, Problem> {
    Ok(Json(to_json(&answer(Kind::Write, call).await?)))
}

/// Likewise, for as long as the caller says.
pub(crate) async fn answer_within<M>(
    limit: Duration,
    kind: Kind,
    call: impl Future<Output = Result<Response<M>, Status>>,
) -> Result<M, Problem> {
    let status = match tokio::time::timeout(limit, call).await {
        Ok(Ok(response)) => return Ok(response.into_inner()),
        Ok(Err(status)) => status,
        Err(_) => Status::deadline_exceeded(match kind {
            Kind::Read => "no answer in time; try again, or another node",
            Kind::Write => {
                "no answer in time, so it is not known whether this was carried out; \
                 look before you repeat it"
            }
        }),
    };
    Err(Problem::from_status(&status, kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_service_that_hangs_is_given_up() {
        for (kind, code) in [(Kind::Read, "deadline_exceeded"), (Kind::Write, "outcome_unknown")] {
            let never = std::future::pending::<Result<Response<()>, Status>>();
            let problem = answer_within(Duration::from_millis(1), kind, never).await.unwrap_err();
            assert_eq!(problem.code(), code);
        }
    }
}
