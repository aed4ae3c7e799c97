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

/// At the end of every record: four bytes of zeros and a CRC.
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
/// zero, and so is what the record's checksum lacks. The checksum of a record
/// that was fully written is whole: no damage to the bytes before it looks
/// like this.
fn start_of_torn_record(file: &[u8]) -> Option<usize> {
    let mut unread = file;
    while !unread.is_empty() {
        let record = unread;
        if Record::decode(&mut unread).is_ok() {
            continue;
        }
        let (read, rest) = record.split_at(record.len() - unread.len());
        let unwritten = rest.iter().all(|byte| *byte == 0);
        let torn = unwritten && checksum_at_fault(read).is_none_or(is_torn);
        return torn.then_some(file.len() - record.len());
    }
    None
}

/// A checksum as it stands in the file, and the right one.
type Checksums = ([u8; CHECKSUM_BYTES], [u8; CHECKSUM_BYTES]);

/// The checksum at the end of `read` if it is all that keeps `read` from being
/// a record. Otherwise decoding stopped earlier in the record.
fn checksum_at_fault(read: &[u8]) -> Option<Checksums> {
    let (content, stored) = read.split_last_chunk()?;
    let right = Checksum::hash(content).to_be_bytes();
    Record::decode(&[content, &right].concat()[..]).is_ok().then_some((*stored, right))
}

/// Whether only the first bytes of the right checksum, or none, were written.
///
/// A single wrong bit may also be a flipped one in a record that was fully
/// written, and perhaps acknowledged. The two can't be told apart, so that is
/// refused like any damage.
fn is_torn((stored, right): Checksums) -> bool {
    let unwritten = stored.iter().rev().take_while(|byte| **byte == 0).count();
    let written = CHECKSUM_BYTES - unwritten;
    let wrong_bits = u64::from_be_bytes(stored) ^ u64::from_be_bytes(right);
    stored[..written] == right[..written] && wrong_bits.count_ones() > 1
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

    fn wrong_bits(found: &[u8], whole: &[u8]) -> u32 {
        found.iter().zip(whole).map(|(a, b)| (a ^ b).count_ones()).sum()
    }

    #[test]
    fn a_record_of_any_kind_is_torn_from_its_first_byte_to_its_last() {
        for record in records() {
            let before = records().concat();
            let whole = [&before[..], &record].concat();
            for (at, more) in (before.len()..=whole.len()).flat_map(|at| [(at, 0), (at, 4_096)]) {
                let zeroed = zero_from(&whole, at, more);
                let torn = match wrong_bits(&zeroed, &whole) {
                    // A whole record, and then one of which nothing was written.
                    0 => (more > 0).then_some(whole.len()),
                    1 => None,
                    _ => Some(before.len()),
                };
                let found = start_of_torn_record(&zeroed);
                assert_eq!(found, torn, "{record:02x?} from {at}, {more} more");
            }
        }
    }

    /// Of many records, so that there are CRCs of every form.
    #[test]
    fn one_missing_bit_of_a_crc_may_be_a_flipped_one_and_is_not_torn() {
        let (mut torn, mut one_bit) = (0, 0);
        for index in 0..1_000 {
            let mut record = Vec::new();
            Record::Action(Commit(WalLogId { term: 1, index })).encode(&mut record).unwrap();
            for at in record.len() - 3..record.len() {
                let zeroed = zero_from(&record, at, 0);
                let found = start_of_torn_record(&zeroed);
                let missing = wrong_bits(&zeroed, &record);
                assert_eq!(found, (missing > 1).then_some(0), "{record:02x?} from {at}");
                torn += usize::from(missing > 1);
                one_bit += usize::from(missing == 1);
            }
        }
        assert!(torn > 2_000 && one_bit > 10, "{torn} torn, {one_bit} that lack one bit");
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

    #[test]
    fn two_flipped_bits_of_a_crc_are_damage_unless_they_look_like_a_missing_end() {
        for record in records() {
            let crc = (record.len() - 4) * 8..record.len() * 8;
            for (first, second) in crc.clone().flat_map(|a| (a + 1..crc.end).map(move |b| (a, b))) {
                let mut flipped = record.clone();
                flipped[first / 8] ^= 1 << (first % 8);
                flipped[second / 8] ^= 1 << (second % 8);
                let looks_torn =
                    (1..=3).any(|n| flipped == zero_from(&record, record.len() - n, 0));
                let found = start_of_torn_record(&flipped);
                assert_eq!(found, looks_torn.then_some(0), "{record:02x?}, {first} and {second}");
            }
        }
    }
}
