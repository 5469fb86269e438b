use http::header::{self, HeaderMap, HeaderName};

/// Fields that belong to one connection (RFC 9110, 7.6.1), and those that were meant for a proxy.
const OF_ONE_HOP: &[&str] = &[
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authentication-info",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "transfer-encoding",
    "upgrade",
];

/// Drop what belongs to one connection: the fields that `Connection` names, and the standard ones. The length of
/// the body stays, whatever `Connection` says about it: framing is not the sender's to take away. It goes where
/// `Transfer-Encoding` overrides it (RFC 9112, 6.3), since then it may be any number.
pub fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .filter(|name: &HeaderName| {
            ![header::CONTENT_LENGTH, header::HOST, header::TRANSFER_ENCODING].contains(name)
        })
        .collect();
    for name in named {
        headers.remove(name);
    }
    if headers.contains_key(header::TRANSFER_ENCODING) {
        headers.remove(header::CONTENT_LENGTH);
    }
    for name in OF_ONE_HOP {
        headers.remove(*name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_connection_names_goes_and_framing_stays() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "x-hop, content-length, host"),
            ("connection", "x-other"),
            ("x-hop", "v"),
            ("x-other", "v"),
            ("proxy-authorization", "Basic c2VjcmV0"),
            ("te", "trailers"),
            ("content-length", "3"),
            ("host", "a"),
            ("x-request-id", "v"),
        ] {
            headers.append(name, value.parse().unwrap());
        }
        strip(&mut headers);
        let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["content-length", "host", "x-request-id"]);
        headers.insert("transfer-encoding", "chunked".parse().unwrap());
        strip(&mut headers);
        assert!(!headers.contains_key("content-length"));
    }
}
