//! Our own terminal: changed only for a while, and put right however we end.

use std::io::{self, IsTerminal};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::termios::{LocalModes, OptionalActions, Termios, Winsize, tcgetattr, tcgetwinsize, tcsetattr};

/// How it was before we changed it.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

fn before() -> MutexGuard<'static, Option<Termios>> {
    BEFORE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Put the terminal right. Also called from the thread that handles signals.
pub fn restore() {
    if let Some(termios) = before().take() {
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &termios);
    }
}

/// The terminal is changed for as long as this lives.
pub struct Changed(());

impl Drop for Changed {
    fn drop(&mut self) {
        restore();
    }
}

/// Every key as it is, for a terminal inside.
///
/// # Errors
/// What the system said.
pub fn raw() -> io::Result<Changed> {
    change(Termios::make_raw)
}

/// Keys that are not shown, for a secret.
///
/// # Errors
/// What the system said.
pub fn without_echo() -> io::Result<Changed> {
    change(|termios| termios.local_modes.remove(LocalModes::ECHO))
}

fn change(how: impl FnOnce(&mut Termios)) -> io::Result<Changed> {
    let mut termios = tcgetattr(io::stdin())?;
    // Held while it is done, so that a signal restores either before or after.
    let mut before = before();
    before.get_or_insert_with(|| termios.clone());
    how(&mut termios);
    tcsetattr(io::stdin(), OptionalActions::Now, &termios)?;
    Ok(Changed(()))
}

/// Whether a person types and reads here.
pub fn is_interactive() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal()
}

/// Its size, where it has one.
pub fn size() -> Option<Winsize> {
    tcgetwinsize(io::stdout()).ok().filter(|size| size.ws_row > 0 && size.ws_col > 0)
}
