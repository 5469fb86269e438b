//! Who is asking: from a connection's two addresses to the program that owns its socket.

mod diagnostics;
mod owner;

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};

use crate::callers::Callers;
use diagnostics::Diagnostics;
use owner::Owners;

/// Tells callers by the kernel's own tables: the socket by its exact addresses (sock_diag(7)), its owner among the
/// processes of the sandbox (proc_pid_fd(5)).
///
/// What it answers was true of one moment between the question and the answer. A process can hand its socket to
/// another or become another program afterwards, and an interpreter is itself, whatever script it runs.
pub struct SockDiag(Mutex<Inner>);

struct Inner {
    diagnostics: Diagnostics,
    owners: Owners,
}

impl SockDiag {
    /// By a `NETLINK_SOCK_DIAG` socket that was made in the sandbox's network namespace and that nobody else reads,
    /// and the `/proc` of its process-id namespace.
    ///
    /// # Errors
    /// What the system said.
    pub fn new(diagnostics: OwnedFd, proc: &OwnedFd) -> io::Result<Self> {
        let (diagnostics, owners) = (Diagnostics::new(diagnostics)?, Owners::new(proc)?);
        Ok(Self(Mutex::new(Inner { diagnostics, owners })))
    }
}

impl Callers for SockDiag {
    fn executable(&self, client: SocketAddr, server: SocketAddr) -> Option<String> {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Never from memory: numbers of sockets come again, and owners become other programs.
        let inode = inner.diagnostics.find(client, server).ok()??;
        inner.owners.executable(inode)
    }
}
