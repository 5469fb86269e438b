//! Through the proxy, which is the only way out, to where it does not lead.

use super::{native, script};
use crate::attempt::{Attempt, Control, Group, Needs, Steps, Way};
use crate::target::Runtime::{Node, Python};

const fn through(id: &'static str, tries: &'static str, ways: &'static [Way]) -> Attempt {
    Attempt { id, group: Group::Egress, tries, control: Control::Proxy, ways, needs: Needs::Proxy }
}

/// Nothing allows it.
const DENIED: &[&str] = &["403"];

/// It is not what the proxy speaks.
const NOT_HTTP: &[&str] = &["400"];

macro_rules! through {
    ($id:literal, $tries:literal, $request:literal, $expect:expr) => {
        through($id, $tries, &[native(Steps::ToProxy($request), $expect)])
    };
}

pub const ATTEMPTS: &[Attempt] = &[
    through(
        "proxy-other-host",
        "a tunnel to another host",
        &[
            native(
                Steps::ToProxy("CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\r\n"),
                DENIED,
            ),
            script(Python, "http('CONNECT example.com:443', 'example.com:443')", DENIED),
            script(Node, "await http('CONNECT example.com:443', 'example.com:443')", DENIED),
        ],
    ),
    through!(
        "proxy-host-loopback",
        "a tunnel to a listener on the host's loopback",
        "CONNECT 127.0.0.1:{TCP} HTTP/1.1\r\nHost: 127.0.0.1:{TCP}\r\n\r\n",
        DENIED
    ),
    through!(
        "proxy-localhost",
        "a tunnel to the same by the name localhost",
        "CONNECT localhost:{TCP} HTTP/1.1\r\nHost: localhost:{TCP}\r\n\r\n",
        DENIED
    ),
    through!(
        "proxy-decimal-address",
        "a tunnel to 127.0.0.1 written as one number",
        "CONNECT 2130706433:{TCP} HTTP/1.1\r\nHost: 2130706433:{TCP}\r\n\r\n",
        DENIED
    ),
    through!(
        "proxy-octal-address",
        "a tunnel to 127.0.0.1 in octal",
        "CONNECT 0177.0.0.1:{TCP} HTTP/1.1\r\nHost: 0177.0.0.1:{TCP}\r\n\r\n",
        DENIED
    ),
    through!(
        "proxy-mapped-address",
        "a tunnel to 127.0.0.1 as an IPv6 address",
        "CONNECT [::ffff:127.0.0.1]:{TCP} HTTP/1.1\r\nHost: [::ffff:127.0.0.1]:{TCP}\r\n\r\n",
        DENIED
    ),
    through!(
        "proxy-other-port",
        "a tunnel to the model's host at the port of SSH",
        "CONNECT inference.local:22 HTTP/1.1\r\nHost: inference.local:22\r\n\r\n",
        DENIED
    ),
    through!(
        "proxy-plain-get",
        "a request in the clear for the host's loopback",
        "GET http://127.0.0.1:{TCP}/ HTTP/1.1\r\nHost: 127.0.0.1:{TCP}\r\n\r\n",
        DENIED
    ),
    through!(
        "proxy-metadata",
        "a request for the cloud's metadata",
        "GET http://169.254.169.254/latest/meta-data/ HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n",
        DENIED
    ),
    through!(
        "proxy-user-part",
        "the model's host as the user part of another (inference.local@127.0.0.1)",
        "CONNECT inference.local:443@127.0.0.1:{TCP} HTTP/1.1\r\nHost: inference.local:443\r\n\r\n",
        NOT_HTTP
    ),
    through!(
        "proxy-lookalike",
        "a host whose name begins with the model's host",
        "CONNECT inference.local.example.com:443 HTTP/1.1\r\nHost: inference.local.example.com:443\r\n\r\n",
        DENIED
    ),
    through!(
        "proxy-nul-in-name",
        "a NUL behind the model's host",
        "CONNECT inference.local\0.example.com:443 HTTP/1.1\r\nHost: inference.local:443\r\n\r\n",
        NOT_HTTP
    ),
    through!(
        "proxy-two-hosts",
        "one host in the request line, another in the Host field",
        "GET http://inference.local/v1/models HTTP/1.1\r\nHost: 127.0.0.1:{TCP}\r\n\r\n",
        &["421"]
    ),
    through!(
        "proxy-two-lengths",
        "two lengths of one body, to smuggle a second request",
        "POST http://inference.local/v1/chat/completions HTTP/1.1\r\nHost: inference.local\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n",
        NOT_HTTP
    ),
    through!(
        "proxy-folded-header",
        "a header field folded over two lines",
        "GET http://inference.local/v1/models HTTP/1.1\r\nHost: inference.local\r\nX-A: b\r\n c\r\n\r\n",
        NOT_HTTP
    ),
    through!(
        "proxy-bare-newline",
        "lines that end with a newline alone",
        "CONNECT inference.local:443 HTTP/1.1\nHost: inference.local:443\n\n",
        NOT_HTTP
    ),
    through!(
        "proxy-unknown-call",
        "a call of the provider's that the route does not know",
        "GET http://inference.local/v1/files HTTP/1.1\r\nHost: inference.local\r\n\r\n",
        &["404"]
    ),
];
