//! What every connection out of this host has in common: dialing known addresses, trusting the host's roots,
//! and dropping the headers of one hop. Where to go is decided elsewhere.
#![forbid(unsafe_code)]

mod dial;
mod hop;
mod roots;

pub use dial::{DialError, dial};
pub use hop::strip;
pub use roots::{client_config, host_roots, roots_of};
