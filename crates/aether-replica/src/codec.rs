//! How entries, log ids and votes are written in the write-ahead log.
//!
//! The log frames each record as (type, body, CRC of both) and takes a record
//! that runs past the end of the file for a torn write, which it truncates. A
//! flipped bit must never look like that. So every body starts with a tag that
//! no other body starts with, and a variable length carries its own CRC and a
//! cap: damage is found before anything is read past where the record ends.

use std::io::{self, Read, Write};

use bytes::Bytes;
use openraft::EntryPayload;
use raft_log::codeq::config::{CodeqConfig, Crc32fast};
use raft_log::codeq::{Decode, Encode};

use crate::types::{Command, LogId, Membership, Payload, Vote, log_id, term_of, vote};

const TAG_BLANK: u8 = 0xb1;
const TAG_COMMAND: u8 = 0xb2;
const TAG_MEMBERSHIP: u8 = 0xb3;
const TAG_LOG_ID: u8 = 0xc1;
const TAG_VOTE: u8 = 0xc2;
const TAG_NOTE: u8 = 0xc3;

/// Largest body of one entry: twice what a proposal may carry, so that a limit
/// raised by one release stays readable by the one before.
pub(crate) const WAL_BODY_BYTES_MAX: u32 = 32 * 1024 * 1024;

/// Log time and wall time in front of a command's bytes.
const CLOCKS_BYTES: usize = 16;

fn damaged(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

fn read_tag(r: &mut impl Read, what: &str, allowed: &[u8]) -> io::Result<u8> {
    let mut tag = [0u8; 1];
    r.read_exact(&mut tag)?;
    if allowed.contains(&tag[0]) {
        return Ok(tag[0]);
    }
    Err(damaged(format!("{what} starts with {:#04x}, not with its tag", tag[0])))
}

fn read_u64(r: &mut impl Read) -> io::Result<u64> {
    let mut bytes = [0u8; 8];
    r.read_exact(&mut bytes)?;
    Ok(u64::from_be_bytes(bytes))
}

fn length_crc(tag: u8, length: u32) -> u32 {
    let l = length.to_be_bytes();
    Crc32fast::hash(&[tag, l[0], l[1], l[2], l[3]]) as u32
}

/// A log id on disk.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct WalLogId {
    pub term: u64,
    pub index: u64,
}

impl From<&LogId> for WalLogId {
    fn from(id: &LogId) -> Self {
        WalLogId { term: term_of(id), index: id.index }
    }
}

impl From<&WalLogId> for LogId {
    fn from(id: &WalLogId) -> Self {
        log_id(id.term, id.index)
    }
}

impl Encode for WalLogId {
    fn encode<W: Write>(&self, mut w: W) -> io::Result<usize> {
        w.write_all(&[TAG_LOG_ID])?;
        w.write_all(&self.term.to_be_bytes())?;
        w.write_all(&self.index.to_be_bytes())?;
        Ok(17)
    }
}

impl Decode for WalLogId {
    fn decode<R: Read>(mut r: R) -> io::Result<Self> {
        read_tag(&mut r, "log id", &[TAG_LOG_ID])?;
        Ok(WalLogId { term: read_u64(&mut r)?, index: read_u64(&mut r)? })
    }
}

/// A vote on disk.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd)]
pub(crate) struct WalVote(pub Vote);

impl Encode for WalVote {
    fn encode<W: Write>(&self, mut w: W) -> io::Result<usize> {
        w.write_all(&[TAG_VOTE])?;
        w.write_all(&self.0.leader_id.term.to_be_bytes())?;
        w.write_all(&self.0.leader_id.voted_for.to_be_bytes())?;
        w.write_all(&[u8::from(self.0.committed)])?;
        Ok(18)
    }
}

impl Decode for WalVote {
    fn decode<R: Read>(mut r: R) -> io::Result<Self> {
        read_tag(&mut r, "vote", &[TAG_VOTE])?;
        let (term, node) = (read_u64(&mut r)?, read_u64(&mut r)?);
        let committed = read_tag(&mut r, "vote's committed flag", &[0, 1])? == 1;
        Ok(WalVote(vote(term, node, committed)))
    }
}

/// User data of the log: none, but a tag, so that no other record's body can
/// be taken for one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WalNote;

impl Encode for WalNote {
    fn encode<W: Write>(&self, mut w: W) -> io::Result<usize> {
        w.write_all(&[TAG_NOTE])?;
        Ok(1)
    }
}

impl Decode for WalNote {
    fn decode<R: Read>(mut r: R) -> io::Result<Self> {
        read_tag(&mut r, "note", &[TAG_NOTE])?;
        Ok(WalNote)
    }
}

/// What an entry carries, on disk.
#[derive(Debug, Clone)]
pub(crate) struct WalPayload(pub Payload);

impl WalPayload {
    /// Roughly how much memory it takes; exact for commands.
    pub fn bytes(&self) -> u64 {
        match &self.0 {
            EntryPayload::Blank => 1,
            EntryPayload::Normal(command) => (command.body.len() + CLOCKS_BYTES) as u64,
            EntryPayload::Membership(_) => 1_024,
        }
    }
}

fn write_frame(w: &mut impl Write, tag: u8, parts: &[&[u8]]) -> io::Result<usize> {
    let length: usize = parts.iter().map(|p| p.len()).sum();
    if length > WAL_BODY_BYTES_MAX as usize {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("an entry of {length} bytes is over the limit of {WAL_BODY_BYTES_MAX}"),
        ));
    }
    let length = length as u32;
    w.write_all(&[tag])?;
    w.write_all(&length.to_be_bytes())?;
    w.write_all(&length_crc(tag, length).to_be_bytes())?;
    for part in parts {
        w.write_all(part)?;
    }
    Ok(9 + length as usize)
}

impl Encode for WalPayload {
    fn encode<W: Write>(&self, mut w: W) -> io::Result<usize> {
        match &self.0 {
            EntryPayload::Blank => write_frame(&mut w, TAG_BLANK, &[]),
            EntryPayload::Normal(c) => write_frame(
                &mut w,
                TAG_COMMAND,
                &[&c.log_time_ms.to_be_bytes(), &c.wall_ms.to_be_bytes(), &c.body],
            ),
            EntryPayload::Membership(m) => {
                let json = serde_json::to_vec(m)?;
                write_frame(&mut w, TAG_MEMBERSHIP, &[&json])
            }
        }
    }
}

impl Decode for WalPayload {
    fn decode<R: Read>(mut r: R) -> io::Result<Self> {
        let tag = read_tag(&mut r, "entry", &[TAG_BLANK, TAG_COMMAND, TAG_MEMBERSHIP])?;
        let mut header = [0u8; 8];
        r.read_exact(&mut header)?;
        let length = u32::from_be_bytes([header[0], header[1], header[2], header[3]]);
        let crc = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
        if crc != length_crc(tag, length) {
            return Err(damaged("the length of an entry does not match its checksum"));
        }
        if length > WAL_BODY_BYTES_MAX {
            return Err(damaged(format!("an entry claims {length} bytes")));
        }
        let mut body = vec![0u8; length as usize];
        r.read_exact(&mut body)?;
        decode_body(tag, body).map(WalPayload)
    }
}

fn decode_body(tag: u8, body: Vec<u8>) -> io::Result<Payload> {
    match tag {
        TAG_BLANK => Ok(EntryPayload::Blank),
        TAG_MEMBERSHIP => {
            // Damage shows as bad JSON here, before the record's CRC is seen.
            let membership: Membership =
                serde_json::from_slice(&body).map_err(|e| damaged(format!("membership: {e}")))?;
            Ok(EntryPayload::Membership(membership))
        }
        _ => {
            if body.len() < CLOCKS_BYTES {
                return Err(damaged(format!("a command of {} bytes has no clocks", body.len())));
            }
            let mut clocks = &body[..CLOCKS_BYTES];
            let log_time_ms = read_u64(&mut clocks)?;
            let wall_ms = read_u64(&mut clocks)?;
            let body = Bytes::from(body).slice(CLOCKS_BYTES..);
            Ok(EntryPayload::Normal(Command { log_time_ms, wall_ms, body }))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes_of(payload: Payload) -> Vec<u8> {
        let mut out = Vec::new();
        WalPayload(payload).encode(&mut out).expect("encodes");
        out
    }

    fn command(body: &'static [u8]) -> Payload {
        EntryPayload::Normal(Command { log_time_ms: 7, wall_ms: 9, body: body.into() })
    }

    #[test]
    fn payloads_come_back_as_they_went() {
        for payload in [EntryPayload::Blank, command(b""), command(b"put a 1")] {
            let written = bytes_of(payload.clone());
            let read = WalPayload::decode(&written[..]).expect("decodes");
            assert_eq!(read.0, payload);
        }
    }

    #[test]
    fn the_format_of_release_0_1_is_frozen() {
        assert_eq!(
            bytes_of(command(b"ab")),
            [
                0xb2, 0, 0, 0, 18, 0x5f, 0x9c, 0xdd, 0x21, // tag, length, its CRC
                0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 9, b'a', b'b',
            ]
        );
        let mut out = Vec::new();
        WalLogId { term: 3, index: 4 }.encode(&mut out).expect("encodes");
        WalVote(vote(5, 6, true)).encode(&mut out).expect("encodes");
        assert_eq!(
            out,
            [
                0xc1, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 4, // log id
                0xc2, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 6, 1, // vote
            ]
        );
    }

    #[test]
    fn a_flipped_bit_in_tag_or_length_is_damage_and_not_a_short_file() {
        let written = bytes_of(command(b"some command"));
        for bit in 0..9 * 8 {
            let mut flipped = written.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let error = WalPayload::decode(&flipped[..]).expect_err("must be refused");
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "bit {bit}: {error}");
        }
    }

    #[test]
    fn an_entry_over_the_limit_is_refused_before_it_is_written() {
        let body = vec![0u8; WAL_BODY_BYTES_MAX as usize].into();
        let payload = EntryPayload::Normal(Command { body, ..Command::default() });
        let error = WalPayload(payload).encode(Vec::new()).expect_err("must be refused");
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
}
