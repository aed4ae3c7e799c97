//! Heads of requests as no client should send them: the host that is found is
//! one a rule can name, and what belongs to a connection never goes on.

use aether_fuzz::proptest::collection::vec;
use aether_fuzz::proptest::prelude::*;
use aether_fuzz::proptest::sample::select;
use aether_fuzz::{CASES, check, near, text};
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Uri, Version};

use crate::headers::{Client, host_of, strip_hop_by_hop};

const NAMES: &[&str] = &[
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "host",
    "content-length",
    "expect",
    "x-private",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-request-id",
    "cookie",
];

/// Header values as HTTP allows them: some bytes are no text.
fn value() -> impl Strategy<Value = HeaderValue> {
    let connection = vec(select(NAMES), 0..4).prop_map(|names| names.join(", ").into_bytes());
    let any_bytes = vec(prop_oneof![4 => 0x20u8..0x7f, 1 => 0x80u8..=0xff], 0..20);
    let mixed = (select(NAMES), any_bytes.clone())
        .prop_map(|(name, more)| [name.as_bytes(), b",", &more].concat());
    prop_oneof![3 => connection, 1 => any_bytes, 2 => mixed]
        .prop_filter_map("no header value", |bytes| HeaderValue::from_bytes(&bytes).ok())
}

fn headers() -> impl Strategy<Value = HeaderMap> {
    vec((select(NAMES), value()), 0..12).prop_map(|pairs| {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(HeaderName::from_static(name), value);
        }
        headers
    })
}

/// Names that `Connection` lists, also beside bytes that are no text.
fn listed(headers: &HeaderMap) -> Vec<HeaderName> {
    let values = headers.get_all(CONNECTION).iter();
    let names = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    names
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
        .filter(|name| *name != HOST && *name != CONTENT_LENGTH)
        .collect()
}

#[test]
fn what_belongs_to_a_connection_never_goes_on() {
    check(4 * CASES, headers(), |mut headers| {
        let listed = listed(&headers);
        let before = headers.clone();
        strip_hop_by_hop(&mut headers);
        for name in listed.iter().chain([&CONNECTION, &TRANSFER_ENCODING]) {
            assert!(!headers.contains_key(name), "{name} goes on");
        }
        for name in [HOST, CONTENT_LENGTH] {
            let all =
                |headers: &HeaderMap| headers.get_all(&name).iter().cloned().collect::<Vec<_>>();
            assert_eq!(all(&headers), all(&before), "{name} is kept");
        }
        let again = headers.clone();
        strip_hop_by_hop(&mut headers);
        assert_eq!(headers, again);
    });
}

#[test]
fn a_request_goes_on_in_the_form_that_instances_get() {
    let target = prop_oneof![
        3 => near(&["/a?b=c", "/", "http://a.example:1/x", "*"]),
        1 => text(),
    ];
    check(4 * CASES, (headers(), target, any::<bool>()), |(headers, target, trusted)| {
        let Ok(uri) = target.parse::<Uri>() else { return };
        let chunked = headers.contains_key(TRANSFER_ENCODING);
        let given = headers.get("x-forwarded-for").cloned();
        let mut request = Request::new(());
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        Client::new([10, 0, 0, 1].into(), trusted).rewrite(&mut request);
        let headers = request.headers();
        assert!(request.uri().scheme().is_none());
        assert!(!headers.contains_key("proxy-authorization") && !headers.contains_key("expect"));
        assert!(!(chunked && headers.contains_key(CONTENT_LENGTH)), "one length goes on");
        let chain: Vec<_> = headers.get_all("x-forwarded-for").iter().collect();
        assert_eq!(chain.len(), 1);
        assert!(chain[0].as_bytes().ends_with(b"10.0.0.1"));
        assert!(trusted || chain[0] == "10.0.0.1", "{given:?} is believed");
        assert!(headers.contains_key("x-request-id"));
    });
}

#[test]
fn a_host_is_one_that_a_rule_can_name_or_refused() {
    const HOSTS: &[&str] =
        &["shop.example", "Shop.Example:8070", "shop.example.", "[::1]:80", "127.0.0.1:1"];
    let host = prop_oneof![3 => near(HOSTS), 1 => text()];
    check(8 * CASES, (host, any::<bool>()), |(host, old)| {
        let Ok(value) = HeaderValue::from_bytes(host.as_bytes()) else { return };
        let mut request = Request::new(());
        request.headers_mut().insert(HOST, value);
        if old {
            *request.version_mut() = Version::HTTP_10;
        }
        if let Ok(found) = host_of(&request) {
            let plain =
                |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-._[]:".contains(&b);
            assert!(found.bytes().all(plain), "{found}");
            assert!(host.to_ascii_lowercase().starts_with(&*found));
            // Found once, it is found again.
            let mut again = Request::new(());
            again.headers_mut().insert(HOST, HeaderValue::try_from(&*found).unwrap());
            if !found.ends_with('.') {
                assert_eq!(host_of(&again).unwrap(), found);
            }
        }
    });
}
