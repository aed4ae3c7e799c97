//! The agent's end of a shim's socket.

use std::io;
use std::path::Path;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use crate::shim::spec::ShimState;
use crate::shim::{Restart, STOP, socket_address};

/// Whether an error of [`Link::next`] is that a state came and cannot be read.
pub(super) fn is_unread(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
}

/// A connection to a shim.
#[derive(Debug)]
pub(super) struct Link {
    lines: Lines<BufReader<OwnedReadHalf>>,
    writer: OwnedWriteHalf,
}

impl Link {
    /// Connects to the shim of the instance in `dir`.
    pub async fn connect(dir: &Path) -> io::Result<Self> {
        let (open, path) = socket_address(dir)?;
        let stream = UnixStream::connect(path).await?;
        drop(open);
        let (reader, writer) = stream.into_split();
        Ok(Self { lines: BufReader::new(reader).lines(), writer })
    }

    /// The next state; the present one first. `None`: the shim ended. May be
    /// dropped and called again without loss.
    pub async fn next(&mut self) -> io::Result<Option<ShimState>> {
        match self.lines.next_line().await? {
            Some(line) => Ok(Some(serde_json::from_str(&line)?)),
            None => Ok(None),
        }
    }

    /// Waits until the shim ends, whatever it says until then. May be dropped and
    /// called again.
    pub async fn ended(&mut self) {
        let mut said = [0; 4096];
        while matches!(self.lines.get_mut().read(&mut said).await, Ok(1..)) {}
    }

    /// Asks the shim to stop the slice's process and start it again.
    pub async fn restart(&mut self, restart: &Restart) -> io::Result<()> {
        self.writer.write_all(restart.line()?.as_bytes()).await
    }

    /// Asks the shim to stop its slice and end.
    pub async fn stop(&mut self) -> io::Result<()> {
        self.writer.write_all(STOP.as_bytes()).await
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixListener;

    use super::*;
    use crate::frozen::{restart, said, states};

    #[tokio::test]
    async fn an_agent_understands_and_asks_what_it_always_did() {
        let dir = tempfile::tempdir().unwrap();
        let shim = UnixListener::bind(dir.path().join("shim.sock")).unwrap();
        let spoken = std::thread::spawn(move || {
            let mut agent = shim.accept().unwrap().0;
            agent.write_all(&said("states.txt").bytes()).unwrap();
            let mut asked = Vec::new();
            agent.read_to_end(&mut asked).unwrap();
            asked
        });
        let mut link = Link::connect(dir.path()).await.unwrap();
        for state in states() {
            assert_eq!(link.next().await.unwrap(), Some(state));
        }
        link.restart(&restart()).await.unwrap();
        link.stop().await.unwrap();
        drop(link);
        said("commands.txt").holds(&spoken.join().unwrap());
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_told_apart_from_a_shim_that_ends() {
        let dir = tempfile::tempdir().unwrap();
        let shim = UnixListener::bind(dir.path().join("shim.sock")).unwrap();
        for (said, unread) in
            [("{}\n", true), ("{\"shim\n", true), ("\u{fffd}\n", true), ("", false)]
        {
            let mut link = Link::connect(dir.path()).await.unwrap();
            let mut agent = shim.accept().unwrap().0;
            agent.write_all(said.as_bytes()).unwrap();
            drop(agent);
            let next = link.next().await;
            assert_eq!(next.as_ref().is_err_and(is_unread), unread, "{said}: {next:?}");
        }
    }
}
