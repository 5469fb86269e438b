//! Lines for the daemon's log, which is its standard error.

use std::fmt::Display;
use std::io::Write;

use crate::redaction::redaction;

/// Write a line, without secrets. The log may lie on a full disk: `eprintln` would panic then, and end what it was to tell about.
pub fn say(text: impl Display) {
    let text = text.to_string();
    let _ = writeln!(std::io::stderr(), "{}", redaction().text(&text));
}
