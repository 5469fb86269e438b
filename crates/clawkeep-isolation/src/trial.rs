//! Whether this host lets a process make what a sandbox is made of: each piece alone, in a child that ends with it.
//! It explains why a sandbox could not be made; that one can be made, only making one proves.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use rustix::mount::MountAttrFlags;
use rustix::process::WaitOptions;
use rustix::thread::UnshareFlags;
use serde::{Deserialize, Serialize};

use crate::spec::IdMap;
use crate::stage::{map_ids, wait_byte};
use crate::{rootfs, sys};

/// The argument under which the program must call [`sandbox_trial_main`] before anything else.
pub const TRIAL_COMMAND: &str = "sandbox-trial";

/// A piece of a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Piece {
    /// A user namespace; all that follows is made in one.
    User,
    /// The map of its ids.
    Ids,
    /// A mount namespace.
    Mnt,
    /// A process-id namespace.
    Pid,
    /// A network namespace.
    Net,
    /// An IPC namespace.
    Ipc,
    /// A namespace for the host name.
    Uts,
    /// A control group namespace.
    Cgroup,
    /// A new tmpfs.
    Tmpfs,
    /// A new proc file system, of a process-id namespace of its own.
    Proc,
}

impl Piece {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::User,
        Self::Ids,
        Self::Mnt,
        Self::Pid,
        Self::Net,
        Self::Ipc,
        Self::Uts,
        Self::Cgroup,
        Self::Tmpfs,
        Self::Proc,
    ];
}

/// The error number of each piece (errno(3)), 0 for one that was made. What is not there was not tried.
pub type Trials = BTreeMap<Piece, i32>;

/// Try all pieces. `program` is this program's own file; `slot` is that of the ids to map
/// ([`IdMap::for_current_user`]).
///
/// # Errors
/// When the program cannot be started or says something else.
pub fn trials(program: &Path, slot: u32) -> io::Result<Trials> {
    let mut child = Command::new(program);
    child.arg0("clawkeep").arg(TRIAL_COMMAND).arg(slot.to_string()).env_clear().current_dir("/");
    let output = child.stdin(Stdio::null()).stderr(Stdio::null()).output()?;
    serde_json::from_slice(&output.stdout).map_err(io::Error::other)
}

/// The entry of the process that tries: the slot is its one argument, the trials go to standard output.
pub fn sandbox_trial_main() -> ExitCode {
    let slot = std::env::args().nth(2).and_then(|slot| slot.parse().ok());
    let tried = slot.map_or_else(|| Err(io::Error::from_raw_os_error(libc::EINVAL)), try_all);
    match tried.and_then(|trials| Ok(serde_json::to_writer(io::stdout(), &trials)?)) {
        Ok(()) if io::stdout().flush().is_ok() => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

fn try_all(slot: u32) -> io::Result<Trials> {
    sys::assert_single_threaded()?;
    let ids = IdMap::for_current_user(slot);
    Piece::ALL.into_iter().map(|piece| Ok((piece, try_one(piece, ids)?))).collect()
}

/// Make it in a child, which ends with the error number as its status.
fn try_one(piece: Piece, ids: IdMap) -> io::Result<i32> {
    let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC);
    let ((unshared, tell_unshared), (mapped, tell_mapped)) = (pipe()?, pipe()?);
    let Some(child) = sys::fork()? else {
        drop((unshared, tell_mapped));
        let made = make(piece).and_then(|()| {
            if piece == Piece::Ids {
                rustix::io::write(&tell_unshared, b"u")?;
                wait_byte(&mapped);
            }
            Ok(())
        });
        sys::exit_now(number(made))
    };
    drop((tell_unshared, mapped));
    let outcome = match piece {
        Piece::Ids if wait_byte(&unshared) => map_ids(ids, child).map_err(|failure| failure.error),
        _ => Ok(()),
    };
    drop(tell_mapped);
    let status = rustix::process::waitpid(Some(child), WaitOptions::empty())?;
    let made = status.and_then(|(_, status)| status.exit_status()).unwrap_or(libc::EIO);
    Ok(if made == 0 { number(outcome) } else { made })
}

fn make(piece: Piece) -> io::Result<()> {
    sys::unshare(UnshareFlags::NEWUSER)?;
    let closed = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let mount = |kind| rootfs::new_mount(kind, &[], closed).map(drop).map_err(|failure| failure.error);
    match piece {
        Piece::User | Piece::Ids => Ok(()),
        Piece::Mnt => sys::unshare(UnshareFlags::NEWNS),
        Piece::Pid => sys::unshare(UnshareFlags::NEWPID),
        Piece::Net => sys::unshare(UnshareFlags::NEWNET),
        Piece::Ipc => sys::unshare(UnshareFlags::NEWIPC),
        Piece::Uts => sys::unshare(UnshareFlags::NEWUTS),
        Piece::Cgroup => sys::unshare(UnshareFlags::NEWCGROUP),
        Piece::Tmpfs => {
            sys::unshare(UnshareFlags::NEWNS)?;
            mount("tmpfs")
        }
        Piece::Proc => {
            sys::unshare(UnshareFlags::NEWNS | UnshareFlags::NEWPID)?;
            // The new process-id namespace begins with the next process.
            let Some(first) = sys::fork()? else { sys::exit_now(number(mount("proc"))) };
            let status = rustix::process::waitpid(Some(first), WaitOptions::empty())?;
            match status.and_then(|(_, status)| status.exit_status()) {
                Some(0) => Ok(()),
                status => Err(io::Error::from_raw_os_error(status.unwrap_or(libc::EIO))),
            }
        }
    }
}

/// As an exit status; every error number of Linux is one (errno(3)).
fn number(result: io::Result<()>) -> i32 {
    result.err().map_or(0, |error| error.raw_os_error().unwrap_or(libc::EIO))
}
