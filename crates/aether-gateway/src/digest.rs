//! Digests of archives in headers (RFC 9530) and queries.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::problem::Problem;

/// Digest of the archive, whatever its transfer.
pub(crate) const REPR_DIGEST: HeaderName = HeaderName::from_static("repr-digest");
/// Digest of what is transferred. As no content coding is taken, the same.
const CONTENT_DIGEST: HeaderName = HeaderName::from_static("content-digest");
/// The only algorithm that is checked; others may be given beside it.
const ALGORITHM: &str = "sha-256";
/// Length of a sha256.
const BYTES: usize = 32;

fn bad(what: &str, problem: &str) -> Problem {
    Problem::bad_request("bad_digest", format!("{what} {problem}"))
}

/// The digest that a request says its archive has, in lower-case hexadecimal
/// digits. All that say one must agree.
pub(crate) fn announced(
    headers: &HeaderMap,
    in_query: Option<&str>,
) -> Result<Option<String>, Problem> {
    let mut announced: Option<String> = None;
    let mut say = |digest: String| match &announced {
        Some(other) if *other != digest => {
            Err(bad("the request", "announces two different sha256; leave one out"))
        }
        _ => {
            announced = Some(digest);
            Ok(())
        }
    };
    if let Some(text) = in_query {
        let is_hex = text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if text.len() != 2 * BYTES || !is_hex {
            return Err(bad("sha256", "must be 64 lower-case hexadecimal digits"));
        }
        say(text.to_owned())?;
    }
    for name in [REPR_DIGEST, CONTENT_DIGEST] {
        for line in headers.get_all(&name) {
            let form = || bad(name.as_str(), "must be of the form sha-256=:<base64>:");
            let text = line.to_str().map_err(|_| form())?;
            for member in text.split(',') {
                let (key, value) = member.trim().split_once('=').ok_or_else(form)?;
                if key == ALGORITHM {
                    say(hex(value).ok_or_else(form)?)?;
                }
            }
        }
    }
    Ok(announced)
}

/// The bytes of `:<base64>:` in hexadecimal digits.
fn hex(value: &str) -> Option<String> {
    let text = value.strip_prefix(':')?.strip_suffix(':')?;
    let bytes = STANDARD.decode(text).ok().filter(|bytes| bytes.len() == BYTES)?;
    Some(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The header that says a digest, given in hexadecimal digits.
pub(crate) fn repr_digest(hex: &str) -> Option<HeaderValue> {
    let pair = |at: usize| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok();
    let bytes: Option<Vec<u8>> = (0..BYTES).map(|k| pair(2 * k)).collect();
    HeaderValue::try_from(format!("{ALGORITHM}=:{}:", STANDARD.encode(bytes?))).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// sha256 of nothing.
    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    const FIELD: &str = "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:";

    fn said(
        name: HeaderName,
        value: &str,
        in_query: Option<&str>,
    ) -> Result<Option<String>, Problem> {
        let headers = HeaderMap::from_iter([(name, HeaderValue::from_str(value).unwrap())]);
        announced(&headers, in_query)
    }

    #[test]
    fn a_digest_is_read_wherever_it_stands() {
        assert_eq!(repr_digest(HEX).unwrap(), FIELD);
        assert_eq!(announced(&HeaderMap::new(), None), Ok(None));
        for name in [REPR_DIGEST, CONTENT_DIGEST] {
            assert_eq!(said(name.clone(), FIELD, None), Ok(Some(HEX.to_owned())));
            assert_eq!(said(name.clone(), FIELD, Some(HEX)), Ok(Some(HEX.to_owned())));
            let both = format!("sha-512=:AA==:, {FIELD}");
            assert_eq!(said(name.clone(), &both, None), Ok(Some(HEX.to_owned())));
            assert_eq!(said(name, "sha-512=:AA==:", None), Ok(None));
        }
    }

    #[test]
    fn what_is_no_digest_is_refused_and_so_are_two() {
        for value in ["", "sha-256", "sha-256=AA==", "sha-256=:AA==:", "sha-256=:?:", "x"] {
            assert_eq!(said(REPR_DIGEST, value, None).unwrap_err().code(), "bad_digest", "{value}");
        }
        for text in ["", "00", &HEX.to_uppercase(), &"g".repeat(64)] {
            let problem = announced(&HeaderMap::new(), Some(text)).unwrap_err();
            assert_eq!(problem.code(), "bad_digest", "{text}");
        }
        let other = "0".repeat(64);
        assert_eq!(said(REPR_DIGEST, FIELD, Some(&other)).unwrap_err().code(), "bad_digest");
    }
}
