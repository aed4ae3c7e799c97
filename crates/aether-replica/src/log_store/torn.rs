//! A last record whose end is zeros.
//!
//! After a power cut a file system may know the log's new length but not the
//! bytes: the file ends in zeros from some point inside a record that was never
//! synced. The log itself truncates a record that the file is too short for,
//! and one that is zeros from its first byte; this is the case between.

use std::fs::{self, OpenOptions};
use std::io;

use raft_log::chunked_wal::{self, ChunkedWal};
use raft_log::codeq::Decode;
use raft_log::codeq::config::CodeqConfig;
use raft_log::types::Checksum;
use raft_log::{RaftLogRecord, RaftWalTypes};

use super::WalTypes;

type Wal = ChunkedWal<RaftWalTypes<WalTypes>>;
type Record = RaftLogRecord<WalTypes>;

/// At the end of every record.
const CHECKSUM_BYTES: usize = 8;

/// Truncates the log to its last whole record if all that follows is a record
/// whose end was never written. Whether that was so.
pub(super) fn drop_torn_record(config: &chunked_wal::Config) -> io::Result<bool> {
    let lock = Wal::acquire_lock(config)?;
    let Some(last) = Wal::load_chunk_ids(config, &lock)?.pop() else {
        return Ok(false);
    };
    let path = config.chunk_path(last);
    let Some(whole_bytes) = start_of_torn_record(&fs::read(&path)?) else {
        return Ok(false);
    };
    tracing::warn!(file = path, whole_bytes, "the log's last record was not fully written: cut");
    let file = OpenOptions::new().write(true).open(&path)?;
    file.set_len(whole_bytes as u64)?;
    file.sync_all()?;
    Ok(true)
}

/// Where the first record that can't be decoded starts, if it was torn.
///
/// Torn means that everything after the point where decoding had to stop is
/// zero, and so is the record's checksum. The checksum of a record that was
/// fully written is not zero: no damage to the bytes before it looks like this.
fn start_of_torn_record(file: &[u8]) -> Option<usize> {
    let mut unread = file;
    while !unread.is_empty() {
        let record = unread;
        if Record::decode(&mut unread).is_ok() {
            continue;
        }
        let (read, rest) = record.split_at(record.len() - unread.len());
        let checksum = checksum_at_fault(read).unwrap_or_default();
        let zero = checksum.iter().chain(rest).all(|byte| *byte == 0);
        return zero.then_some(file.len() - record.len());
    }
    None
}

/// The checksum at the end of `read` if it is all that keeps `read` from being
/// a record. Otherwise decoding stopped earlier in the record.
fn checksum_at_fault(read: &[u8]) -> Option<&[u8]> {
    let (content, checksum) = read.split_at(read.len().checked_sub(CHECKSUM_BYTES)?);
    let right = Checksum::hash(content).to_be_bytes();
    Record::decode(&[content, &right].concat()[..]).is_ok().then_some(checksum)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use openraft::{EntryPayload, Membership};
    use raft_log::RaftLogAction::{self, Append, Commit, PurgeUpto, SaveVote, TruncateAfter};
    use raft_log::WALRecord::{Action, Checkpoint};
    use raft_log::codeq::Encode;

    use super::*;
    use crate::codec::{WalLogId, WalPayload, WalVote};
    use crate::types::{Command, Payload, vote};

    const ID: WalLogId = WalLogId { term: 3, index: 0x0102_0304 };

    fn append(payload: Payload) -> RaftLogAction<WalTypes> {
        Append(ID, WalPayload(payload))
    }

    /// Every kind of record.
    fn records() -> Vec<Vec<u8>> {
        let body = Bytes::from_static(b"text, \0zeros\0\0\0, text\0");
        let command = Command { log_time_ms: 1 << 40, wall_ms: 0, body };
        let actions = [
            SaveVote(WalVote(vote(5, 6, true))),
            append(EntryPayload::Blank),
            append(EntryPayload::Normal(command)),
            append(EntryPayload::Membership(Membership::default())),
            Commit(ID),
            TruncateAfter(None),
            TruncateAfter(Some(ID)),
            PurgeUpto(ID),
        ];
        let checkpoint = Checkpoint(Default::default());
        let encoded = |record: Record| {
            let mut bytes = Vec::new();
            record.encode(&mut bytes).unwrap();
            bytes
        };
        actions.into_iter().map(Action).chain([checkpoint]).map(encoded).collect()
    }

    fn zero_from(whole: &[u8], at: usize, more: usize) -> Vec<u8> {
        let mut bytes = whole[..at].to_vec();
        bytes.resize(whole.len() + more, 0);
        bytes
    }

    #[test]
    fn a_record_of_any_kind_is_torn_from_its_first_byte_to_its_checksum_and_no_further() {
        for record in records() {
            let before = records().concat();
            let whole = [&before[..], &record].concat();
            // Four bytes of zeros and a CRC of four bytes.
            let crc = whole.len() - 4;
            for (at, more) in (before.len()..crc).flat_map(|at| [(at, 0), (at, 4_096)]) {
                let torn = start_of_torn_record(&zero_from(&whole, at, more));
                assert_eq!(torn, Some(before.len()), "{record:02x?} from {at}");
            }
            for at in crc + 1..=whole.len() {
                let torn = start_of_torn_record(&zero_from(&whole, at, 0));
                assert_eq!(torn, None, "{record:02x?} from {at}");
            }
        }
    }

    #[test]
    fn a_flipped_bit_in_front_of_zeros_is_not_a_torn_record() {
        for record in records() {
            for bit in 0..record.len() * 8 {
                let mut flipped = zero_from(&record, record.len(), 4_096);
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(start_of_torn_record(&flipped), None, "{record:02x?}, bit {bit}");
            }
        }
    }
}
