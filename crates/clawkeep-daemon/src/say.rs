//! Lines for the daemon's log, which is its standard error.

use std::fmt::Display;
use std::io::Write;

/// Write a line. The log may lie on a full disk: `eprintln` would panic then, and end what it was to tell about.
pub fn say(text: impl Display) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
