use std::path::Path;

/// What the fake can be told to do. Written `NAME`, `NAME:ARG`, several with commas between; at a start,
/// `@ready` after one lets it wait for the end of the warm-up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    pub what: What,
    /// Whether it waits until the gateway is ready. Said at a start only.
    pub when_ready: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// `crash`: abort (SIGABRT). `crash:N`: exit N. Either way the lock stays behind.
    Crash(Option<u8>),
    /// `exit-N`: a clean end with this code, the lock removed.
    Exit(u8),
    /// `hang`: keep listening, accept nothing any more.
    Hang,
    /// `mute`: accept, and never answer.
    Mute,
    /// `deaf`: close the listener and live on.
    Deaf,
    /// `spin`: hang, and burn one core.
    Spin,
    /// `slow:MS`: answer this much later.
    Slow(u32),
    /// `ws-mute`: take WebSockets, and say no hello.
    WsMute,
    /// `ws-refuse`: take none.
    WsRefuse,
    /// `fork`: leave a process of its own session behind that holds the port; live on.
    Fork,
    /// `ignore-sigterm`.
    IgnoreSigterm,
    /// `leave-lock`: a later clean end leaves the lock behind.
    LeaveLock,
    /// `flood:N`: N MiB to stdout.
    Flood(u64),
    /// `eat-memory:N`: take N MiB and touch them.
    EatMemory(usize),
}

pub fn parse(text: &str) -> Result<Vec<Order>, String> {
    text.split(',').map(str::trim).filter(|one| !one.is_empty() && *one != "none").map(parse_one).collect()
}

fn parse_one(text: &str) -> Result<Order, String> {
    let (text, when_ready) = text.strip_suffix("@ready").map_or((text, false), |text| (text, true));
    let (name, arg) = text.split_once(':').map_or((text, None), |(name, arg)| (name, Some(arg)));
    let number = arg.map(|arg| arg.parse::<u32>().map_err(|_| format!("{text:?}: not a number")));
    let number = number.transpose()?;
    let byte = |number: u32| u8::try_from(number).map_err(|_| format!("{text:?}: no exit code"));
    let what = match (name, number) {
        ("crash", code) => What::Crash(code.map(byte).transpose()?),
        ("hang", None) => What::Hang,
        ("mute", None) => What::Mute,
        ("deaf", None) => What::Deaf,
        ("spin", None) => What::Spin,
        ("slow", Some(ms)) => What::Slow(ms),
        ("ws-mute", None) => What::WsMute,
        ("ws-refuse", None) => What::WsRefuse,
        ("fork", None) => What::Fork,
        ("ignore-sigterm", None) => What::IgnoreSigterm,
        ("leave-lock", None) => What::LeaveLock,
        ("flood", Some(mib)) => What::Flood(mib.into()),
        ("eat-memory", Some(mib)) => What::EatMemory(mib as usize),
        (name, None) if name.starts_with("exit-") => {
            let code = name["exit-".len()..].parse().map_err(|_| format!("{text:?}: no exit code"))?;
            What::Exit(code)
        }
        _ => return Err(format!("{text:?} is no order")),
    };
    Ok(Order { what, when_ready })
}

/// Take the first line off the file of orders. A file that is missing, empty or wrong gives none.
pub fn take_from_file(path: &Path) -> Vec<Order> {
    let Ok(text) = std::fs::read_to_string(path) else { return Vec::new() };
    let Some(first) = text.lines().next() else { return Vec::new() };
    let rest: String = text.lines().skip(1).map(|line| format!("{line}\n")).collect();
    let next = path.with_extension("next");
    let taken = std::fs::write(&next, rest).and_then(|()| std::fs::rename(&next, path));
    match (taken, parse(first)) {
        (Ok(()), Ok(orders)) => orders,
        (Err(error), _) => {
            eprintln!("fake-gateway: cannot take an order off {}: {error}", path.display());
            Vec::new()
        }
        (_, Err(wrong)) => {
            eprintln!("fake-gateway: {wrong}");
            Vec::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_orders_and_names_what_is_none() {
        assert_eq!(
            parse("fork, crash:3@ready,exit-78").unwrap(),
            [
                Order { what: What::Fork, when_ready: false },
                Order { what: What::Crash(Some(3)), when_ready: true },
                Order { what: What::Exit(78), when_ready: false },
            ]
        );
        assert_eq!(parse("none").unwrap(), []);
        for wrong in ["dance", "hang:3", "flood", "slow", "crash:999", "crash:x", "exit-", "exit-999"] {
            assert!(parse(wrong).unwrap_err().contains(wrong), "{wrong}");
        }
    }

    #[test]
    fn one_line_a_start() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("fake-orders");
        assert_eq!(take_from_file(&file), []);
        std::fs::write(&file, "hang\nnone\ndeaf").unwrap();
        let mut seen = Vec::new();
        for _ in 0..4 {
            seen.push(take_from_file(&file).into_iter().map(|order| order.what).collect::<Vec<_>>());
        }
        assert_eq!(seen, [vec![What::Hang], vec![], vec![What::Deaf], vec![]]);
    }
}
