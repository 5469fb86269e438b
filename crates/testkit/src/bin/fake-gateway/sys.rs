//! The system calls that no safe wrapper gives here.
#![allow(unsafe_code)]

use std::fs::File;
use std::os::fd::{FromRawFd, RawFd};

/// Take over an inherited descriptor, `None` when it is not open or one of the standard three.
pub fn take_fd(fd: RawFd) -> Option<File> {
    if fd <= 2 || !std::path::Path::new(&format!("/proc/self/fd/{fd}")).exists() {
        return None;
    }
    // SAFETY: the descriptor is open, was inherited, and this is called once, before anything here opens a
    // file, so nothing else owns it.
    Some(unsafe { File::from_raw_fd(fd) })
}

/// Block SIGTERM in this thread and in all that it starts, so that [`wait_for_sigterm`] gets it.
pub fn block_sigterm() {
    // SAFETY: the set is initialised by sigemptyset before it is used, and both calls only touch it.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGTERM);
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
    }
}

/// Return when SIGTERM has come.
pub fn wait_for_sigterm() {
    // SAFETY: the set is initialised by sigemptyset before it is used; `signal` outlives the call.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGTERM);
        let mut signal = 0;
        libc::sigwait(&raw const set, &raw mut signal);
    }
}
