//! SIGINT, SIGQUIT, SIGTERM and SIGHUP. Usually they end this process at once, with the terminal put right and the
//! status that shells use (130, 131, 143, 129). While something is half-made, they are only noted, everything that
//! waits is woken, and whoever made it takes it away again.

use std::io::Read;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use clawkeep_agents::Cancel;
use rustix::net::Shutdown;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};

use crate::{output, terminal};

/// The process's one handler of these signals.
#[derive(Clone)]
pub struct Interrupt(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// Something is half-made; raising this ends an installation.
    armed: Option<Cancel>,
    /// The signal that came while armed.
    raised: Option<u8>,
    /// The connection on which an answer is awaited.
    request: Option<OwnedFd>,
    /// Signals that came after the first.
    more: u32,
}

impl Interrupt {
    /// Take the signals over, but those that whoever started us wants ignored (nohup(1)).
    ///
    /// # Errors
    /// What the system said.
    pub fn install() -> std::io::Result<Self> {
        let interrupt = Self(Arc::default());
        let last = Arc::new(AtomicUsize::new(0));
        let (mut woken, write) = UnixStream::pair()?;
        let ignored = ignored_signals();
        for signal in [SIGINT, SIGQUIT, SIGTERM, SIGHUP] {
            if ignored & (1 << (signal - 1)) == 0 {
                // The number first: whoever is woken must find it.
                signal_hook::flag::register_usize(signal, Arc::clone(&last), signal.unsigned_abs() as usize)?;
                signal_hook::low_level::pipe::register(signal, write.try_clone()?)?;
            }
        }
        let handler = interrupt.clone();
        std::thread::Builder::new().name("signals".into()).spawn(move || {
            let mut byte = [0_u8];
            while woken.read_exact(&mut byte).is_ok() {
                handler.take(last.load(Ordering::SeqCst) as u8);
            }
        })?;
        Ok(interrupt)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, signal: u8) {
        let mut state = self.state();
        let Some(cancel) = state.armed.clone() else { leave(signal) };
        if state.raised.is_some() {
            state.more += 1;
            if state.more >= 3 {
                leave(signal);
            }
            output::error("\n  still cleaning up; the next onboard of this name would do it too\n");
            return;
        }
        state.raised = Some(signal);
        cancel.cancel();
        if let Some(request) = state.request.take() {
            let _ = rustix::net::shutdown(request, Shutdown::Both);
        }
    }

    /// From here on a signal is only noted, and this flag raised.
    pub fn arm(&self, cancel: Cancel) {
        self.state().armed = Some(cancel);
    }

    /// Whole again: signals end the process at once.
    pub fn disarm(&self) {
        let mut state = self.state();
        state.armed = None;
        if let Some(signal) = state.raised {
            drop(state);
            leave(signal);
        }
    }

    /// The status for the signal that came, if one did.
    pub fn raised(&self) -> Option<u8> {
        self.state().raised.map(|signal| 128 + signal)
    }

    /// This connection is shut down when a signal comes, until the guard goes.
    pub fn watch(&self, request: BorrowedFd<'_>) -> Watch<'_> {
        let mut state = self.state();
        state.request = if state.raised.is_none() { request.try_clone_to_owned().ok() } else { None };
        Watch(self)
    }
}

/// Ends the watch over a connection.
pub struct Watch<'a>(&'a Interrupt);

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        self.0.state().request = None;
    }
}

fn leave(signal: u8) -> ! {
    terminal::restore();
    std::process::exit(128 + i32::from(signal));
}

/// The mask of /proc/self/status (proc_pid_status(5)).
fn ignored_signals() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

/// A pipe that is readable when the window's size changes.
///
/// # Errors
/// What the system said.
pub fn window_changes() -> std::io::Result<UnixStream> {
    let (changed, write) = UnixStream::pair()?;
    changed.set_nonblocking(true)?;
    signal_hook::low_level::pipe::register(signal_hook::consts::SIGWINCH, write)?;
    Ok(changed)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn while_armed_a_signal_is_noted_and_ends_what_waits() {
        let interrupt = Interrupt(Arc::default());
        let cancel = Cancel::default();
        interrupt.arm(cancel.clone());
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let watch = interrupt.watch(ours.as_fd());
        interrupt.take(2);
        assert_eq!(theirs.read(&mut [0]).unwrap(), 0);
        assert!(cancel.is_cancelled());
        assert_eq!(interrupt.raised(), Some(130));
        drop(watch);
        // The requests of the cleaning up are let through, and a second signal does not stop them.
        let (ours, theirs) = UnixStream::pair().unwrap();
        let _watch = interrupt.watch(ours.as_fd());
        interrupt.take(15);
        theirs.set_nonblocking(true).unwrap();
        assert_eq!((&theirs).read(&mut [0]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
        assert_eq!(interrupt.raised(), Some(130));
    }
}
