use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};

/// Ports below the kernel's ephemeral range, so that no outgoing connection takes one by chance.
const FIRST: u16 = 20_000;
const COUNT: u16 = 12_000;

/// A TCP port on the loopback that is free now. Each test process begins at another place, so that tests
/// that run at the same time do not take one from each other.
///
/// # Panics
/// When none of 12,000 is free.
pub fn free_port() -> u16 {
    static ASKED: AtomicU16 = AtomicU16::new(0);
    let start = (std::process::id() % u32::from(COUNT / 16)) * 16;
    (0..COUNT)
        .map(|_| u32::from(ASKED.fetch_add(1, Ordering::Relaxed)))
        .map(|asked| FIRST + u16::try_from((start + asked) % u32::from(COUNT)).expect("below COUNT"))
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("a free port")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_another_free_port_each_time() {
        let (one, two) = (free_port(), free_port());
        assert_ne!(one, two);
        let held = TcpListener::bind(("127.0.0.1", one)).unwrap();
        assert_eq!(held.local_addr().unwrap().port(), one);
    }
}
