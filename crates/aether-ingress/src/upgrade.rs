//! Switching to another protocol (RFC 9110, section 7.8): a WebSocket, or
//! whatever client and instance agree on. The two connections are joined, and
//! nothing here knows what goes over them.
//!
//! `h2c` is never asked for: it would take the requests that follow past the
//! routes. Nor is a switch with a body before it, which a server may take as the
//! plain request that it also is.

use std::io;
use std::pin::{Pin, pin};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aether_invoker::ResponseBody;
use http::header::{CONNECTION, HeaderMap, HeaderValue, UPGRADE};
use http::{Request, Version};
use hyper::body::Body;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{sleep, timeout};

use crate::headers::tokens;

/// What is read from one side before it goes to the other. Each tunnel has two.
const BUFFER_BYTES: usize = 16 * 1024;

/// The protocols that a client would rather go on with, if it asks for any that
/// may be passed on. To be looked at before the headers of its connection go.
pub(crate) fn asked<B: Body>(request: &Request<B>) -> Option<HeaderValue> {
    let headers = request.headers();
    let connection = headers.get_all(CONNECTION).iter();
    if !headers.contains_key(UPGRADE)
        || request.version() != Version::HTTP_11
        || !request.body().is_end_stream()
        || !tokens(connection).any(|token| token.eq_ignore_ascii_case(b"upgrade"))
    {
        return None;
    }
    let is_http2 = |token: &[u8]| {
        [&b"h2c"[..], b"h2"].iter().any(|name| token.eq_ignore_ascii_case(name))
            || token.len() >= 5 && token[..5].eq_ignore_ascii_case(b"http/")
    };
    let protocols: Vec<&[u8]> =
        tokens(headers.get_all(UPGRADE).iter()).filter(|token| !is_http2(token)).collect();
    let all = protocols.join(&b", "[..]);
    HeaderValue::try_from(all).ok().filter(|all| !all.is_empty())
}

/// Says so anew, for this connection.
pub(crate) fn announce(headers: &mut HeaderMap, protocols: HeaderValue) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, protocols);
}

/// The protocols that an instance switched to, if they are among those that it
/// was asked for.
pub(crate) fn agreed(asked: &HeaderValue, answer: &HeaderMap) -> Option<HeaderValue> {
    let value = answer.get(UPGRADE)?;
    let was_asked = |token: &[u8]| {
        tokens(std::iter::once(asked)).any(|asked| asked.eq_ignore_ascii_case(token))
    };
    let mut named = tokens(std::iter::once(value)).peekable();
    (named.peek().is_some() && named.all(was_asked)).then(|| value.clone())
}

/// What a client's connection goes on with once it has left HTTP. Run by the
/// task of the connection, so that it counts as one for as long as it lasts.
#[derive(Default)]
pub(crate) struct Next(Mutex<Option<Pin<Box<dyn Future<Output = ()> + Send>>>>);

impl Next {
    /// Joins both connections when their turn has come.
    pub(crate) fn join(&self, client: OnUpgrade, instance: ResponseBody, idle_max: Duration) {
        let tunnel = async move {
            let (client, instance) = tokio::join!(client, instance.into_tunnel());
            match (client, instance) {
                (Ok(client), Ok(instance)) => join(TokioIo::new(client), instance, idle_max).await,
                // Whichever is there is closed.
                (client, instance) => {
                    let (client, instance) = (client.err(), instance.err());
                    tracing::debug!(?client, ?instance, "a switch of protocols failed");
                }
            }
        };
        *self.0.lock().expect("no code panics while it holds a tunnel") = Some(Box::pin(tunnel));
    }

    /// Runs what is there.
    pub(crate) async fn run(&self) {
        let next = self.0.lock().expect("no code panics while it holds a tunnel").take();
        if let Some(next) = next {
            next.await;
        }
    }
}

/// Carries bytes both ways until both sides have ended theirs, or one breaks or takes
/// nothing for `idle_max`. Once one has ended, the other has to move something within
/// each `idle_max`.
async fn join<A, B>(client: A, instance: B, idle_max: Duration)
where
    A: AsyncRead + AsyncWrite + Send,
    B: AsyncRead + AsyncWrite + Send,
{
    let moved = AtomicU64::new(0);
    let (client_reads, client_writes) = tokio::io::split(client);
    let (instance_reads, instance_writes) = tokio::io::split(instance);
    let mut up = pin!(carry(client_reads, instance_writes, &moved, idle_max));
    let mut down = pin!(carry(instance_reads, client_writes, &moved, idle_max));
    let (ended, mut other): (_, Pin<&mut (dyn Future<Output = io::Result<()>> + Send)>) = tokio::select! {
        ended = up.as_mut() => (ended, down),
        ended = down.as_mut() => (ended, up),
    };
    if ended.is_err() {
        return;
    }
    loop {
        let before = moved.load(Ordering::Relaxed);
        tokio::select! {
            _ = other.as_mut() => return,
            () = sleep(idle_max) => if moved.load(Ordering::Relaxed) == before { return },
        }
    }
}

/// Carries bytes one way to their end, and ends the other side with them.
async fn carry(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    moved: &AtomicU64,
    idle_max: Duration,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let length = from.read(&mut buffer).await?;
        if length == 0 {
            return to.shutdown().await;
        }
        let mut left = &buffer[..length];
        while !left.is_empty() {
            match timeout(idle_max, to.write(left)).await?? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                taken => left = &left[taken..],
            }
        }
        timeout(idle_max, to.flush()).await??;
        moved.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{Empty, Full};

    use super::*;

    fn asks(headers: &[(&str, &str)]) -> Option<String> {
        let mut builder = Request::builder();
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        let request = builder.body(Empty::<&[u8]>::new()).unwrap();
        asked(&request).map(|asked| asked.to_str().unwrap().to_owned())
    }

    #[test]
    fn only_what_may_be_passed_on_is_asked_for() {
        let both = |upgrade| asks(&[("connection", "keep-alive, Upgrade"), ("upgrade", upgrade)]);
        assert_eq!(both("websocket").as_deref(), Some("websocket"));
        assert_eq!(both("h2c, WebSocket, foo/2").as_deref(), Some("WebSocket, foo/2"));
        assert_eq!(both("h2c"), None);
        assert_eq!(both("HTTP/2.0, H2"), None);
        assert_eq!(both(" , "), None);
        assert_eq!(asks(&[("upgrade", "websocket")]), None);
        assert_eq!(asks(&[("connection", "upgrade")]), None);
        let switch = || Request::builder().header(CONNECTION, "upgrade").header(UPGRADE, "a");
        let with_body = switch().body(Full::new(&b"x"[..])).unwrap();
        assert_eq!(asked(&with_body), None);
        for (version, expected) in [(Version::HTTP_10, false), (Version::HTTP_11, true)] {
            let request = switch().version(version).body(Empty::<&[u8]>::new()).unwrap();
            assert_eq!(asked(&request).is_some(), expected);
        }
    }

    #[test]
    fn a_switch_is_to_what_was_asked_for() {
        let asked = HeaderValue::from_static("websocket, foo/2");
        for (answer, agrees) in
            [("WebSocket", true), ("foo/2", true), ("foo/3", false), ("", false), ("h2c", false)]
        {
            let mut headers = HeaderMap::new();
            assert_eq!(agreed(&asked, &headers), None);
            headers.insert(UPGRADE, HeaderValue::from_static(answer));
            assert_eq!(agreed(&asked, &headers).is_some(), agrees, "{answer}");
        }
    }
}
