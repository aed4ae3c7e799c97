//! Tells a client that speaks HTTP/2 at once (by prior knowledge, RFC 9113,
//! section 3.3) from one that speaks HTTP/1.1, by its first bytes.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

/// What every connection of HTTP/2 begins with.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A connection of which the first bytes were read to look at them. They are read
/// again.
#[derive(Debug)]
pub(crate) struct Sniffed<T> {
    io: T,
    first: [u8; PREFACE.len()],
    /// How many of these came.
    came: u8,
    /// How many have been read again.
    read: u8,
}

impl<T> Sniffed<T> {
    pub(crate) fn new(io: T) -> Self {
        Self { io, first: [0; PREFACE.len()], came: 0, read: 0 }
    }

    /// Whether nothing came at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.came == 0
    }
}

impl<T: AsyncRead + Unpin> Sniffed<T> {
    /// Reads until it is clear whether the client begins as HTTP/2 does: for
    /// HTTP/1.1 usually the first byte says that. What was read stays when this is
    /// dropped before.
    ///
    /// # Errors
    /// If the connection breaks.
    pub(crate) async fn is_http2(&mut self) -> io::Result<bool> {
        loop {
            let came = usize::from(self.came);
            if self.first[..came] != PREFACE[..came] {
                return Ok(false);
            }
            if came == PREFACE.len() {
                return Ok(true);
            }
            match self.io.read(&mut self.first[came..]).await? {
                0 => return Ok(false),
                more => self.came += more as u8,
            }
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Sniffed<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.read < self.came {
            let again = usize::from(self.read)..usize::from(self.came);
            let length = again.len().min(buffer.remaining());
            buffer.put_slice(&self.first[again][..length]);
            self.read += length as u8;
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Sniffed<T> {
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

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    /// What is found of bytes that come one by one, and what is read afterwards.
    async fn sniff(bytes: &[u8]) -> (bool, Vec<u8>) {
        let (mut client, server) = tokio::io::duplex(1);
        let send = async {
            client.write_all(bytes).await.unwrap();
            drop(client);
        };
        let look = async {
            let mut sniffed = Sniffed::new(server);
            let found = sniffed.is_http2().await.unwrap();
            let mut all = Vec::new();
            sniffed.read_to_end(&mut all).await.unwrap();
            (found, all)
        };
        tokio::join!(send, look).1
    }

    #[tokio::test]
    async fn the_whole_preface_is_http2_and_nothing_is_lost() {
        let more = [PREFACE, &b"and more"[..]].concat();
        assert_eq!(sniff(PREFACE).await, (true, PREFACE.to_vec()));
        assert_eq!(sniff(&more).await, (true, more.clone()));
        for other in
            [&b""[..], b"G", b"PUT / HTTP/1.1\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\rX", b"PRI"]
        {
            assert_eq!(sniff(other).await, (false, other.to_vec()));
        }
    }
}
