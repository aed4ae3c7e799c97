//! What holds for every request, whatever its path.

use std::any::Any;

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};

use crate::problem::Problem;

/// Refuses bodies that would have to be unpacked first: a few kilobytes could
/// become gigabytes, and no request here is worth the packing.
pub(crate) async fn plain_bodies(request: Request, next: Next) -> Response {
    let mut codings = request.headers().get_all(header::CONTENT_ENCODING).iter();
    let packed = |coding: &HeaderValue| !coding.as_bytes().eq_ignore_ascii_case(b"identity");
    if !codings.any(packed) {
        return next.run(request).await;
    }
    let problem = Problem::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "packed_body",
        "send the body as it is, without Content-Encoding; an archive is packed already",
    );
    let mut response = problem.into_response();
    let plain = HeaderValue::from_static("identity");
    response.headers_mut().insert(header::ACCEPT_ENCODING, plain);
    response
}

/// The answer when a handler panicked. The panic itself is in this node's log.
pub(crate) fn panicked(_: Box<dyn Any + Send>) -> Response {
    Problem::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        "internal",
        "this request met a fault of the server; its log says which. If it was to change \
         something, look before you repeat it",
    )
    .into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::Router;
    use axum::body::Body;
    use tonic::codegen::Service;
    use tower_http::catch_panic::CatchPanicLayer;

    #[tokio::test]
    async fn a_panic_is_answered_and_the_next_request_is_served() {
        let mut router = Router::new()
            .route("/well", axum::routing::get(|| async { "well" }))
            .route("/ill", axum::routing::get(|| async { panic!("planted") as () }))
            .layer(CatchPanicLayer::custom(panicked));
        for (path, status) in [("/ill", 500), ("/well", 200), ("/ill", 500)] {
            let request = Request::get(path).body(Body::empty()).unwrap();
            let answer = router.call(request).await.unwrap();
            assert_eq!(answer.status(), status);
            let kind = answer.headers().get(header::CONTENT_TYPE).unwrap();
            assert_eq!(kind == "application/problem+json", status == 500);
        }
    }
}
