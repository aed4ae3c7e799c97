//! A request's body as the stream of messages that `Artifacts.Push` takes,
//! without ever holding more of it than a piece.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aether_proto::v1;
use aether_proto::v1::push_request::Part;
use axum::body::{Body, BodyDataStream};
use bytes::{BufMut, Bytes, BytesMut};
use futures::{StreamExt, stream};
use http::{HeaderMap, StatusCode, header};
use prost::Message;
use tonic::codec::Codec;
use tonic::{Status, Streaming};
use tonic_prost::ProstCodec;

use crate::extract::BODY_TIME_MAX;
use crate::problem::Problem;

/// Largest archive, as the artifact store has it.
pub const ARCHIVE_BYTES_MAX: u64 = 1 << 30;

/// How long an archive may take as a whole: the largest one at 1.2 MiB/s.
pub(crate) const UPLOAD_TIME_MAX: Duration = Duration::from_secs(15 * 60);

/// Bytes of the archive in one message: well below what gRPC takes (4 MiB), for
/// a worker hands the messages on to a voter.
const PIECE_BYTES_MAX: usize = 1024 * 1024;

/// Types that an archive may be sent as; curl's upload names none.
const TYPES: [&str; 3] = ["application/gzip", "application/x-gzip", "application/octet-stream"];

/// Refuses a body that says it is something else, such as a form.
pub(crate) fn check_type(headers: &HeaderMap) -> Result<(), Problem> {
    let Some(kind) = headers.get(header::CONTENT_TYPE) else {
        return Ok(());
    };
    let essence = kind.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
    if TYPES.iter().any(|known| known.eq_ignore_ascii_case(essence)) {
        return Ok(());
    }
    Err(Problem::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "not_an_archive",
        "send the archive itself (curl -T FILE), with 'Content-Type: application/gzip' or none",
    ))
}

fn too_large() -> Problem {
    Problem::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        "body_too_large",
        format!("the archive is longer than {ARCHIVE_BYTES_MAX} bytes"),
    )
}

/// How many bytes will come, if the request says so.
pub(crate) fn announced_bytes(headers: &HeaderMap) -> Result<Option<u64>, Problem> {
    let Some(length) = headers.get(header::CONTENT_LENGTH) else {
        return Ok(None);
    };
    // The server has parsed it before; what it cannot be is no length either.
    match length.to_str().ok().and_then(|text| text.parse::<u64>().ok()) {
        Some(length) if length > ARCHIVE_BYTES_MAX => Err(too_large()),
        length => Ok(length),
    }
}

/// A body on its way. Says afterwards why it ended, if it was not whole.
pub(crate) struct Upload(Arc<Mutex<Option<Problem>>>);

impl Upload {
    /// The messages of a push: the header, then the body piece by piece.
    pub(crate) fn of(header: v1::PushHeader, body: Body) -> (Self, Streaming<v1::PushRequest>) {
        Self::with_patience(BODY_TIME_MAX, header, body)
    }

    /// Likewise, giving up when nothing comes for so long.
    fn with_patience(
        patience: Duration,
        header: v1::PushHeader,
        body: Body,
    ) -> (Self, Streaming<v1::PushRequest>) {
        let ended = Arc::new(Mutex::new(None));
        let first = stream::iter([Ok(framed(Part::Header(header)))]);
        let (body, ended_here) = (body.into_data_stream(), Arc::clone(&ended));
        let rest = Rest { body, patience, bytes: 0, ended: ended_here };
        let rest = stream::unfold(Some(rest), Rest::next);
        let decoder = ProstCodec::<v1::PushRequest, v1::PushRequest>::default().decoder();
        let messages = Body::from_stream(first.chain(rest));
        (Self(ended), Streaming::new_request(decoder, messages, None, None))
    }

    /// Why the body ended early.
    pub(crate) fn problem(&self) -> Option<Problem> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

struct Rest {
    body: BodyDataStream,
    patience: Duration,
    bytes: u64,
    ended: Arc<Mutex<Option<Problem>>>,
}

impl Rest {
    async fn next(rest: Option<Self>) -> Option<(Result<Bytes, Status>, Option<Self>)> {
        let mut rest = rest?;
        match rest.piece().await {
            Ok(Some(piece)) => Some((Ok(pieces(piece)), Some(rest))),
            Ok(None) => None,
            Err(problem) => {
                // Not `cancelled`: tonic takes that for the end of a request.
                let status = Status::aborted("the body is not whole");
                *rest.ended.lock().unwrap_or_else(PoisonError::into_inner) = Some(problem);
                Some((Err(status), None))
            }
        }
    }

    async fn piece(&mut self) -> Result<Option<Bytes>, Problem> {
        let next = tokio::time::timeout(self.patience, self.body.next()).await;
        let piece = next.map_err(|_| {
            Problem::new(
                StatusCode::REQUEST_TIMEOUT,
                "body_too_slow",
                format!("nothing of the body arrived within {:?}", self.patience),
            )
        })?;
        let broken = |e| Problem::bad_request("bad_body", format!("the body is not whole: {e}"));
        let Some(piece) = piece.transpose().map_err(broken)? else {
            return Ok(None);
        };
        self.bytes += piece.len() as u64;
        match self.bytes > ARCHIVE_BYTES_MAX {
            true => Err(too_large()),
            false => Ok(Some(piece)),
        }
    }
}

/// The messages of a piece.
fn pieces(mut piece: Bytes) -> Bytes {
    let mut all = BytesMut::new();
    while piece.len() > PIECE_BYTES_MAX {
        all.extend_from_slice(&framed(Part::Chunk(piece.split_to(PIECE_BYTES_MAX).to_vec())));
    }
    all.extend_from_slice(&framed(Part::Chunk(piece.to_vec())));
    all.freeze()
}

/// A message as gRPC frames it: not compressed, its length, itself.
fn framed(part: Part) -> Bytes {
    let message = v1::PushRequest { part: Some(part) };
    let length = message.encoded_len();
    let mut frame = BytesMut::with_capacity(5 + length);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(length).expect("pieces are far below 4 GiB"));
    message.encode(&mut frame).expect("the buffer grows");
    frame.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_body_that_stalls_is_given_up_and_is_not_taken_for_whole() {
        let first = stream::iter([Ok::<_, std::io::Error>("abc")]);
        let body = Body::from_stream(first.chain(stream::pending()));
        let header = v1::PushHeader { artifact: "a.b:c:1.0.0".into(), ..Default::default() };
        let (upload, mut messages) =
            Upload::with_patience(Duration::from_millis(1), header.clone(), body);
        let first = messages.message().await.unwrap().unwrap();
        assert_eq!(first.part, Some(Part::Header(header)));
        let second = messages.message().await.unwrap().unwrap();
        assert_eq!(second.part, Some(Part::Chunk(b"abc".to_vec())));
        assert!(upload.problem().is_none());
        messages.message().await.unwrap_err();
        assert_eq!(upload.problem().unwrap().code(), "body_too_slow");
    }
}
