use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A range of addresses: `10.0.0.0/8`, `fd00::/8`, or one address. Host bits are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cidr {
    base: IpAddr,
    prefix: u8,
}

/// Why a text is no range of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CidrError {
    /// Neither an address nor an address with a prefix length.
    #[error("it is neither an address nor a range such as 10.20.0.0/16")]
    Malformed,
    /// Bits behind the prefix are set: who wrote it may have meant something else.
    #[error("bits behind the prefix are set; the range begins at {0}")]
    HostBits(IpAddr),
    /// An IPv4 address in IPv6 clothes, which would never match.
    #[error("write an IPv4-mapped range as IPv4")]
    Mapped,
}

impl Cidr {
    /// One of this crate's own lists.
    pub(crate) fn known(text: &str) -> Self {
        text.parse().expect("the lists of this crate are well-formed")
    }

    /// Whether the address lies within.
    pub(crate) fn contains(&self, ip: IpAddr) -> bool {
        match (self.base, ip) {
            (IpAddr::V4(base), IpAddr::V4(ip)) => u32::from(ip) & mask4(self.prefix) == u32::from(base),
            (IpAddr::V6(base), IpAddr::V6(ip)) => u128::from(ip) & mask6(self.prefix) == u128::from(base),
            _ => false,
        }
    }

    /// Whether the two have an address in common.
    pub(crate) fn overlaps(&self, other: Self) -> bool {
        self.contains(other.base) || other.contains(self.base)
    }
}

fn mask4(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

fn mask6(prefix: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0)
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let ip: IpAddr = address.parse().map_err(|_| CidrError::Malformed)?;
        if ip.to_canonical() != ip {
            return Err(CidrError::Mapped);
        }
        let most = if ip.is_ipv4() { 32 } else { 128 };
        let prefix = match length {
            Some(digits) if digits.len() <= 3 && digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                digits.parse().ok().filter(|prefix| *prefix <= most).ok_or(CidrError::Malformed)?
            }
            Some(_) => return Err(CidrError::Malformed),
            None => most,
        };
        let base = match ip {
            IpAddr::V4(ip) => IpAddr::V4(Ipv4Addr::from(u32::from(ip) & mask4(prefix))),
            IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from(u128::from(ip) & mask6(prefix))),
        };
        if base == ip { Ok(Self { base, prefix }) } else { Err(CidrError::HostBits(base)) }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.base, self.prefix) {
            (IpAddr::V4(_), 32) | (IpAddr::V6(_), 128) => write!(f, "{}", self.base),
            (base, prefix) => write!(f, "{base}/{prefix}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_ranges_strictly() {
        for text in ["10.0.0.0/8", "10.1.2.3", "0.0.0.0/0", "::/0", "fd00::/8", "::1"] {
            assert_eq!(text.parse::<Cidr>().unwrap().to_string(), text);
        }
        assert_eq!("10.1.2.3/8".parse::<Cidr>(), Err(CidrError::HostBits("10.0.0.0".parse().unwrap())));
        assert_eq!("::ffff:10.0.0.0/104".parse::<Cidr>(), Err(CidrError::Mapped));
        for text in ["", "10.0.0.0/33", "10.0.0.0/", "10.0.0.0/+8", "10.0/8", "x", "::/129", "010.0.0.0/8"] {
            assert_eq!(text.parse::<Cidr>(), Err(CidrError::Malformed), "{text}");
        }
    }

    #[test]
    fn overlaps_both_ways() {
        let range = |text: &str| text.parse::<Cidr>().unwrap();
        assert!(range("0.0.0.0/0").overlaps(range("127.0.0.0/8")));
        assert!(range("127.0.0.1").overlaps(range("127.0.0.0/8")));
        assert!(!range("126.0.0.0/8").overlaps(range("127.0.0.0/8")));
        assert!(!range("::/0").overlaps(range("127.0.0.0/8")));
    }
}
