//! What is particular about gRPC: how a call is known, how long it may take, and
//! which of its outcomes are the fault of the instance.

use std::time::Duration;

use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// Whether a message is one of gRPC, by its content type: `application/grpc`, also
/// with a suffix such as `+proto`. gRPC-Web is not: that is made for HTTP/1.1.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    const TYPE: &[u8] = b"application/grpc";
    headers.get(CONTENT_TYPE).is_some_and(|value| {
        let value = value.as_bytes();
        value.get(..TYPE.len()).is_some_and(|start| start.eq_ignore_ascii_case(TYPE))
            && matches!(value.get(TYPE.len()), None | Some(b'+' | b';' | b' '))
    })
}

/// How long the caller of a gRPC call waits, if it says so (`grpc-timeout`: at
/// most eight digits and a unit).
pub fn grpc_timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(GRPC_TIMEOUT)?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(count * 3_600)),
        "M" => Some(Duration::from_secs(count * 60)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

/// Whether a status is the fault of the instance. Those that correspond to a 5xx
/// of HTTP are: UNKNOWN (2; what a failure becomes that a program did not foresee),
/// DEADLINE_EXCEEDED (4; a timeout), UNIMPLEMENTED (12, as 501: the other version
/// may well offer the method), INTERNAL (13), UNAVAILABLE (14) and DATA_LOSS (15).
/// Not those that correspond to a 4xx: they answer what the caller asked, and
/// RESOURCE_EXHAUSTED (8) mostly speaks of the caller's quota, as 429 does. A
/// status that cannot be read is UNKNOWN.
fn is_fault(status: &HeaderValue) -> bool {
    let code = status.to_str().ok().and_then(|text| text.parse::<u32>().ok());
    !matches!(code, Some(0 | 1 | 3 | 5..=11 | 16))
}

/// What is known of the outcome of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Fine,
    Fault,
    /// The trailers will say. Without them it is a fault.
    InTrailers,
}

impl Verdict {
    /// By the head of the response.
    pub(crate) fn of_head<B>(response: &Response<B>) -> Self {
        match (response.headers().get(GRPC_STATUS), response.status()) {
            (Some(status), _) => Self::of_status(status),
            (None, StatusCode::OK) => Self::InTrailers,
            // No answer of gRPC. Callers take these two for codes of their own fault,
            // and the others for such as are faults (see gRPC's
            // http-grpc-status-mapping.md).
            (None, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => Self::Fine,
            (None, _) => Self::Fault,
        }
    }

    /// By the trailers.
    pub(crate) fn of_trailers(trailers: &HeaderMap) -> Self {
        trailers.get(GRPC_STATUS).map_or(Self::Fault, Self::of_status)
    }

    fn of_status(status: &HeaderValue) -> Self {
        if is_fault(status) { Self::Fault } else { Self::Fine }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: HeaderName, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
    }

    #[test]
    fn grpc_is_known_by_its_content_type() {
        for (value, expected) in [
            ("application/grpc", true),
            ("Application/gRPC+proto", true),
            ("application/grpc; x=y", true),
            ("application/grpc-web", false),
            ("application/grpc-web+proto", false),
            ("application/grpcs", false),
            ("application/json", false),
            ("", false),
        ] {
            assert_eq!(is_grpc(&headers(CONTENT_TYPE, value)), expected, "{value}");
        }
        assert!(!is_grpc(&HeaderMap::new()));
    }

    #[test]
    fn timeouts_are_read_as_grpc_writes_them() {
        for (value, expected) in [
            ("1H", Some(3_600_000)),
            ("2M", Some(120_000)),
            ("3S", Some(3_000)),
            ("99999999m", Some(99_999_999)),
            ("5000u", Some(5)),
            ("7000000n", Some(7)),
            ("123456789m", None),
            ("-1S", None),
            ("+1S", None),
            ("1", None),
            ("S", None),
            ("1s", None),
            ("", None),
        ] {
            let read = grpc_timeout(&headers(GRPC_TIMEOUT, value));
            assert_eq!(read, expected.map(Duration::from_millis), "{value}");
        }
    }

    #[test]
    fn faults_are_those_of_the_instance() {
        let faults: Vec<u32> = (0..20).filter(|code| is_fault(&HeaderValue::from(*code))).collect();
        assert_eq!(faults, [2, 4, 12, 13, 14, 15, 17, 18, 19]);
        assert!(is_fault(&HeaderValue::from_static("x")));
        let head = |status: u16| Response::builder().status(status).body(()).unwrap();
        assert_eq!(Verdict::of_head(&head(200)), Verdict::InTrailers);
        assert_eq!(Verdict::of_head(&head(403)), Verdict::Fine);
        assert_eq!(Verdict::of_head(&head(404)), Verdict::Fault);
        assert_eq!(Verdict::of_head(&head(503)), Verdict::Fault);
        let mut refused = head(200);
        refused.headers_mut().insert(GRPC_STATUS, HeaderValue::from_static("5"));
        assert_eq!(Verdict::of_head(&refused), Verdict::Fine);
        assert_eq!(Verdict::of_trailers(&HeaderMap::new()), Verdict::Fault);
        assert_eq!(Verdict::of_trailers(&headers(GRPC_STATUS, "0")), Verdict::Fine);
    }
}
