//! Somebody whom gates ask: an HTTP server that hands each question to the test,
//! which answers when it likes.

use std::net::SocketAddr;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// A question that waits for its answer. Dropped, it gets none.
pub struct Question {
    /// What was told.
    pub told: Value,
    /// The `idempotency-key` header.
    pub key: String,
    stream: TcpStream,
}

impl Question {
    /// Answers with a status and a JSON body. Whoever asked may be gone.
    pub async fn answer(mut self, status: u16, body: &Value) {
        let body = body.to_string();
        let length = body.len();
        let answer = format!("HTTP/1.1 {status} Judged\r\ncontent-length: {length}\r\n\r\n{body}");
        let _ = self.stream.write_all(answer.as_bytes()).await;
    }
}

/// See the module. Dropping it closes its port.
pub struct Judge {
    /// Where it listens.
    pub address: SocketAddr,
    questions: mpsc::Receiver<Question>,
    _tasks: JoinSet<()>,
}

impl Judge {
    /// Listens on a free port of loopback.
    ///
    /// # Panics
    /// There is none.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let (sender, questions) = mpsc::channel(64);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                if let Some(question) = read(stream).await
                    && sender.send(question).await.is_err()
                {
                    return;
                }
            }
        });
        Self { address, questions, _tasks: tasks }
    }

    /// The next question.
    ///
    /// # Panics
    /// Nobody asks within [`crate::PATIENCE`].
    pub async fn next(&mut self) -> Question {
        let next = tokio::time::timeout(crate::PATIENCE, self.questions.recv());
        next.await.expect("somebody asks").expect("it runs")
    }
}

/// A request with a body of JSON.
async fn read(mut stream: TcpStream) -> Option<Question> {
    let mut got = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer).await {
            Ok(read @ 1..) => got.extend_from_slice(&buffer[..read]),
            _ => return None,
        }
        let text = String::from_utf8_lossy(&got).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let header = |name: &str| head.lines().find_map(|line| line.strip_prefix(name));
        let length: usize = header("content-length: ")?.parse().ok()?;
        if body.len() >= length {
            let key = header("idempotency-key: ")?.to_owned();
            return Some(Question { told: serde_json::from_str(body).ok()?, key, stream });
        }
    }
}
