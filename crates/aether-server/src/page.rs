//! Long lists in pages (AIP-158).
//!
//! A token names the last row of the page before, and what was asked. Rows that
//! come and go meanwhile are there or not, and no other row is skipped or shown
//! twice. A token is no secret and grants nothing; its tag keeps it from being
//! used for another request by mistake.

use std::fmt::Display;
use std::str::FromStr;

use aether_core::state::row_hash;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use prost::Message;
use tonic::Status;

use crate::status;

/// Rows of a page if the request does not say.
const ROWS: usize = 500;
/// Most rows of a page: for as many updates the leader tells what only it knows.
const ROWS_MAX: usize = 1_000;
/// Most bytes of a page with more than one row: half of what most gRPC
/// libraries take as one message.
const BYTES_MAX: usize = 2 * 1024 * 1024;
/// Bytes of a token's tag.
const TAG_BYTES: usize = 8;
/// Longest token: names have at most about 200 bytes.
const TOKEN_BYTES_MAX: usize = 1_024;

/// Which page of a list a request asks for.
#[derive(Debug)]
pub struct Page<K> {
    /// The method and its filter.
    scope: String,
    rows_max: usize,
    after: Option<K>,
}

impl<K: FromStr + Display + Ord> Page<K> {
    /// Of a request: what is listed, how it is filtered, and its two fields.
    ///
    /// # Errors
    /// The token is not one of this list.
    pub fn of(list: &str, filter: &str, page_size: u32, page_token: &str) -> Result<Self, Status> {
        let scope = format!("{list}?{filter}");
        let after = match page_token {
            "" => None,
            token => Some(key_of(&scope, token).ok_or_else(|| {
                let problem = "is not a token that this very list has given; begin without one";
                status::invalid("page_token", problem)
            })?),
        };
        let rows_max = match page_size as usize {
            0 => ROWS,
            size => size.min(ROWS_MAX),
        };
        Ok(Self { scope, rows_max, after })
    }

    /// Whether a row comes after the page before this one.
    pub fn wants(&self, key: &K) -> bool {
        self.after.as_ref().is_none_or(|after| key > after)
    }

    /// Most rows that this page may have.
    pub fn rows_max(&self) -> usize {
        self.rows_max
    }

    /// The page of `rows`, which are in order and begin with the first that is
    /// wanted, as `show` shows them; and the token of the next one, empty if
    /// this is the last.
    pub fn cut<R, M: Message>(
        &self,
        rows: impl Iterator<Item = (K, R)>,
        mut show: impl FnMut(R) -> M,
    ) -> (Vec<M>, String) {
        let (mut shown, mut bytes) = (Vec::new(), 0);
        let mut last: Option<K> = None;
        for (key, row) in rows {
            let message = show(row);
            bytes += message.encoded_len();
            // The first row is shown however large it is.
            if let Some(last) = &last
                && (shown.len() == self.rows_max || bytes > BYTES_MAX)
            {
                return (shown, self.token(last));
            }
            shown.push(message);
            last = Some(key);
        }
        (shown, String::new())
    }

    fn token(&self, last: &K) -> String {
        let key = last.to_string();
        let mut bytes = tag(&self.scope, key.as_bytes()).to_vec();
        bytes.extend_from_slice(key.as_bytes());
        URL_SAFE_NO_PAD.encode(bytes)
    }
}

fn tag(scope: &str, key: &[u8]) -> [u8; TAG_BYTES] {
    let hash = row_hash(scope, key).to_be_bytes();
    std::array::from_fn(|k| hash[k])
}

fn key_of<K: FromStr>(scope: &str, token: &str) -> Option<K> {
    if token.len() > TOKEN_BYTES_MAX {
        return None;
    }
    let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
    let (tagged, key) = bytes.split_at_checked(TAG_BYTES)?;
    if tagged != tag(scope, key) {
        return None;
    }
    std::str::from_utf8(key).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::Code;

    /// All pages of these rows, while `change` happens after each page.
    fn read(size: u32, rows: &mut Vec<u64>, change: impl Fn(&mut Vec<u64>)) -> Vec<Vec<u64>> {
        let (mut token, mut pages) = (String::new(), Vec::new());
        loop {
            let page = Page::<u64>::of("Rows", "all", size, &token).unwrap();
            let wanted = rows.iter().filter(|row| page.wants(row)).map(|row| (*row, *row));
            let (shown, next) = page.cut(wanted, |row| row);
            pages.push(shown);
            if next.is_empty() {
                return pages;
            }
            token = next;
            change(rows);
        }
    }

    #[test]
    fn pages_have_every_row_once_whatever_comes_and_goes() {
        let all: Vec<u64> = (10..30).collect();
        let pages = read(6, &mut all.clone(), |_| {});
        assert_eq!(pages.iter().map(Vec::len).collect::<Vec<_>>(), [6, 6, 6, 2]);
        assert_eq!(pages.concat(), all);
        assert_eq!(read(20, &mut all.clone(), |_| {}).len(), 1, "no empty page follows a full one");
        // Those before the place where a reader is change nothing for it.
        let pages = read(6, &mut all.clone(), |rows| {
            rows.insert(0, rows[0] - 1);
            rows.retain(|row| *row != 12 && *row != 15);
            if rows.last() == Some(&29) {
                rows.push(40);
            }
        });
        let expected: Vec<u64> = all.iter().copied().chain([40]).collect();
        assert_eq!(pages.concat(), expected);
        assert_eq!(read(0, &mut Vec::new(), |_| {}), [Vec::<u64>::new()]);
    }

    #[test]
    fn sizes_are_bounded_by_rows_and_by_bytes() {
        let page = |size| Page::<u64>::of("Rows", "", size, "").unwrap();
        assert_eq!(page(0).rows_max(), ROWS);
        assert_eq!(page(u32::MAX).rows_max(), ROWS_MAX);
        let half = "x".repeat(BYTES_MAX / 2 - 100);
        let rows = || (0..3).map(|k| (k, half.clone()));
        let (shown, next) = page(0).cut(rows(), |row| row);
        assert_eq!((shown.len(), next.is_empty()), (2, false));
        // One that is larger than a page comes alone.
        let (shown, next) = page(0).cut((0..2).map(|k| (k, half.repeat(4))), |row| row);
        assert_eq!((shown.len(), next.is_empty()), (1, false));
    }

    #[test]
    fn a_token_is_good_for_its_own_list_only() {
        let page = Page::<u64>::of("Rows", "a", 1, "").unwrap();
        let (_, token) = page.cut([(7, 7), (8, 8)].into_iter(), |row: u64| row);
        assert!(!Page::<u64>::of("Rows", "a", 9, &token).unwrap().wants(&7));
        let mut damaged = token.clone().into_bytes();
        damaged[3] ^= 1;
        let damaged = String::from_utf8(damaged).unwrap();
        let long = "A".repeat(5_000);
        for (list, filter, token) in [
            ("Rows", "b", &*token),
            ("Columns", "a", &token),
            ("Rows", "a", &damaged),
            ("Rows", "a", &token[1..]),
            ("Rows", "a", "nonsense!"),
            ("Rows", "a", "AA"),
            ("Rows", "a", &long),
        ] {
            let refused = Page::<u64>::of(list, filter, 0, token).unwrap_err();
            assert_eq!(refused.code(), Code::InvalidArgument, "{token}");
            assert_eq!(aether_proto::errors::invalid_fields(&refused)[0].0, "page_token");
        }
    }
}
