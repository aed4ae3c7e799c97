//! One POST over plain HTTP/1.1, with a bound on what is read of the answer.
//!
//! No TLS, no redirects, no pool: a gate is asked a few times an hour, and what it
//! answers decides about an update, so that every surprise is better told than
//! handled.

use aether_core::records::HttpUrl;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST, USER_AGENT};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Most that is read of an answer's body, in bytes.
pub const BODY_BYTES_MAX: usize = 64 * 1024;
/// Most that is read of an answer's head, in bytes.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// What is sent.
pub struct Post<'a> {
    /// Where to.
    pub url: HttpUrl<'a>,
    /// Path and query, in the place of the URL's own.
    pub path: &'a str,
    /// Content type.
    pub content_type: &'static str,
    /// Header that is the same for each repetition of the question.
    pub idempotency_key: Option<&'a str>,
    /// Body.
    pub body: String,
}

/// Status and body of the answer.
///
/// # Errors
/// Why there is none, for people.
pub async fn post(post: Post<'_>) -> Result<(u16, Bytes), String> {
    let HttpUrl { authority, host, port, .. } = post.url;
    let stream = TcpStream::connect((host, port))
        .await
        .map_err(|error| format!("{authority} cannot be reached: {error}"))?;
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(HEAD_BYTES_MAX)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| format!("{authority}: {error}"))?;
    let mut request = hyper::Request::post(post.path)
        .header(HOST, authority)
        .header(CONNECTION, "close")
        .header(USER_AGENT, "aether-gate")
        .header(CONTENT_TYPE, post.content_type);
    if let Some(key) = post.idempotency_key {
        request = request.header("idempotency-key", key);
    }
    let request = request
        .body(Full::new(Bytes::from(post.body)))
        .map_err(|error| format!("{authority}: {error}"))?;
    let answering = async {
        let answer = sender.send_request(request).await;
        let answer = answer.map_err(|error| format!("{authority} gave no answer: {error}"))?;
        let status = answer.status().as_u16();
        let body = Limited::new(answer.into_body(), BODY_BYTES_MAX).collect().await;
        let body = body.map_err(|error| match error.is::<LengthLimitError>() {
            true => format!("{status}, with an answer of more than {BODY_BYTES_MAX} bytes"),
            false => format!("{status}, and its answer broke off: {error}"),
        })?;
        Ok((status, body.to_bytes()))
    };
    let (mut answering, mut connection) = (std::pin::pin!(answering), std::pin::pin!(connection));
    tokio::select! {
        biased;
        answered = &mut answering => answered,
        // The end of the connection may come with the answer already there; what it
        // broke over, the answer says.
        _ = &mut connection => answering.await,
    }
}
