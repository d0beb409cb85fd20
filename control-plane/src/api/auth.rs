//! Who may use the API: whoever shows the token, from this machine, and no web page.
//!
//! Pure functions over the headers. The token is what protects; `Host` and `Origin` keep a browser from being used as
//! a bridge (DNS rebinding, cross-site requests) even if a page got hold of it.

use agentbus_proto::{Code, Fault};
use http::{HeaderMap, Uri, header, uri::Authority};
use sha2::{Digest, Sha256};

/// Checks `Host`, `Origin` and the bearer token, in this order.
pub(super) fn check(headers: &HeaderMap, uri: &Uri, token: &str) -> Result<(), Fault> {
    let host = host(headers, uri)?;
    origin(headers, &host)?;
    bearer(headers, token)
}

/// The authority asked for: of HTTP/2 in the URI, of HTTP/1.1 in the header.
fn host(headers: &HeaderMap, uri: &Uri) -> Result<Authority, Fault> {
    let denied =
        |what: &str| Err(Fault::new(Code::ScopeDenied, format!("host {what} is refused: use 127.0.0.1 or localhost")));
    let text = match (uri.authority(), headers.get(header::HOST)) {
        (Some(authority), _) => Some(authority.as_str()),
        (None, Some(host)) => host.to_str().ok(),
        (None, None) => None,
    };
    let Some(authority) = text.and_then(|text| text.parse::<Authority>().ok()) else { return denied("(none)") };
    if headers.get_all(header::HOST).iter().count() > 1
        || authority.as_str().contains('@')
        || !is_loopback(authority.host())
    {
        return denied(&format!("`{}`", authority.as_str().escape_debug()));
    }
    Ok(authority)
}

fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare.eq_ignore_ascii_case("localhost")
        || bare.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Browsers always say where a cross-site request comes from; other clients send nothing.
fn origin(headers: &HeaderMap, host: &Authority) -> Result<(), Fault> {
    let own = format!("http://{host}");
    match headers.get_all(header::ORIGIN).iter().find(|origin| !origin.as_bytes().eq_ignore_ascii_case(own.as_bytes()))
    {
        None => Ok(()),
        Some(origin) => {
            let origin = String::from_utf8_lossy(origin.as_bytes());
            Err(Fault::new(
                Code::ScopeDenied,
                format!("origin `{}` is refused: no web page may use this API", origin.escape_debug()),
            ))
        }
    }
}

fn bearer(headers: &HeaderMap, token: &str) -> Result<(), Fault> {
    let denied =
        |why: &str| Err(Fault::new(Code::Unauthenticated, format!("{why}; send `Authorization: Bearer <token>`")));
    let mut shown = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (shown.next(), shown.next()) else { return denied("no token") };
    let value = value.as_bytes();
    match value.split_at_checked("bearer ".len()) {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case(b"bearer ") => {
            if !token.is_empty() && same(rest.trim_ascii(), token.as_bytes()) { Ok(()) } else { denied("wrong token") }
        }
        _ => denied("no bearer token"),
    }
}

/// Compares without telling by its duration how much was right: the digests, and all of each.
fn same(one: &[u8], other: &[u8]) -> bool {
    let (one, other) = (Sha256::digest(one), Sha256::digest(other));
    one.iter().zip(other.iter()).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(headers: &[(&'static str, &'static str)]) -> Result<(), Code> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        check(&map, &Uri::from_static("/v1/status"), "secret").map_err(|fault| fault.code)
    }

    const GOOD: (&str, &str) = ("authorization", "Bearer secret");

    #[test]
    fn the_token_opens_the_door() {
        let host = ("host", "127.0.0.1:4000");
        assert_eq!(run(&[host, GOOD]), Ok(()));
        assert_eq!(run(&[host, ("authorization", "bearer secret")]), Ok(()));
        for bad in ["Bearer", "Bearer ", "Bearer wrong", "Bearer secret1", "Basic secret", "secret"] {
            assert_eq!(run(&[host, ("authorization", bad)]), Err(Code::Unauthenticated), "{bad}");
        }
        assert_eq!(run(&[host]), Err(Code::Unauthenticated));
        assert_eq!(run(&[host, GOOD, GOOD]), Err(Code::Unauthenticated));
    }

    #[test]
    fn an_empty_token_opens_nothing() {
        let mut map = HeaderMap::new();
        map.insert(header::HOST, "localhost".parse().unwrap());
        map.insert(header::AUTHORIZATION, "Bearer ".parse().unwrap());
        assert!(check(&map, &Uri::from_static("/"), "").is_err());
    }

    #[test]
    fn only_this_machine_is_asked() {
        for good in ["localhost", "LOCALHOST:1", "127.0.0.1:4000", "127.1.2.3", "[::1]:4000"] {
            assert_eq!(run(&[("host", good), GOOD]), Ok(()), "{good}");
        }
        for bad in [
            "evil.example",
            "evil.example:4000",
            "localhost.evil.example",
            "10.0.0.1",
            "[::2]",
            "a@127.0.0.1",
            "",
            "0.0.0.0",
        ] {
            assert_eq!(run(&[("host", bad), GOOD]), Err(Code::ScopeDenied), "{bad}");
        }
        assert_eq!(run(&[GOOD]), Err(Code::ScopeDenied));
        assert_eq!(run(&[("host", "localhost"), ("host", "evil.example"), GOOD]), Err(Code::ScopeDenied));
    }

    #[test]
    fn no_foreign_page_gets_in_even_with_the_token() {
        let host = ("host", "localhost:4000");
        assert_eq!(run(&[host, GOOD, ("origin", "http://localhost:4000")]), Ok(()));
        for bad in ["http://evil.example", "http://localhost:3000", "https://localhost:4000", "null", ""] {
            assert_eq!(run(&[host, GOOD, ("origin", bad)]), Err(Code::ScopeDenied), "{bad}");
        }
    }
}
