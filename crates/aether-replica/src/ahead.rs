//! Rows that are made on a thread of their own, ahead of who takes them: of a
//! large state, reading or encoding them costs as much as what is done with them.

use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

use crate::machine::Row;

/// Bytes that are handed over at once, or one row.
const BATCH_BYTES: usize = 512 * 1024;
/// Batches that wait to be taken.
const BATCHES_AHEAD: usize = 4;

/// Runs `rows` on another thread while `take` takes them here; gives back what
/// `take` gave, and `rows`, which are at their end unless `take` stopped before.
pub(crate) fn ahead<I: Iterator<Item = Row> + Send, T>(
    mut rows: I,
    take: impl FnOnce(&mut dyn Iterator<Item = Row>) -> T,
) -> (I, T) {
    let (to, batches): (_, Receiver<Vec<Row>>) = sync_channel(BATCHES_AHEAD);
    thread::scope(|scope| {
        let making = scope.spawn(move || {
            loop {
                let (mut batch, mut bytes) = (Vec::new(), 0);
                while bytes < BATCH_BYTES
                    && let Some((key, value)) = rows.next()
                {
                    bytes += key.len() + value.len() + size_of::<Row>();
                    batch.push((key, value));
                }
                // Nobody takes them any more, or there are no more.
                if batch.is_empty() || to.send(batch).is_err() {
                    return rows;
                }
            }
        });
        let mut taking = batches.into_iter().flatten();
        let taken = take(&mut taking);
        drop(taking);
        let rows = making.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        (rows, taken)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(n: usize) -> impl Iterator<Item = Row> + Send {
        (0..n).map(|i| (format!("{i}"), vec![i as u8; i % 5_000]))
    }

    #[test]
    fn all_rows_come_in_their_order() {
        for n in [0, 1, 3_000] {
            let (mut rest, same) = ahead(rows(n), |taken| taken.eq(rows(n)));
            assert!(same && rest.next().is_none(), "{n}");
        }
    }

    #[test]
    fn who_takes_no_more_ends_it() {
        let (_, last) =
            ahead((0..).map(|i| (format!("{i}"), vec![0; 9_000])), |taken| taken.nth(2));
        assert_eq!(last.unwrap().0, "2");
    }
}
