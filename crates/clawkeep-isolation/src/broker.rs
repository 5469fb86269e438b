//! What init does for an agent of the lower tier that the agent may not do itself, and refuses where it may not.

use std::io;
use std::os::fd::BorrowedFd;

use crate::files::Files;
use crate::sockets::{Answer, Sockets};
use crate::spec::SandboxSpec;
use crate::sys::{self, Question};

/// All that is asked of init by way of a system call; where there are namespaces, nothing is granted.
#[derive(Debug)]
pub struct Broker {
    sockets: Sockets,
    files: Option<Files>,
}

impl Broker {
    /// Who grants nothing.
    #[cfg(test)]
    pub fn none() -> Self {
        Self { sockets: Sockets::None, files: None }
    }

    /// As a sandbox of this specification needs it.
    pub fn of(spec: &SandboxSpec) -> io::Result<Self> {
        Ok(Self { sockets: Sockets::of(spec), files: Files::of(spec)? })
    }

    /// What a question of this listener is answered with.
    pub fn answer(&self, listener: BorrowedFd<'_>, question: &Question) -> Answer {
        match &self.files {
            Some(files) if files.knows(question.call) => {
                match files.carry_out(question, || sys::is_waiting(listener, question.id)) {
                    Ok(()) => Answer::Done,
                    Err(rustix::io::Errno::PERM) => Answer::Refused,
                    Err(errno) => Answer::Lacking(errno.raw_os_error()),
                }
            }
            _ => self.sockets.answer(question),
        }
    }
}
