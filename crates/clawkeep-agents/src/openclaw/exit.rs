use crate::Generation;
use crate::exit::{Ending, ExitCause, ExitReading, ExitVerdict};

/// What the end of an OpenClaw gateway means. `ordered`: we had sent it SIGTERM.
///
/// Measured on 2026.4.9 and 2026.9.6. The same number means different things in the two generations, and 0
/// without an order is no success in either: the old one says 0 when its port is taken or a twin has the lock.
pub fn exit_reading(generation: Generation, ending: Ending, ordered: bool) -> ExitReading {
    use ExitCause::{BadConfig, KilledBySignal, OwnWish, PortTaken, TornLock, TwinRunning, UnhandledError};
    let (verdict, causes): (_, &'static [ExitCause]) = match (generation, ending) {
        _ if ordered => (ExitVerdict::Ordered, &[]),
        (Generation::Old, Ending::Code(0)) => {
            (ExitVerdict::CleanUnordered, &[PortTaken, TwinRunning, TornLock, OwnWish])
        }
        (Generation::New, Ending::Code(0)) => (ExitVerdict::CleanUnordered, &[OwnWish]),
        (Generation::Old, Ending::Code(1)) => (ExitVerdict::Crash, &[UnhandledError, BadConfig]),
        (Generation::New, Ending::Code(1)) => (ExitVerdict::Crash, &[UnhandledError, PortTaken]),
        (_, Ending::Code(78)) => (ExitVerdict::DiagnoseFirst, &[BadConfig, TwinRunning, TornLock]),
        // With OPENCLAW_PROXY_URL the new one's proxy code answers SIGTERM and SIGINT itself, so.
        (_, Ending::Code(130 | 143)) => (ExitVerdict::Crash, &[KilledBySignal]),
        (_, Ending::Code(_)) => (ExitVerdict::Crash, &[UnhandledError]),
        (_, Ending::Signal(_)) => (ExitVerdict::Crash, &[KilledBySignal]),
    };
    ExitReading { verdict, causes }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_holds() {
        use ExitVerdict::{CleanUnordered, Crash, DiagnoseFirst, Ordered};
        use Generation::{New, Old};
        for (generation, ending, ordered, verdict) in [
            (Old, Ending::Code(0), true, Ordered),
            (New, Ending::Code(0), true, Ordered),
            (New, Ending::Signal(15), true, Ordered),
            (Old, Ending::Code(0), false, CleanUnordered),
            (New, Ending::Code(0), false, CleanUnordered),
            (Old, Ending::Code(1), false, Crash),
            (New, Ending::Code(1), false, Crash),
            (New, Ending::Code(78), false, DiagnoseFirst),
            (Old, Ending::Code(78), false, DiagnoseFirst),
            (New, Ending::Signal(9), false, Crash),
            (New, Ending::Code(143), true, Ordered),
            (New, Ending::Code(143), false, Crash),
            (New, Ending::Code(255), false, Crash),
        ] {
            let reading = exit_reading(generation, ending, ordered);
            assert_eq!(reading.verdict, verdict, "{generation:?} {ending:?} {ordered}");
            assert_eq!(reading.causes.is_empty(), ordered);
        }
        let old = exit_reading(Old, Ending::Code(0), false);
        assert!(old.causes.contains(&ExitCause::PortTaken) && old.causes.contains(&ExitCause::TornLock));
        assert!(exit_reading(New, Ending::Code(1), false).causes.contains(&ExitCause::PortTaken));
    }
}
