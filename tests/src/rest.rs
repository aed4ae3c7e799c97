//! REST as a script would speak it.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{HeaderMap, Method, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

/// What a node answered.
#[derive(Debug)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Headers.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
}

impl Answer {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// When it is none.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_slice(&self.body).with_context(|| format!("not JSON: {}", self.text()))
    }

    /// A header as text, empty if it is absent.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The `code` and the `error` of an error answer.
    ///
    /// # Errors
    /// When it is no `application/problem+json` that agrees with the status.
    pub fn problem(&self) -> Result<(String, String)> {
        let what = || format!("not a problem: {} {}", self.status, self.text());
        let problem = self.json().with_context(what)?;
        let agrees = self.header("content-type") == "application/problem+json"
            && problem["status"] == self.status
            && problem["error"] == problem["detail"];
        anyhow::ensure!(agrees, what());
        let member = |name: &str| problem[name].as_str().map(str::to_owned);
        member("code").zip(member("error")).with_context(what)
    }
}

/// Sends one request on a connection of its own.
///
/// # Errors
/// When no answer comes.
pub async fn send(
    to: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> Result<Answer> {
    let method: Method = method.parse()?;
    let mut request = Request::builder().method(&method).uri(format!("http://{to}{path}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build_http();
    let answer = client.request(request.body(Full::new(body.into()))?).await;
    let answer = answer.with_context(|| format!("{method} {path} at {to}"))?;
    let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
    let body = answer.into_body().collect().await?.to_bytes();
    Ok(Answer { status, headers, body })
}

/// GET.
///
/// # Errors
/// When no answer comes.
pub async fn get(to: SocketAddr, path: &str) -> Result<Answer> {
    send(to, "GET", path, &[], Bytes::new()).await
}

/// POST of a JSON body.
///
/// # Errors
/// When no answer comes.
pub async fn post(to: SocketAddr, path: &str, body: impl Into<Bytes>) -> Result<Answer> {
    send(to, "POST", path, &[("content-type", "application/json")], body).await
}
