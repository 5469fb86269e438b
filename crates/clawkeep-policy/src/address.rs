//! Which addresses a policy may open at all, and which ranges it lists.
//!
//! Source: the special-purpose address registries of IANA (RFC 6890 and its updates), and what cloud providers
//! document about their metadata services.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::cidr::Cidr;

/// What kind of place an address is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Class {
    /// Anybody's: the Internet.
    Public,
    /// Not the Internet: reached only where `allowed_ips` lists it.
    Internal,
    /// Reached by no policy: this host itself, this link, everybody on it, or a cloud's metadata service.
    Never(Never),
}

/// Why an address is never reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Never {
    /// Loopback, link-local, unspecified, multicast, broadcast, reserved, discard.
    Special,
    /// A cloud's metadata or platform service, which hands out credentials to whoever asks.
    Metadata,
}

impl fmt::Display for Never {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Special => "loopback, link-local, unspecified, multicast or reserved",
            Self::Metadata => "a cloud's metadata service",
        })
    }
}

/// AWS, Google, Azure, Oracle (twice), Alibaba, Scaleway, each as they document it. Those in 169.254.0.0/16 are
/// named for the message's sake: no link-local address is ever reached.
const METADATA: &[&str] = &[
    "169.254.169.254/32",
    "169.254.170.2/32",
    "fd00:ec2::/32",
    "fd20:ce::254/128",
    "168.63.129.16/32",
    "192.0.0.192/32",
    "fd00:c1::a9fe:a9fe/128",
    "100.100.100.200/32",
    "fd00:42::42/128",
];

/// Ranges of which no address is ever reached.
const NEVER: &[&str] = &[
    "0.0.0.0/8",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "224.0.0.0/4",
    "240.0.0.0/4",
    "::/128",
    "::1/128",
    "fe80::/10",
    "ff00::/8",
    "100::/64",
];

/// Ranges that only `allowed_ips` opens: private, shared, protocol assignments, documentation, benchmarking,
/// deprecated, and every prefix that carries another address inside.
const INTERNAL: &[&str] = &[
    "10.0.0.0/8",
    "100.64.0.0/10",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "::/96",
    "::ffff:0:0:0/96",
    "64:ff9b::/96",
    "64:ff9b:1::/48",
    "100:0:0:1::/64",
    "2001::/23",
    "2001:db8::/32",
    "2002::/16",
    "3fff::/20",
    "5f00::/16",
    "fc00::/7",
    "fec0::/10",
];

/// The three lists, read once.
struct Ranges {
    metadata: Vec<Cidr>,
    never: Vec<Cidr>,
    internal: Vec<Cidr>,
}

static RANGES: std::sync::LazyLock<Ranges> = std::sync::LazyLock::new(|| {
    let read = |list: &[&str]| list.iter().map(|text| Cidr::known(text)).collect();
    Ranges { metadata: read(METADATA), never: read(NEVER), internal: read(INTERNAL) }
});

/// The kind of one address, and of nothing inside it.
fn own_class(ip: IpAddr) -> Class {
    let within = |list: &[Cidr]| list.iter().any(|range| range.contains(ip));
    if within(&RANGES.metadata) {
        Class::Never(Never::Metadata)
    } else if within(&RANGES.never) {
        Class::Never(Never::Special)
    } else if within(&RANGES.internal) {
        Class::Internal
    } else {
        Class::Public
    }
}

/// Whether this is the address of a cloud's metadata service, also inside of an IPv6 address that leads there.
pub fn is_metadata(ip: IpAddr) -> bool {
    class(ip) == Class::Never(Never::Metadata)
}

/// The IPv4 address that a gateway somewhere would send an IPv6 packet on to.
fn inside(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    let words = ip.segments();
    let v4 = |high: u16, low: u16| Some(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low)));
    match words {
        // IPv4-compatible (RFC 4291, deprecated), IPv4-translated (RFC 2765), NAT64 (RFC 6052, RFC 8215).
        [0, 0, 0, 0, 0, 0, high, low] if high != 0 => v4(high, low),
        [0, 0, 0, 0, 0xffff, 0, high, low] => v4(high, low),
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x64, 0xff9b, 1, _, _, _, high, low] => v4(high, low),
        // 6to4 (RFC 3056).
        [0x2002, high, low, ..] => v4(high, low),
        // Teredo (RFC 4380): the client's address, all bits turned.
        [0x2001, 0, _, _, _, _, high, low] => v4(!high, !low),
        _ => None,
    }
}

/// The address itself and, where it carries another, that one too. An IPv4-mapped address is the IPv4 address:
/// to a socket they are the same.
fn faces(ip: IpAddr) -> impl Iterator<Item = IpAddr> {
    let ip = ip.to_canonical();
    let carried = match ip {
        IpAddr::V6(v6) => inside(v6).map(IpAddr::V4),
        IpAddr::V4(_) => None,
    };
    std::iter::once(ip).chain(carried)
}

/// The kind of an address: the worst of its own and of what it carries inside.
pub(crate) fn class(ip: IpAddr) -> Class {
    faces(ip).map(own_class).max().unwrap_or(Class::Public)
}

/// Whether a list of ranges covers an address, and what it carries inside as far as that is not public.
pub(crate) fn covered(ip: IpAddr, ranges: &[Cidr]) -> bool {
    let mut faces = faces(ip);
    let within = |face: IpAddr| ranges.iter().any(|range| range.contains(face));
    faces.next().is_some_and(within) && faces.all(|face| own_class(face) == Class::Public || within(face))
}

/// Whether a range reaches into what no policy opens. Single metadata addresses within a range do not count: they
/// are refused one by one.
pub(crate) fn overlaps_never(range: Cidr) -> bool {
    RANGES.never.iter().any(|never| never.overlaps(range))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_special_registry_is_told_from_the_internet() {
        use Class::*;
        for (text, expected) in [
            ("8.8.8.8", Public),
            ("2606:4700::1111", Public),
            ("::ffff:8.8.8.8", Public),
            ("9.255.255.255", Public),
            ("11.0.0.0", Public),
            ("172.15.255.255", Public),
            ("172.32.0.0", Public),
            ("100.63.255.255", Public),
            ("100.128.0.0", Public),
            ("10.0.0.0", Internal),
            ("172.31.255.255", Internal),
            ("192.168.0.1", Internal),
            ("100.64.0.1", Internal),
            ("192.0.0.8", Internal),
            ("192.0.2.1", Internal),
            ("192.88.99.1", Internal),
            ("198.18.0.1", Internal),
            ("198.51.100.7", Internal),
            ("203.0.113.9", Internal),
            ("::ffff:10.0.0.1", Internal),
            ("64:ff9b::8.8.8.8", Internal),
            ("64:ff9b::10.0.0.1", Internal),
            ("64:ff9b:1::8.8.8.8", Internal),
            ("::ffff:0:8.8.8.8", Internal),
            ("::8.8.8.8", Internal),
            ("2002:808:808::1", Internal),
            ("2001:0:4136:e378:8000:63bf:f7f7:f7f7", Internal),
            ("2001:db8::1", Internal),
            ("3fff::1", Internal),
            ("5f00::1", Internal),
            ("fd12::1", Internal),
            ("fec0::1", Internal),
            ("0.0.0.0", Never(super::Never::Special)),
            ("0.1.2.3", Never(super::Never::Special)),
            ("127.0.0.1", Never(super::Never::Special)),
            ("127.255.255.254", Never(super::Never::Special)),
            ("169.254.1.1", Never(super::Never::Special)),
            ("224.0.0.251", Never(super::Never::Special)),
            ("240.0.0.1", Never(super::Never::Special)),
            ("255.255.255.255", Never(super::Never::Special)),
            ("::", Never(super::Never::Special)),
            ("::1", Never(super::Never::Special)),
            ("::ffff:127.0.0.1", Never(super::Never::Special)),
            ("::127.0.0.1", Never(super::Never::Special)),
            ("fe80::1", Never(super::Never::Special)),
            ("ff02::fb", Never(super::Never::Special)),
            ("100::1", Never(super::Never::Special)),
            ("64:ff9b::7f00:1", Never(super::Never::Special)),
            ("64:ff9b:1::127.0.0.1", Never(super::Never::Special)),
            ("2002:7f00:1::", Never(super::Never::Special)),
            ("2001:0:4136:e378:8000:63bf:80ff:fffe", Never(super::Never::Special)),
            ("169.254.169.254", Never(super::Never::Metadata)),
            ("::ffff:169.254.169.254", Never(super::Never::Metadata)),
            ("64:ff9b::a9fe:a9fe", Never(super::Never::Metadata)),
            ("2002:a9fe:a9fe::1", Never(super::Never::Metadata)),
            ("fd00:ec2::254", Never(super::Never::Metadata)),
            ("fd00:ec2::23", Never(super::Never::Metadata)),
            ("100.100.100.200", Never(super::Never::Metadata)),
            ("168.63.129.16", Never(super::Never::Metadata)),
            ("192.0.0.192", Never(super::Never::Metadata)),
            ("fd20:ce::254", Never(super::Never::Metadata)),
        ] {
            assert_eq!(class(text.parse().unwrap()), expected, "{text}");
        }
    }

    #[test]
    fn a_range_covers_what_is_inside_as_well() {
        let ranges = |list: &[&str]| -> Vec<Cidr> { list.iter().map(|text| text.parse().unwrap()).collect() };
        let nat64 = ranges(&["64:ff9b::/96"]);
        assert!(covered("64:ff9b::8.8.8.8".parse().unwrap(), &nat64));
        assert!(!covered("64:ff9b::10.0.0.1".parse().unwrap(), &nat64));
        assert!(covered("64:ff9b::10.0.0.1".parse().unwrap(), &ranges(&["64:ff9b::/96", "10.0.0.0/8"])));
        assert!(covered("::ffff:10.0.0.1".parse().unwrap(), &ranges(&["10.0.0.0/8"])));
        assert!(!covered("10.0.0.1".parse().unwrap(), &ranges(&["fd00::/8"])));
    }
}
