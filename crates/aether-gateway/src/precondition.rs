//! `If-Match` and `If-None-Match`, as RFC 9110 reads them.
//!
//! The ETag of an update is the log index of its record's last change, which is
//! also what commands compare. It covers the record (state, ratio, pause, options,
//! history), not what is only observed (instances, actual share, waits).

use aether_proto::v1;
use http::{HeaderMap, HeaderValue, StatusCode, header};

use crate::Services;
use crate::call::{answer, request};
use crate::problem::{Kind, Problem};

/// One entity tag.
#[derive(Debug, PartialEq, Eq)]
struct Tag {
    weak: bool,
    text: String,
}

/// What a header with entity tags says.
#[derive(Debug, PartialEq, Eq)]
enum Tags {
    Any,
    These(Vec<Tag>),
}

/// The ETag of a record that was last changed at a log index.
pub(crate) fn etag(modified: u64) -> HeaderValue {
    HeaderValue::try_from(format!("\"{modified}\"")).expect("digits and quotes make a header")
}

fn tags(headers: &HeaderMap, name: &header::HeaderName) -> Result<Option<Tags>, Problem> {
    let lines: Vec<&[u8]> = headers.get_all(name).iter().map(HeaderValue::as_bytes).collect();
    if lines.is_empty() {
        return Ok(None);
    }
    let text = String::from_utf8_lossy(&lines.join(&b", "[..])).into_owned();
    match parse(&text) {
        Some(tags) => Ok(Some(tags)),
        None => Err(Problem::bad_request(
            &format!("bad_{}", name.as_str().replace('-', "_")),
            format!("{name} must be ETags as this server gave them, such as \"42\", or *"),
        )),
    }
}

fn parse(text: &str) -> Option<Tags> {
    if text.trim() == "*" {
        return Some(Tags::Any);
    }
    let mut rest = text;
    let mut found = Vec::new();
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        if rest.is_empty() {
            return (!found.is_empty()).then_some(Tags::These(found));
        }
        let weak = rest.starts_with("W/");
        let (opaque, after) =
            rest.strip_prefix("W/").unwrap_or(rest).strip_prefix('"')?.split_once('"')?;
        if opaque.chars().any(|c| c.is_ascii_control() || c == ' ') {
            return None;
        }
        found.push(Tag { weak, text: opaque.to_owned() });
        rest = after.trim_start_matches([' ', '\t']);
        if !rest.is_empty() && !rest.starts_with(',') {
            return None;
        }
    }
}

/// The `If-Match` of a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Precondition {
    /// None was sent, or `*`: whatever the record is, if there is one.
    None,
    /// The record was last changed at one of these indexes. None at all when
    /// the tags are weak, or not of this server: nothing matches them.
    Modified(Vec<u64>),
}

impl Precondition {
    /// Reads the header.
    pub(crate) fn read(headers: &HeaderMap) -> Result<Self, Problem> {
        let Some(Tags::These(tags)) = tags(headers, &header::IF_MATCH)? else {
            return Ok(Self::None);
        };
        let strong = tags.iter().filter(|tag| !tag.weak);
        // Only the very text that `etag` writes: `"042"` is another tag.
        let number = |tag: &Tag| tag.text.parse().ok().filter(|n: &u64| n.to_string() == tag.text);
        Ok(Self::Modified(strong.filter_map(number).collect()))
    }

    /// What the command is told to expect. Of several tags the one that the
    /// record has now is taken; the command still looks again.
    pub(crate) async fn of_update(
        self,
        services: &Services,
        update_id: &str,
    ) -> Result<Option<u64>, Problem> {
        let expected = match self {
            Self::None => return Ok(None),
            Self::Modified(expected) => expected,
        };
        if let [one] = expected.as_slice() {
            return Ok(Some(*one));
        }
        let message = v1::GetUpdateRequest { update_id: update_id.to_owned(), stale: false };
        let found = answer(Kind::Read, services.updates.get(request(message))).await?;
        match expected.contains(&found.modified) {
            true => Ok(Some(found.modified)),
            false => Err(Problem::new(
                StatusCode::PRECONDITION_FAILED,
                "modified",
                format!(
                    "update {} has the ETag \"{}\", which If-Match does not name; read it again",
                    found.update_id, found.modified
                ),
            )),
        }
    }
}

/// Whether `If-None-Match` says that the caller has this representation.
pub(crate) fn is_known(headers: &HeaderMap, etag: &HeaderValue) -> Result<bool, Problem> {
    let opaque = etag.as_bytes().strip_prefix(b"\"").and_then(|tag| tag.strip_suffix(b"\""));
    Ok(match tags(headers, &header::IF_NONE_MATCH)? {
        None => false,
        Some(Tags::Any) => true,
        Some(Tags::These(tags)) => tags.iter().any(|tag| Some(tag.text.as_bytes()) == opaque),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: header::HeaderName, lines: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(&name, HeaderValue::from_str(line).unwrap());
        }
        headers
    }

    #[test]
    fn if_match_is_read_as_the_standard_has_it() {
        let read = |lines: &[&str]| Precondition::read(&headers(header::IF_MATCH, lines));
        assert_eq!(read(&[]), Ok(Precondition::None));
        assert_eq!(read(&["*"]), Ok(Precondition::None));
        for (lines, indexes) in [
            (&["\"42\""][..], &[42][..]),
            (&["\"1\", \"2\""], &[1, 2]),
            (&["\"1\"", "\"2\" ,"], &[1, 2]),
            (&["W/\"42\""], &[]),
            (&["W/\"1\",\"2\""], &[2]),
            (&["\"042\""], &[]),
            (&["\"x\", \"a,b\""], &[]),
            (&["\"\""], &[]),
            (&["\"99999999999999999999\""], &[]),
        ] {
            assert_eq!(read(lines), Ok(Precondition::Modified(indexes.to_vec())), "{lines:?}");
        }
        for line in ["42", "", ",", "\"42", "w/\"42\"", "\"1\" \"2\"", "*, \"1\"", "\"a b\""] {
            let problem = read(&[line]).unwrap_err();
            assert_eq!(problem.code(), "bad_if_match", "{line}");
        }
    }

    #[test]
    fn if_none_match_compares_weakly() {
        let known = |line: &str| is_known(&headers(header::IF_NONE_MATCH, &[line]), &etag(42));
        for line in ["\"42\"", "W/\"42\"", "*", "\"1\", \"42\""] {
            assert_eq!(known(line), Ok(true), "{line}");
        }
        assert_eq!(known("\"43\""), Ok(false));
        assert_eq!(known("42").unwrap_err().code(), "bad_if_none_match");
        assert_eq!(is_known(&HeaderMap::new(), &etag(42)), Ok(false));
    }
}
