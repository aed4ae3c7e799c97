//! One HTTP/1.1 connection that is kept, as thin as a client can be: for ten thousand of them
//! that idle, and for a load that sees which version answers each request.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// The header by which an instance tells its version.
pub const VERSION: &str = "x-version";
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Headers that a response may have.
const HEADERS_MAX: usize = 32;
/// Bytes of the head of a response; those of the peers have less than one KiB.
const HEAD_BYTES_MAX: usize = 8 * 1_024;
/// What a client of HTTP/2 begins with, and its empty SETTINGS (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// The type of a frame, after three bytes of its length, and that of SETTINGS.
const FRAME_TYPE: usize = 3;
const SETTINGS: u8 = 4;

/// How a request ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// By a whole response with status 200 of an instance of this version.
    From(String),
    /// The connection, which had answered before, ended without a byte of an answer: any
    /// server may close one that idles, and a client asks again over another.
    Closed,
}

/// See the module.
pub struct Connection {
    stream: TcpStream,
    is_used: bool,
    ends: bool,
    buffer: Vec<u8>,
}

/// What the head of a response says.
#[derive(Debug, PartialEq, Eq)]
struct Head {
    status: u16,
    version: String,
    bytes: usize,
    body_bytes: usize,
    ends: bool,
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// Nobody listens, or takes it in time.
    pub async fn open(address: SocketAddr) -> Result<Self> {
        let stream = timeout(PATIENCE, TcpStream::connect(address)).await??;
        stream.set_nodelay(true)?;
        Ok(Self { stream, is_used: false, ends: false, buffer: Vec::new() })
    }

    /// Whether a request may follow the last one.
    pub fn is_open(&self) -> bool {
        !self.ends
    }

    /// One GET.
    ///
    /// # Errors
    /// There is no whole answer in time, or one with another status than 200.
    pub async fn get(&mut self, path: &str) -> Result<Answer> {
        let answer = timeout(PATIENCE, self.exchange(path)).await;
        let answer = answer.unwrap_or_else(|_| bail!("no answer in {PATIENCE:?}"));
        self.ends |= !matches!(answer, Ok(Answer::From(_)));
        answer
    }

    async fn exchange(&mut self, path: &str) -> Result<Answer> {
        let request = format!("GET {path} HTTP/1.1\r\nhost: bench.example\r\n\r\n");
        if let Err(error) = self.stream.write_all(request.as_bytes()).await {
            ensure!(self.is_used, "cannot ask over a new connection: {error}");
            return Ok(Answer::Closed);
        }
        self.buffer.clear();
        let head = loop {
            let read = self.stream.read_buf(&mut self.buffer).await;
            if !matches!(read, Ok(1..)) {
                let is_closed = self.is_used && self.buffer.is_empty();
                ensure!(is_closed, "the connection ended within an answer: {read:?}");
                return Ok(Answer::Closed);
            }
            if let Some(head) = head_of(&self.buffer)? {
                break head;
            }
            ensure!(self.buffer.len() < HEAD_BYTES_MAX, "a head of more than {HEAD_BYTES_MAX} B");
        };
        while self.buffer.len() < head.bytes + head.body_bytes {
            let read = self.stream.read_buf(&mut self.buffer).await?;
            ensure!(read > 0, "the connection ended within a body");
        }
        ensure!(head.status == 200, "status {}", head.status);
        // So that ten thousand of them take no more than they need.
        self.buffer = Vec::new();
        (self.is_used, self.ends) = (true, head.ends);
        Ok(Answer::From(head.version))
    }
}

/// The head of a response, once it is whole.
fn head_of(bytes: &[u8]) -> Result<Option<Head>> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(head_bytes) = response.parse(bytes)? else { return Ok(None) };
    let status = response.code.context("a response without status")?;
    let value = |name: &str| {
        let found = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
        found.map(|header| String::from_utf8_lossy(header.value).into_owned())
    };
    let body_bytes = value("content-length").context("a response without its length")?.parse()?;
    let ends = value("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
    let version = value(VERSION).unwrap_or_default();
    Ok(Some(Head { status, version, bytes: head_bytes, body_bytes, ends }))
}

/// Whether somebody speaks HTTP/2 to a client that knows it beforehand (without TLS there is
/// no ALPN to ask).
///
/// # Errors
/// Nobody listens.
pub async fn speaks_http2(address: SocketAddr) -> Result<bool> {
    let mut stream = timeout(PATIENCE, TcpStream::connect(address)).await??;
    stream.write_all(PREFACE).await?;
    let mut frame = [0; FRAME_TYPE + 1];
    // Who does not speak it closes, answers by HTTP/1.1, or says nothing.
    let read = timeout(PATIENCE, stream.read_exact(&mut frame)).await;
    Ok(matches!(read, Ok(Ok(_))) && frame[FRAME_TYPE] == SETTINGS)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn a_head_is_read_when_it_is_whole() {
        let text = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nX-Version: 2.0.0\r\n\r\nabc";
        for end in 0..text.len() - 3 {
            assert_eq!(head_of(&text[..end]).unwrap(), None);
        }
        let head = head_of(text).unwrap().unwrap();
        let version = "2.0.0".to_owned();
        let bytes = text.len() - 3;
        assert_eq!(head, Head { status: 200, version, bytes, body_bytes: 3, ends: false });
        let ends = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: Close\r\n\r\n";
        assert!(head_of(ends).unwrap().unwrap().ends);
        assert!(head_of(b"HTTP/1.1 200 OK\r\n\r\n").is_err(), "a body of unknown length");
        assert!(head_of(b"nonsense\r\n\r\n").is_err());
    }

    /// Answers each connection with these texts, one for a request, and closes it.
    async fn server(answers: &'static [&'static str]) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                for answer in answers {
                    let mut request = [0; 1_024];
                    assert!(stream.read(&mut request).await.unwrap() > 0);
                    stream.write_all(answer.as_bytes()).await.unwrap();
                }
            }
        });
        address
    }

    #[tokio::test]
    async fn a_connection_that_is_closed_between_answers_is_no_failure_but_one_within_is() {
        const WHOLE: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nx-version: 1\r\n\r\nab";
        let mut connection = Connection::open(server(&[WHOLE, WHOLE]).await).await.unwrap();
        for _ in 0..2 {
            assert_eq!(connection.get("/").await.unwrap(), Answer::From("1".to_owned()));
            assert!(connection.is_open());
        }
        assert_eq!(connection.get("/").await.unwrap(), Answer::Closed);
        assert!(!connection.is_open());
        for broken in [
            &["HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nab"] as &[_],
            &["HTTP/1.1 20"],
            &["HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n"],
            &[""],
        ] {
            let mut connection = Connection::open(server(broken).await).await.unwrap();
            assert!(connection.get("/").await.is_err(), "{broken:?}");
        }
    }

    #[tokio::test]
    async fn http2_is_told_from_everything_else() {
        assert!(speaks_http2(server(&["\0\0\0\x04\0\0\0\0\0"]).await).await.unwrap());
        assert!(!speaks_http2(server(&["HTTP/1.1 400 Bad Request\r\n\r\n"]).await).await.unwrap());
        assert!(!speaks_http2(server(&[""]).await).await.unwrap());
    }
}
