//! A probe by HTTP/1.1.

use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// The status with which a GET of the path is answered.
pub(super) async fn get(stream: TcpStream, address: SocketAddr, path: &str) -> Result<u16, String> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    let request = hyper::Request::get(path)
        .header(hyper::header::HOST, address.to_string())
        .header(hyper::header::CONNECTION, "close")
        .header(hyper::header::USER_AGENT, "aether-probe")
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let mut connection = std::pin::pin!(connection);
    let mut answer = std::pin::pin!(sender.send_request(request));
    // The body is not read: the status says it all.
    tokio::select! {
        biased;
        answer = &mut answer => answer.map(|a| a.status().as_u16()).map_err(|e| e.to_string()),
        ended = &mut connection => match ended {
            // The connection may end with the answer already there.
            Ok(()) => answer.await.map(|a| a.status().as_u16()).map_err(|e| e.to_string()),
            Err(error) => Err(error.to_string()),
        },
    }
}
