//! What the HTTP library answers by itself, before any route is known: a head
//! that cannot be parsed, is too long, or has too many headers. It sends these
//! answers without a body; here they get one, as every other error has. A head
//! that comes too slowly it does not answer at all: that is done here.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Bytes;
use http::StatusCode;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::sync::watch;

use crate::problem::Problem;

/// A connection on which answers without a body are given one.
pub(crate) struct Spoken<S> {
    stream: S,
    /// Whether an answer of ours is being sent.
    busy: watch::Receiver<bool>,
    instead: Option<Instead>,
}

/// Bytes that go out in place of others.
struct Instead {
    bytes: Bytes,
    stands_for: usize,
}

impl<S> Spoken<S> {
    pub(crate) fn new(stream: S, busy: watch::Receiver<bool>) -> Self {
        Self { stream, busy, instead: None }
    }
}

/// How long a client has to take an answer that it did not wait for, and to end
/// its side: what it still sends to a closed one would take the answer away.
const LINGER: Duration = Duration::from_secs(1);

/// Answers a head that did not come whole in time, and ends the connection.
pub(crate) async fn head_too_slow(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let detail = "the head of the request did not arrive in time; send it in one piece";
    let problem = Problem::new(StatusCode::REQUEST_TIMEOUT, "head_too_slow", detail);
    let body = problem.body();
    let answer = format!(
        "HTTP/1.1 408 Request Timeout\r\nconnection: close\r\n\
         content-type: application/problem+json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let said = async {
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await?;
        let mut rest = [0; 1_024];
        while stream.read(&mut rest).await? > 0 {}
        io::Result::Ok(())
    };
    // Who does not take it, or is gone, misses nothing.
    let _ = tokio::time::timeout(LINGER, said).await;
}

/// The answer in full, if this is one that the library makes by itself: a head
/// and nothing more, sent at once.
fn in_full(written: &[u8]) -> Option<Bytes> {
    const EMPTY: &str = "content-length: 0\r\n";
    let head = std::str::from_utf8(written).ok()?;
    let line = head.strip_prefix("HTTP/1.1 ").or_else(|| head.strip_prefix("HTTP/1.0 "))?;
    if !head.ends_with("\r\n\r\n") || head.matches("\r\n\r\n").count() != 1 || !head.contains(EMPTY)
    {
        return None;
    }
    let status = StatusCode::from_bytes(line.get(..3)?.as_bytes()).ok()?;
    let (code, detail) = match status {
        StatusCode::BAD_REQUEST => ("bad_head", "the head of the request is not HTTP/1.1"),
        StatusCode::URI_TOO_LONG => ("uri_too_long", "the path and query are too long"),
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => {
            ("head_too_large", "the head has more than 100 headers, or is too long")
        }
        _ => return None,
    };
    let body = Problem::new(status, code, detail).body();
    let length = body.len();
    let fields = format!("content-type: application/problem+json\r\ncontent-length: {length}\r\n");
    Some((head.replacen(EMPTY, &fields, 1) + &body).into())
}

impl<S: AsyncRead + Unpin> AsyncRead for Spoken<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Spoken<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.instead.is_none() && !*this.busy.borrow() {
            let full = in_full(bytes);
            this.instead = full.map(|full| Instead { bytes: full, stands_for: bytes.len() });
        }
        let Some(instead) = &mut this.instead else {
            return Pin::new(&mut this.stream).poll_write(context, bytes);
        };
        while !instead.bytes.is_empty() {
            match ready!(Pin::new(&mut this.stream).poll_write(context, &instead.bytes))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                sent => drop(instead.bytes.split_to(sent)),
            }
        }
        let stands_for = instead.stands_for;
        this.instead = None;
        Poll::Ready(Ok(stands_for))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_answer_of_the_library_gets_a_body() {
        let own = "HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\n\
                   content-length: 0\r\ndate: now\r\n\r\n";
        let full = in_full(own.as_bytes()).unwrap();
        let full = std::str::from_utf8(&full).unwrap();
        let (head, body) = full.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{head}");
        assert!(head.contains("content-type: application/problem+json\r\n"), "{head}");
        assert!(body.contains("\"code\":\"head_too_large\""), "{body}");
        for other in [
            "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 400 Bad Request\r\ncontent-length: 10\r\n\r\n0123456789",
            "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n",
            &format!("{own}{own}"),
            "some log line with HTTP/1.1 400 and content-length: 0\r\n\r\n",
        ] {
            assert_eq!(in_full(other.as_bytes()), None, "{other}");
        }
    }
}
