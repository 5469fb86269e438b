//! How a program is written for the payload.

use crate::attempt::{Arg, Control, Steps, Word};
use crate::canaries::Bait;
use crate::target::{Places, Traits, Walls};

/// What an attempt is filled in with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Context<'a> {
    pub bait: &'a Bait,
    pub traits: &'a Traits,
    pub places: &'a Places,
}

/// The tunnel that must be answered.
const TUNNEL: &str = "CONNECT inference.local:443 HTTP/1.1\r\nHost: inference.local:443\r\n\r\n";

/// The payload's arguments for a control and an attack.
pub(crate) fn both(control: &Control, attack: &Steps, context: &Context<'_>) -> Vec<String> {
    let is_beside = matches!(context.traits.walls, Walls::Landlock { .. });
    let control = match (control, context.traits.proxy) {
        (Control::Steps(steps), _) => program(steps, context),
        (Control::Routes(_, _, beside) | Control::Sockets(_, beside), _) if is_beside => {
            program(beside, context)
        }
        (Control::Sockets(all, _), _) => program(all, context),
        (Control::Routes(routes, ..), _) if context.traits.netlink => program(routes, context),
        (Control::Routes(_, other, _), _) => program(other, context),
        (Control::Proxy, Some(_)) => program(&Steps::ToProxy(TUNNEL), context),
        (Control::Proxy, None) => vec!["loopback".to_owned()],
    };
    let marked = |mark: &str, words: Vec<String>| std::iter::once(mark.to_owned()).chain(words);
    marked("control", control).chain(marked("attack", program(attack, context))).collect()
}

fn program(steps: &Steps, context: &Context<'_>) -> Vec<String> {
    match steps {
        Steps::Calls(calls) => {
            let mut words = vec!["calls".to_owned()];
            for call in *calls {
                words.extend(["call".to_owned(), call.number.to_string()]);
                words.extend(call.arguments.iter().map(|argument| self::argument(argument, context)));
            }
            words
        }
        Steps::Verb(words) => words.iter().map(|word| self::word(word, context)).collect(),
        Steps::Netlink(message) => vec!["netlink".to_owned(), hex(message)],
        Steps::ToProxy(request) => {
            let request =
                request.replace("{TCP}", &context.bait.tcp.to_string()).replace("{LONG}", &long_field());
            let port = context.traits.proxy.unwrap_or(0).to_string();
            vec!["http".to_owned(), port, hex(request.as_bytes())]
        }
    }
}

/// A field that is longer than any head may be.
fn long_field() -> String {
    format!("X-Long: {}\r\n", "a".repeat(48 << 10))
}

fn word(word: &Word, context: &Context<'_>) -> String {
    const MIB: u64 = 1 << 20;
    match word {
        Word::Text(text) => context.places.find(text),
        Word::Number(number) => number.to_string(),
        Word::TooManyProcesses => (context.traits.processes.unwrap_or(0) + 16).to_string(),
        Word::TooMuchMemory => (context.traits.memory_bytes.unwrap_or(0) / MIB + 64).to_string(),
    }
}

fn argument(argument: &Arg, context: &Context<'_>) -> String {
    const LOOPBACK: [u8; 4] = [127, 0, 0, 1];
    let bait = context.bait;
    match argument {
        Arg::Int(number) => format!("i{number}"),
        Arg::Text(text) => format!("s{}", context.places.find(text)),
        Arg::Bytes(bytes) => format!("x{}", hex(bytes)),
        Arg::Zeros(size) => format!("z{size}"),
        Arg::Result(index) => format!("r{index}"),
        Arg::Own => "p".to_owned(),
        Arg::Sibling => "g".to_owned(),
        Arg::Init => "n".to_owned(),
        Arg::HostPid => format!("h{}:{}", bait.host_process.0, bait.host_process.1),
        Arg::Inet(address, port) => format!("x{}", hex(&inet(*address, *port))),
        Arg::Inet6(address, port) => format!("x{}", hex(&inet6(*address, *port))),
        Arg::Unix(path) => format!("x{}", hex(&unix(path.as_bytes()))),
        Arg::TcpCanary => format!("x{}", hex(&inet(LOOPBACK, bait.tcp))),
        Arg::UdpCanary => format!("x{}", hex(&inet(LOOPBACK, bait.udp))),
        Arg::AbstractCanary => {
            let name = [b"\0", bait.abstract_name.as_bytes()].concat();
            format!("x{}", hex(&unix(&name)))
        }
        Arg::FileCanary => format!("s{}", bait.file),
        Arg::Token => format!("s{}", bait.token),
        Arg::TooLarge => format!("i{}", context.traits.file_bytes.unwrap_or(0).saturating_add(1)),
    }
}

fn family(family: i32) -> Vec<u8> {
    u16::try_from(family).unwrap_or(0).to_ne_bytes().to_vec()
}

/// `sockaddr_in` (ip(7)).
fn inet(address: [u8; 4], port: u16) -> Vec<u8> {
    [family(libc::AF_INET), port.to_be_bytes().to_vec(), address.to_vec(), vec![0; 8]].concat()
}

/// `sockaddr_in6` (ipv6(7)).
fn inet6(address: [u8; 16], port: u16) -> Vec<u8> {
    [family(libc::AF_INET6), port.to_be_bytes().to_vec(), vec![0; 4], address.to_vec(), vec![0; 4]].concat()
}

/// `sockaddr_un` (unix(7)), as long as it can be.
fn unix(name: &[u8]) -> Vec<u8> {
    let mut bytes = [family(libc::AF_UNIX), name.to_vec()].concat();
    bytes.resize(110, 0);
    bytes
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attempt::Attack;
    use crate::attempts::attempts;

    fn bait() -> Bait {
        Bait {
            tcp: 4711,
            udp: 4712,
            abstract_name: "clawkeep-drill-0011223344556677".into(),
            file: "/state/.drill".into(),
            token: "t".repeat(32),
            host_process: (77, 88),
        }
    }

    #[test]
    fn addresses_are_those_of_the_manual_pages() {
        assert_eq!(hex(&inet([1, 2, 3, 4], 443)), "020001bb010203040000000000000000");
        assert_eq!(inet6([0; 16], 1).len(), 28);
        let name = format!("\0{}", bait().abstract_name);
        assert_eq!(2 + name.len() as i64, crate::canaries::ABSTRACT_LEN);
        assert_eq!(bait().token.len() as i64, crate::canaries::TOKEN_LEN);
    }

    #[test]
    fn every_attempt_can_be_written_as_arguments() {
        let (bait, traits) = (bait(), Traits { proxy: Some(3128), ..Traits::default() });
        let places = Places::default();
        let context = Context { bait: &bait, traits: &traits, places: &places };
        for attempt in attempts() {
            for way in attempt.ways {
                let Attack::Steps(steps) = &way.attack else { continue };
                let words = both(&attempt.control, steps, &context);
                // A NUL would end an argument (execve(2)); a second mark would split it elsewhere.
                assert!(words.iter().all(|word| !word.contains('\0')), "{}", attempt.id);
                assert_eq!(words.iter().filter(|word| *word == "attack").count(), 1, "{}", attempt.id);
            }
        }
    }
}
