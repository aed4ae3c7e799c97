//! What a connection to an instance becomes once both sides have switched to
//! another protocol (status 101, RFC 9110, section 15.2.2): bytes in both
//! directions, of which nothing here knows the meaning.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::pick::Pick;

/// Why there is no tunnel.
#[derive(Debug, Error)]
pub enum TunnelError {
    /// The status of the response is not 101.
    #[error("the instance did not switch to another protocol")]
    NotSwitched,
    /// The connection broke after the head of the response.
    #[error("the connection broke while it switched to another protocol")]
    Broken(#[source] hyper::Error),
}

/// A connection to an instance that has left HTTP behind. The call that began
/// it stays in flight until this is dropped, so that the instance is not
/// stopped under it, short of its drain timeout.
#[derive(Debug)]
pub struct Tunnel {
    io: TokioIo<Upgraded>,
    _pick: Pick,
}

impl Tunnel {
    pub(crate) fn new(upgraded: Upgraded, pick: Pick) -> Self {
        Self { io: TokioIo::new(upgraded), _pick: pick }
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}
