//! One request: from the client to an instance and back.

use std::sync::Arc;
use std::time::Duration;

use aether_invoker::{
    CallError, CallOptions, CallTarget, Invoker, ResponseBody, SliceHandle, is_grpc,
};
use arc_swap::ArcSwap;
use http::header::{HeaderMap, HeaderName, HeaderValue, UPGRADE};
use http::{Method, Request, Response, StatusCode};
use hyper::body::{Body, Incoming};
use hyper::upgrade::OnUpgrade;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::access::Access;
use crate::body::IngressBody;
use crate::config::Config;
use crate::headers::{Client, ensure_id, host_of, strip_hop_by_hop};
use crate::limit::Limited;
use crate::problem::Refusal;
use crate::routes::Routes;
use crate::upgrade;

/// How long a request waits for the first tables. An ingress that has just
/// started has them within a few milliseconds of reaching a voter; where none
/// answers, the client had better try another ingress.
const FIRST_TABLES_MAX: Duration = Duration::from_secs(5);

/// What all connections share.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) invoker: Invoker,
    pub(crate) config: Config,
    pub(crate) routes: ArcSwap<Routes>,
    /// Whether the routes are those of tables, and not of an ingress that has
    /// not had any yet.
    pub(crate) ready: watch::Receiver<bool>,
}

impl Proxy {
    /// Answers one request, in any case. `next` is what the connection goes on
    /// with after an answer that switches to another protocol.
    pub(crate) async fn answer(
        &self,
        client: &Client,
        next: &upgrade::Next,
        mut request: Request<Incoming>,
    ) -> Response<IngressBody> {
        let is_grpc = is_grpc(request.headers());
        let access = self.config.access_log.then(|| {
            ensure_id(request.headers_mut());
            Access::begin(client, &request)
        });
        let (response, target) = match self.pass(client, next, request).await {
            Ok(passed) => passed,
            Err(refusal) => {
                let target = refusal.target.clone();
                let refused = if is_grpc { refusal.into_grpc() } else { refusal.into_problem() };
                (refused, target)
            }
        };
        match access {
            None => response,
            Some(mut access) => {
                access.answered(&response, target);
                response.map(|body| body.logged(access))
            }
        }
    }

    async fn pass(
        &self,
        client: &Client,
        next: &upgrade::Next,
        mut request: Request<Incoming>,
    ) -> Result<Passed, Refusal> {
        if request.method() == Method::CONNECT {
            let detail = "this is a reverse proxy: CONNECT is not offered";
            return Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, detail));
        }
        let is_other = |scheme: &str| !client.may_name(scheme, &request);
        if request.uri().scheme_str().is_some_and(is_other) {
            let detail = "the request names a scheme that is not spoken here";
            return Err(Refusal::new(StatusCode::BAD_REQUEST, detail));
        }
        let host = host_of(&request).map_err(|bad| Refusal::new(StatusCode::BAD_REQUEST, bad.0))?;
        let mut slice = self.find(&host, request.uri().path());
        if slice.is_none() && !*self.ready.borrow() {
            self.first_tables().await;
            slice = self.find(&host, request.uri().path());
        }
        let slice = slice.ok_or_else(|| self.no_route(&host, request.uri().path()))?;
        drop(host);
        let switch = upgrade::asked(&request)
            .map(|asked| Switch { asked, client: hyper::upgrade::on(&mut request) });
        client.rewrite(&mut request);
        if let Some(Switch { asked, .. }) = &switch {
            upgrade::announce(request.headers_mut(), asked.clone());
        }
        let options = CallOptions {
            timeout: Some(self.config.request_timeout),
            describe: self.config.debug || self.config.access_log,
            idempotent: self.config.retry_safe && request.method().is_safe(),
        };
        let response = self.send(&slice, request, options).await?;
        self.hand_on(response, switch, next)
    }

    async fn send(
        &self,
        slice: &SliceHandle,
        request: Request<Incoming>,
        options: CallOptions,
    ) -> Result<Response<ResponseBody>, Refusal> {
        let failed = |error: CallError| {
            tracing::debug!(%error, "a call failed");
            Refusal::of_call(&error)
        };
        let Some(bytes_max) = self.config.body_bytes_max else {
            return slice.send_with(request, options).await.map_err(failed);
        };
        let too_long = || {
            let detail = format!("the request body is longer than {bytes_max} bytes");
            Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
        };
        if request.body().size_hint().lower() > bytes_max {
            return Err(too_long());
        }
        let (head, body) = request.into_parts();
        let (body, exceeded) = Limited::new(body, bytes_max);
        let sent = slice.send_with(Request::from_parts(head, body), options).await;
        sent.map_err(|error| if exceeded.get() { too_long() } else { failed(error) })
    }

    fn find(&self, host: &str, path: &str) -> Option<Arc<SliceHandle>> {
        self.routes.load().find(host, path).map(Arc::clone)
    }

    /// Waits for them, but not for ever.
    #[cold]
    async fn first_tables(&self) {
        let mut ready = self.ready.clone();
        let patience = FIRST_TABLES_MAX.min(self.config.request_timeout);
        // Whether they came is looked at afterwards.
        let _ = timeout(patience, ready.wait_for(|ready| *ready)).await;
    }

    #[cold]
    fn no_route(&self, host: &str, path: &str) -> Refusal {
        if !*self.ready.borrow() {
            let detail = "routing tables have not arrived yet";
            return Refusal::new(StatusCode::SERVICE_UNAVAILABLE, detail);
        }
        let path: String = path.chars().take(200).collect();
        let detail = format!("no ingress rule matches host '{host}' and path '{path}'");
        Refusal::new(StatusCode::NOT_FOUND, detail)
    }

    fn hand_on(
        &self,
        mut response: Response<ResponseBody>,
        switch: Option<Switch>,
        next: &upgrade::Next,
    ) -> Result<Passed, Refusal> {
        let status = response.status();
        let agreed = switch.as_ref().and_then(|s| upgrade::agreed(&s.asked, response.headers()));
        if status.is_informational()
            && (status != StatusCode::SWITCHING_PROTOCOLS || agreed.is_none())
        {
            let detail = format!("an instance answered with status {status}, unasked");
            return Err(Refusal::new(StatusCode::BAD_GATEWAY, detail));
        }
        let wanted = response.headers().get(UPGRADE).cloned();
        strip_hop_by_hop(response.headers_mut());
        let target = response.extensions_mut().remove::<CallTarget>();
        if let Some(target) = target.as_ref().filter(|_| self.config.debug) {
            describe(response.headers_mut(), target);
        }
        match (switch, agreed, wanted) {
            (Some(Switch { client, .. }), Some(agreed), _) if status.is_informational() => {
                upgrade::announce(response.headers_mut(), agreed);
                let (head, body) = response.into_parts();
                next.join(client, body, self.config.stall_timeout);
                return Ok((Response::from_parts(head, IngressBody::empty()), target));
            }
            // The answer means nothing without the protocols that it is about.
            (.., Some(wanted)) if status == StatusCode::UPGRADE_REQUIRED => {
                upgrade::announce(response.headers_mut(), wanted);
            }
            _ => {}
        }
        Ok((response.map(IngressBody::instance), target))
    }
}

/// What an instance answered, and which one, if that is to be said.
type Passed = (Response<IngressBody>, Option<CallTarget>);

/// A client that would rather go on with another protocol.
struct Switch {
    asked: HeaderValue,
    client: OnUpgrade,
}

fn describe(headers: &mut HeaderMap, target: &CallTarget) {
    let mut set = |name: &'static str, value: String| {
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    };
    set("x-aether-slice", target.slice.to_string());
    set("x-aether-version", target.version.to_string());
    set("x-aether-instance", target.instance.to_string());
}
