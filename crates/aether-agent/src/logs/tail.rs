//! Finds where the last lines of a log begin, reading backwards.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Bytes read at a time.
const BLOCK_BYTES: u64 = 64 * 1024;

/// The offset at which the last `lines` lines of `file` begin, and how many
/// there are if it holds fewer. A last line without an end counts.
pub(super) fn start_of_last(file: &File, length: u64, lines: usize) -> io::Result<(u64, usize)> {
    let mut found = 0;
    let mut end = length;
    let mut block = vec![0; BLOCK_BYTES as usize];
    while end > 0 {
        let start = end.saturating_sub(BLOCK_BYTES);
        let part = &mut block[..usize::try_from(end - start).unwrap_or(0)];
        file.read_exact_at(part, start)?;
        for (at, byte) in part.iter().enumerate().rev() {
            let offset = start + at as u64;
            if *byte == b'\n' && offset + 1 < length {
                found += 1;
                if found == lines {
                    return Ok((offset + 1, found));
                }
            }
        }
        end = start;
    }
    Ok((0, found + usize::from(length > 0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_found_across_blocks() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let check = |text: &str, lines, expected: (u64, usize)| {
            std::fs::write(&path, text).unwrap();
            let file = File::open(&path).unwrap();
            let found = start_of_last(&file, text.len() as u64, lines).unwrap();
            assert_eq!(found, expected, "{lines} of {} bytes", text.len());
        };
        check("", 3, (0, 0));
        check("a\n", 3, (0, 1));
        check("a", 3, (0, 1));
        check("a\nb\nc\n", 2, (2, 2));
        check("a\nb\nc", 2, (2, 2));
        check("a\nb\nc\n", 3, (0, 3));
        let long = "x".repeat(100_000);
        check(&format!("{long}\n{long}\n{long}\n"), 2, (100_001, 2));
    }
}
