//! What a proxy takes from, and adds to, the headers that pass through it
//! (RFC 9110, section 7.6).

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use aether_invoker::is_grpc;
use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue,
    PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::{Request, Uri, Version};

/// The tokens of a comma-separated header.
pub(crate) fn tokens<'a>(
    values: impl Iterator<Item = &'a HeaderValue>,
) -> impl Iterator<Item = &'a [u8]> {
    let all = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    all.map(<[u8]>::trim_ascii).filter(|token| !token.is_empty())
}

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Headers of one connection, not of the message. `Transfer-Encoding` too:
/// hyper frames each side anew.
const HOP_BY_HOP: [HeaderName; 7] =
    [CONNECTION, KEEP_ALIVE, PROXY_CONNECTION, PROXY_AUTHENTICATE, TE, TRANSFER_ENCODING, UPGRADE];

/// Headers that `Connection` must not talk us into dropping: without them the
/// message would mean something else.
const KEPT: [HeaderName; 2] = [HOST, CONTENT_LENGTH];

/// Why a request names no host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BadHost(pub(crate) &'static str);

/// The host that a request is for: in lower case, without port and final dot.
/// Empty for a request of HTTP/1.0 without one.
pub(crate) fn host_of<B>(request: &Request<B>) -> Result<Cow<'_, str>, BadHost> {
    let mut given = request.headers().get_all(HOST).iter();
    let header = given.next();
    if given.next().is_some() {
        return Err(BadHost("the request has more than one Host header"));
    }
    // With HTTP/2 they mean the same (RFC 9113, section 8.3.1).
    if let (Version::HTTP_2, Some(authority), Some(header)) =
        (request.version(), request.uri().authority(), header)
        && !header.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes())
    {
        return Err(BadHost("the Host header contradicts :authority"));
    }
    // The authority of an absolute request target goes before the header.
    let named = match (request.uri().authority(), header) {
        (Some(authority), _) => authority.as_str(),
        (None, Some(header)) => {
            header.to_str().map_err(|_| BadHost("the Host header is no host name"))?
        }
        (None, None) if request.version() < Version::HTTP_11 => "",
        (None, None) => return Err(BadHost("the request has no Host header")),
    };
    without_port(named).ok_or(BadHost("the Host header is no host name")).map(lower_case)
}

fn without_port(named: &str) -> Option<&str> {
    let (host, port) = if named.starts_with('[') {
        let end = named.find(']')? + 1;
        (&named[..end], named[end..].strip_prefix(':').or(Some("").filter(|_| end == named.len()))?)
    } else {
        named.split_once(':').unwrap_or((named, ""))
    };
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._[]:".contains(&b);
    let is_host = host.bytes().all(plain) && port.bytes().all(|b| b.is_ascii_digit());
    is_host.then_some(host.strip_suffix('.').unwrap_or(host))
}

fn lower_case(host: &str) -> Cow<'_, str> {
    if host.bytes().any(|b| b.is_ascii_uppercase()) {
        Cow::Owned(host.to_ascii_lowercase())
    } else {
        Cow::Borrowed(host)
    }
}

/// Removes what belongs to the connection a message came over.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(CONNECTION)
            .iter()
            // By bytes: beside one that is no text, names count all the same.
            .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
            .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
            .filter(|name| !KEPT.contains(name))
            .collect();
        for name in named {
            headers.remove(name);
        }
    }
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
}

/// What one client connection says of all its requests.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    address: HeaderValue,
    ip: IpAddr,
    /// That it speaks.
    scheme: &'static str,
    trust_forwarded: bool,
}

impl Client {
    pub(crate) fn new(address: IpAddr, trust_forwarded: bool) -> Self {
        let ip = address.to_canonical();
        let address = HeaderValue::try_from(ip.to_string()).expect("an IP address is plain ASCII");
        Self { address, ip, scheme: "http", trust_forwarded }
    }

    /// Where it connected from.
    pub(crate) fn ip(&self) -> IpAddr {
        self.ip
    }

    /// The client speaks TLS.
    pub(crate) fn secured(self) -> Self {
        Self { scheme: "https", ..self }
    }

    /// What it may call the scheme of a request. With HTTP/2 every request names
    /// one, and a proxy in front of this one may have taken https off.
    pub(crate) fn may_name<B>(&self, scheme: &str, request: &Request<B>) -> bool {
        scheme == self.scheme || scheme == "https" && request.version() == Version::HTTP_2
    }

    /// Brings the head of a request into the form that an instance gets.
    pub(crate) fn rewrite<B>(&self, request: &mut Request<B>) {
        let is_chunked = request.headers().contains_key(TRANSFER_ENCODING);
        let authority =
            request.uri().authority().and_then(|a| HeaderValue::from_str(a.as_str()).ok());
        if request.uri().scheme().is_some() {
            let path = request.uri().path_and_query().cloned();
            *request.uri_mut() = path.map_or_else(|| Uri::from_static("/"), Uri::from);
        }
        let is_http2 = request.version() == Version::HTTP_2;
        // By this a server of gRPC knows that trailers get through, and they do.
        let takes_trailers = is_grpc(request.headers())
            && tokens(request.headers().get_all(TE).iter())
                .any(|token| token.eq_ignore_ascii_case(b"trailers"));
        let headers = request.headers_mut();
        strip_hop_by_hop(headers);
        headers.remove(PROXY_AUTHORIZATION);
        if takes_trailers {
            headers.insert(TE, HeaderValue::from_static("trailers"));
        }
        if is_http2 {
            join_cookies(headers);
        }
        // hyper asks the client to go on when the body is first read, which is
        // when an instance is there to take it.
        headers.remove(EXPECT);
        if is_chunked {
            // Of two lengths that may contradict each other, only one goes on.
            headers.remove(CONTENT_LENGTH);
        } else if let Some(length) = headers.get(CONTENT_LENGTH).cloned() {
            // The same length said twice has been let pass.
            headers.insert(CONTENT_LENGTH, length);
        }
        if let Some(authority) = authority {
            headers.insert(HOST, authority);
        }
        self.forwarded(headers);
        ensure_id(headers);
    }

    fn forwarded(&self, headers: &mut HeaderMap) {
        let earlier = headers.get(X_FORWARDED_FOR).filter(|_| self.trust_forwarded);
        let chain = earlier.and_then(|earlier| {
            let chain = [earlier.as_bytes(), b", ", self.address.as_bytes()].concat();
            HeaderValue::try_from(chain).ok()
        });
        headers.insert(X_FORWARDED_FOR, chain.unwrap_or_else(|| self.address.clone()));
        let keeps = |headers: &HeaderMap, name: HeaderName| {
            self.trust_forwarded && headers.contains_key(name)
        };
        if !keeps(headers, X_FORWARDED_PROTO) {
            headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(self.scheme));
        }
        if !keeps(headers, X_FORWARDED_HOST) {
            match headers.get(HOST).cloned() {
                Some(host) => drop(headers.insert(X_FORWARDED_HOST, host)),
                None => drop(headers.remove(X_FORWARDED_HOST)),
            }
        }
    }
}

/// Gives a request an id if it has none.
pub(crate) fn ensure_id(headers: &mut HeaderMap) {
    if !headers.contains_key(X_REQUEST_ID) {
        headers.insert(X_REQUEST_ID, request_id());
    }
}

/// With HTTP/2 a cookie may come in crumbs, each a header of its own; an instance
/// gets one header (RFC 9113, section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(COOKIE).iter().nth(1).is_some() {
        let crumbs: Vec<&[u8]> =
            headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
        let joined = crumbs.join(&b"; "[..]);
        headers.insert(COOKIE, HeaderValue::try_from(joined).expect("made of header values"));
    }
}

/// 16 hexadecimal digits, different for each request of this process and
/// unlikely to be those of another.
fn request_id() -> HeaderValue {
    static START: std::sync::LazyLock<u64> = std::sync::LazyLock::new(rand::random);
    static NEXT: AtomicU64 = AtomicU64::new(0);
    // An odd constant makes the product run through all values.
    let id = START
        .wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    HeaderValue::try_from(format!("{id:016x}")).expect("hexadecimal digits are plain ASCII")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(uri: &str, headers: &[(&str, &str)]) -> Request<()> {
        let mut builder = Request::builder().uri(uri);
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        builder.body(()).unwrap()
    }

    #[test]
    fn hosts_are_compared_without_port_case_and_final_dot() {
        for (host, expected) in [
            ("shop.example", "shop.example"),
            ("Shop.Example:8070", "shop.example"),
            ("shop.example.", "shop.example"),
            ("[::1]:80", "[::1]"),
            ("[::1]", "[::1]"),
            ("127.0.0.1:1", "127.0.0.1"),
        ] {
            assert_eq!(host_of(&request("/", &[("host", host)])).unwrap(), expected, "{host}");
        }
        let absolute = request("http://A.example:1/x", &[("host", "b.example")]);
        assert_eq!(host_of(&absolute).unwrap(), "a.example");
        for bad in ["a b", "a/b", "a@b", "a:b", "[::1]x", "[::1", "a:1:2"] {
            assert!(host_of(&request("/", &[("host", bad)])).is_err(), "{bad}");
        }
        assert!(host_of(&request("/", &[])).is_err());
        assert!(host_of(&request("/", &[("host", "a"), ("host", "b")])).is_err());
        let mut old = request("/", &[]);
        *old.version_mut() = Version::HTTP_10;
        assert_eq!(host_of(&old).unwrap(), "");
    }

    #[test]
    fn what_belongs_to_the_connection_stays_with_it() {
        let mut request = request(
            "http://shop.example/a?b=c",
            &[
                ("host", "other.example"),
                ("connection", "close, X-Private, Host, content-length"),
                ("x-private", "1"),
                ("keep-alive", "timeout=5"),
                ("upgrade", "websocket"),
                ("te", "trailers"),
                ("expect", "100-continue"),
                ("proxy-authorization", "Basic eA=="),
                ("x-forwarded-for", "6.6.6.6"),
                ("x-forwarded-proto", "https"),
                ("x-request-id", "mine"),
                ("content-length", "3"),
            ],
        );
        Client::new([10, 0, 0, 1].into(), false).rewrite(&mut request);
        assert_eq!(request.uri(), "/a?b=c");
        let mut seen: Vec<_> = request
            .headers()
            .iter()
            .map(|(name, value)| format!("{name}={}", value.to_str().unwrap()))
            .collect();
        seen.sort();
        assert_eq!(
            seen,
            [
                "content-length=3",
                "host=shop.example",
                "x-forwarded-for=10.0.0.1",
                "x-forwarded-host=shop.example",
                "x-forwarded-proto=http",
                "x-request-id=mine",
            ]
        );
    }

    #[test]
    fn a_host_is_named_once_and_cookies_are_whole_with_http2() {
        let request = |host: &str| {
            let mut request = request(
                "http://shop.example:80/a",
                &[("host", host), ("cookie", "a=b"), ("cookie", "c=d; e=f")],
            );
            *request.version_mut() = Version::HTTP_2;
            request
        };
        assert!(host_of(&request("other.example")).is_err());
        let mut same = request("Shop.example:80");
        assert_eq!(host_of(&same).unwrap(), "shop.example");
        Client::new([10, 0, 0, 1].into(), false).rewrite(&mut same);
        let cookies: Vec<_> = same.headers().get_all(COOKIE).iter().collect();
        assert_eq!(cookies, ["a=b; c=d; e=f"]);
        assert_eq!(same.headers()["host"], "shop.example:80");
    }

    #[test]
    fn a_trusted_proxy_is_added_to_and_lengths_do_not_contradict() {
        let mut request = request(
            "/",
            &[
                ("host", "a"),
                ("x-forwarded-for", "6.6.6.6"),
                ("x-forwarded-proto", "https"),
                ("transfer-encoding", "chunked"),
                ("content-length", "3"),
            ],
        );
        Client::new([10, 0, 0, 1].into(), true).rewrite(&mut request);
        assert_eq!(request.headers()["x-forwarded-for"], "6.6.6.6, 10.0.0.1");
        assert_eq!(request.headers()["x-forwarded-proto"], "https");
        assert!(!request.headers().contains_key("content-length"));
        assert_eq!(request.headers()["x-request-id"].len(), 16);
        assert_ne!(request_id(), request_id());
    }
}
