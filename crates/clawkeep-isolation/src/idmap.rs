//! The map of an id-mapped mount: a user namespace that nobody lives in (mount_setattr(2), "ID-mapped mounts").

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use rustix::process::WaitOptions;

use crate::sys;

/// A namespace that maps an owner of files on the host, uid and gid, to another pair of ids of the host. Needs root
/// on the host, and one thread.
pub fn user_namespace(of: (u32, u32), to: (u32, u32)) -> io::Result<OwnedFd> {
    let (ready, tell_ready) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let (end, tell_end) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let Some(child) = sys::fork()? else {
        drop((ready, tell_end));
        let done = sys::unshare(rustix::thread::UnshareFlags::NEWUSER)
            .and_then(|()| Ok(rustix::io::write(&tell_ready, b"r")?));
        // Until the other side has the namespace in its hands.
        let _ = rustix::io::read(&end, &mut [0_u8; 1]);
        sys::exit_now(i32::from(done.is_err()));
    };
    drop((tell_ready, end));
    let took = match rustix::io::read(&ready, &mut [0_u8; 1]) {
        Ok(1) => take(child.as_raw_nonzero().get(), of, to),
        Ok(_) => Err(io::Error::other("no user namespace can be made")),
        Err(error) => Err(error.into()),
    };
    drop(tell_end);
    rustix::process::waitpid(Some(child), WaitOptions::empty())?;
    took
}

fn take(pid: i32, of: (u32, u32), to: (u32, u32)) -> io::Result<OwnedFd> {
    std::fs::write(format!("/proc/{pid}/uid_map"), format!("{} {} 1", of.0, to.0))?;
    std::fs::write(format!("/proc/{pid}/gid_map"), format!("{} {} 1", of.1, to.1))?;
    Ok(File::open(format!("/proc/{pid}/ns/user"))?.into())
}
