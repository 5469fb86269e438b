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
    through!(
        "proxy-hexadecimal-address",
        "a tunnel to 127.0.0.1 in hexadecimal",
        "CONNECT 0x7f000001:{TCP} HTTP/1.1\r\nHost: 0x7f000001:{TCP}\r\n\r\n",
        DENIED
    ),
    through!(
        "proxy-short-address",
        "a tunnel to 127.0.0.1 written short (127.1)",
        "CONNECT 127.1:{TCP} HTTP/1.1\r\nHost: 127.1:{TCP}\r\n\r\n",
        DENIED
    ),
    through!(
        "proxy-unspecified-address",
        "a tunnel to the address that is every one of the host's (0.0.0.0)",
        "CONNECT 0.0.0.0:{TCP} HTTP/1.1\r\nHost: 0.0.0.0:{TCP}\r\n\r\n",
        DENIED
    ),
    through!(
        "proxy-unspecified-address6",
        "the same of IPv6 (::)",
        "CONNECT [::]:{TCP} HTTP/1.1\r\nHost: [::]:{TCP}\r\n\r\n",
        DENIED
    ),
    through!(
        "proxy-loopback6",
        "a tunnel to the loopback of IPv6 (::1)",
        "CONNECT [::1]:{TCP} HTTP/1.1\r\nHost: [::1]:{TCP}\r\n\r\n",
        DENIED
    ),
    through!(
        "proxy-translated-address",
        "a tunnel to 127.0.0.1 behind a translator (64:ff9b::7f00:1)",
        "CONNECT [64:ff9b::7f00:1]:{TCP} HTTP/1.1\r\nHost: [64:ff9b::7f00:1]:{TCP}\r\n\r\n",
        DENIED
    ),
    through!(
        "proxy-zone",
        "an address with a zone (fe80::1%25eth0)",
        "CONNECT [fe80::1%25eth0]:80 HTTP/1.1\r\nHost: [fe80::1%25eth0]:80\r\n\r\n",
        NOT_HTTP
    ),
    through!(
        "proxy-address",
        "a tunnel to an address in the internet",
        "CONNECT 1.1.1.1:443 HTTP/1.1\r\nHost: 1.1.1.1:443\r\n\r\n",
        DENIED
    ),
    through!(
        "proxy-metadata-tunnel",
        "a tunnel to the cloud's metadata",
        "CONNECT 169.254.169.254:80 HTTP/1.1\r\nHost: 169.254.169.254:80\r\n\r\n",
        DENIED
    ),
    through!(
        "proxy-metadata6",
        "a tunnel to the same by IPv6 (fd00:ec2::254)",
        "CONNECT [fd00:ec2::254]:80 HTTP/1.1\r\nHost: [fd00:ec2::254]:80\r\n\r\n",
        DENIED
    ),
    through!(
        "proxy-metadata-name",
        "a tunnel to the same by its name",
        "CONNECT metadata.google.internal:80 HTTP/1.1\r\nHost: metadata.google.internal:80\r\n\r\n",
        DENIED
    ),
    through!(
        "proxy-container-host",
        "a tunnel to this host by its name in containers (host.docker.internal)",
        "CONNECT host.docker.internal:{TCP} HTTP/1.1\r\nHost: host.docker.internal:{TCP}\r\n\r\n",
        DENIED
    ),
    through!(
        "proxy-wide-digits",
        "127.0.0.1 in full-width digits and dots",
        "CONNECT \u{ff11}\u{ff12}\u{ff17}\u{3002}0\u{3002}0\u{3002}1:{TCP} HTTP/1.1\r\nHost: x\r\n\r\n",
        NOT_HTTP
    ),
    through!(
        "proxy-percent-host",
        "the host's loopback in percent signs",
        "CONNECT %31%32%37.0.0.1:{TCP} HTTP/1.1\r\nHost: %31%32%37.0.0.1:{TCP}\r\n\r\n",
        NOT_HTTP
    ),
    through!(
        "proxy-trailing-dot",
        "another host with a dot at its end",
        "CONNECT example.com.:443 HTTP/1.1\r\nHost: example.com.:443\r\n\r\n",
        DENIED
    ),
    through!(
        "proxy-two-dots",
        "the model's host with two dots at its end",
        "CONNECT inference.local..:443 HTTP/1.1\r\nHost: inference.local..:443\r\n\r\n",
        NOT_HTTP
    ),
    through!(
        "proxy-port-zero",
        "a tunnel to port 0",
        "CONNECT inference.local:0 HTTP/1.1\r\nHost: inference.local:0\r\n\r\n",
        NOT_HTTP
    ),
    through!(
        "proxy-port-too-large",
        "a port that is another one in 16 bits (65979)",
        "CONNECT inference.local:65979 HTTP/1.1\r\nHost: inference.local:65979\r\n\r\n",
        NOT_HTTP
    ),
    through!(
        "proxy-no-port",
        "a tunnel to no port",
        "CONNECT inference.local HTTP/1.1\r\nHost: inference.local\r\n\r\n",
        NOT_HTTP
    ),
    through!(
        "proxy-long-name",
        "a host whose name is longer than any may be",
        "CONNECT aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.example.com:443 HTTP/1.1\r\nHost: x\r\n\r\n",
        NOT_HTTP
    ),
    through!(
        "proxy-escape-in-name",
        "a host's name that draws on the terminal of whoever reads of it",
        "CONNECT \u{1b}]0;owned\u{7}\u{1b}[2Jexample.com:443 HTTP/1.1\r\nHost: x\r\n\r\n",
        NOT_HTTP
    ),
    through!(
        "proxy-injected-line",
        "a line break in the target",
        "GET http://inference.local/v1/models\r\nX-Injected: 1 HTTP/1.1\r\nHost: inference.local\r\n\r\n",
        NOT_HTTP
    ),
    through!(
        "proxy-bare-return",
        "a carriage return alone within a field",
        "GET http://inference.local/v1/models HTTP/1.1\r\nHost: inference.local\r\nX-A: b\rX-B: c\r\n\r\n",
        NOT_HTTP
    ),
    through!(
        "proxy-space-before-colon",
        "a space before the colon of a field",
        "POST http://inference.local/v1/chat/completions HTTP/1.1\r\nHost: inference.local\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        NOT_HTTP
    ),
    through!(
        "proxy-unknown-coding",
        "a transfer coding that another reader may know (xchunked)",
        "POST http://inference.local/v1/chat/completions HTTP/1.1\r\nHost: inference.local\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        NOT_HTTP
    ),
    through!(
        "proxy-chunked-twice",
        "a transfer coding said twice",
        "POST http://inference.local/v1/chat/completions HTTP/1.1\r\nHost: inference.local\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
        NOT_HTTP
    ),
    through!(
        "proxy-length-twice",
        "two lengths that differ",
        "POST http://inference.local/v1/chat/completions HTTP/1.1\r\nHost: inference.local\r\nContent-Length: 4\r\nContent-Length: 40\r\n\r\nabcd",
        NOT_HTTP
    ),
    through!(
        "proxy-signed-length",
        "a length with a sign",
        "POST http://inference.local/v1/chat/completions HTTP/1.1\r\nHost: inference.local\r\nContent-Length: +4\r\n\r\nabcd",
        NOT_HTTP
    ),
    through!(
        "proxy-no-host",
        "a request that names no host of its own",
        "GET /v1/models HTTP/1.1\r\n\r\n",
        NOT_HTTP
    ),
    through!(
        "proxy-host-twice",
        "two Host fields",
        "GET http://inference.local/v1/models HTTP/1.1\r\nHost: inference.local\r\nHost: 127.0.0.1\r\n\r\n",
        NOT_HTTP
    ),
    through!(
        "proxy-http2-preface",
        "HTTP/2 to the proxy itself",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        NOT_HTTP
    ),
    through!("proxy-old-http", "a request of HTTP/0.9", "GET http://127.0.0.1:{TCP}/\r\n\r\n", NOT_HTTP),
    through!(
        "proxy-file",
        "a file of the host by the proxy",
        "GET file:///etc/hostname HTTP/1.1\r\nHost: x\r\n\r\n",
        NOT_HTTP
    ),
    through!(
        "proxy-other-scheme",
        "another protocol by the proxy (gopher)",
        "GET gopher://127.0.0.1:{TCP}/1 HTTP/1.1\r\nHost: 127.0.0.1:{TCP}\r\n\r\n",
        NOT_HTTP
    ),
    through!(
        "proxy-climbing-path",
        "a path that climbs out of the route's",
        "GET http://inference.local/v1/../admin HTTP/1.1\r\nHost: inference.local\r\n\r\n",
        &["404", "400"]
    ),
    through!(
        "proxy-trace",
        "what the proxy adds, sent back (TRACE)",
        "TRACE http://inference.local/v1/models HTTP/1.1\r\nHost: inference.local\r\n\r\n",
        &["404", "405", "400"]
    ),
    through!(
        "proxy-large-head",
        "a head that is larger than any may be",
        "GET http://inference.local/v1/models HTTP/1.1\r\nHost: inference.local\r\n{LONG}\r\n",
        &["431"]
    ),
    through!(
        "placeholder-elsewhere",
        "a credential's placeholder to a host that it is not for",
        "GET http://example.com/ HTTP/1.1\r\nHost: example.com\r\nAuthorization: Bearer clawkeep:secret:DRILL\r\n\r\n",
        DENIED
    ),
];
