//! The few calls of the C library that the standard library does not offer.

use std::ffi::{c_char, c_int, c_long, c_uint};
use std::io::{Error, Result};
use std::sync::atomic::AtomicI32;

/// Where this process hands its answer over.
pub static OUTPUT: AtomicI32 = AtomicI32::new(-1);

unsafe extern "C" {
    #[link_name = "syscall"]
    fn c_syscall(number: c_long, ...) -> c_long;
    #[link_name = "fork"]
    fn c_fork() -> c_int;
    #[link_name = "waitpid"]
    fn c_waitpid(pid: c_int, status: *mut c_int, options: c_int) -> c_int;
    #[link_name = "_exit"]
    fn c_exit(status: c_int) -> !;
    #[link_name = "pipe"]
    fn c_pipe(fds: *mut c_int) -> c_int;
    #[link_name = "close"]
    fn c_close(fd: c_int) -> c_int;
    #[link_name = "write"]
    fn c_write(fd: c_int, bytes: *const u8, count: usize) -> isize;
    #[link_name = "alarm"]
    fn c_alarm(seconds: c_uint) -> c_uint;
    #[link_name = "kill"]
    fn c_kill(pid: c_int, signal: c_int) -> c_int;
    #[link_name = "memfd_create"]
    fn c_memfd_create(name: *const c_char, flags: c_uint) -> c_int;
}

fn checked(result: c_long) -> Result<i64> {
    if result < 0 { Err(Error::last_os_error()) } else { Ok(result) }
}

/// Any system call.
///
/// # Safety
/// Pointers among the arguments must be valid for what the call reads and writes.
pub unsafe fn syscall(number: i64, arguments: [i64; 6]) -> Result<i64> {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: as promised by the caller.
    checked(unsafe { c_syscall(number, a, b, c, d, e, f) })
}

/// 0 in the child.
pub fn fork() -> Result<i32> {
    // SAFETY: this program has one thread.
    checked(c_long::from(unsafe { c_fork() })).map(|pid| pid as i32)
}

/// The status as wait(2) gives it; that of a stopped child too where `stopped` (waitpid(2), WUNTRACED).
pub fn wait_for(pid: i32, stopped: bool) -> i32 {
    let mut status = 0;
    // SAFETY: `status` is a local that lives over the call.
    while unsafe { c_waitpid(pid, &raw mut status, if stopped { 2 } else { 0 }) } < 0 {
        if Error::last_os_error().kind() != std::io::ErrorKind::Interrupted {
            return 0;
        }
    }
    status
}

/// The status of a child that has ended.
pub fn wait(pid: i32) -> i32 {
    wait_for(pid, false)
}

/// End at once.
pub fn exit(status: i32) -> ! {
    // SAFETY: has no preconditions.
    unsafe { c_exit(status) }
}

/// Reading and writing end; both survive an exec.
pub fn pipe() -> Result<(i32, i32)> {
    let mut fds = [0; 2];
    // SAFETY: room for two numbers.
    checked(c_long::from(unsafe { c_pipe(fds.as_mut_ptr()) })).map(|_| (fds[0], fds[1]))
}

/// close(2).
pub fn close(fd: i32) {
    // SAFETY: a number; the caller owned it.
    unsafe { c_close(fd) };
}

/// Write; whoever cannot hear it does not.
pub fn write(fd: i32, bytes: &[u8]) {
    // SAFETY: the slice is valid for its length.
    unsafe { c_write(fd, bytes.as_ptr(), bytes.len()) };
}

/// alarm(2).
pub fn alarm(seconds: u32) {
    // SAFETY: has no preconditions.
    unsafe { c_alarm(seconds) };
}

/// kill(2).
pub fn kill(pid: i32, signal: i32) -> Result<()> {
    // SAFETY: has no preconditions.
    checked(c_long::from(unsafe { c_kill(pid, signal) })).map(drop)
}

/// A file in memory that survives no exec (memfd_create(2), MFD_CLOEXEC).
pub fn memfd() -> Result<i32> {
    // SAFETY: the name is a literal with a NUL.
    checked(c_long::from(unsafe { c_memfd_create(c"drill".as_ptr(), 1) })).map(|fd| fd as i32)
}

/// `SIGSYS` for 31 (signal(7)); the numbers are those of x86 and ARM.
pub fn signal_name(signal: i32) -> &'static str {
    match signal {
        2 => "SIGINT",
        4 => "SIGILL",
        6 => "SIGABRT",
        7 => "SIGBUS",
        9 => "SIGKILL",
        11 => "SIGSEGV",
        14 => "SIGALRM",
        15 => "SIGTERM",
        25 => "SIGXFSZ",
        31 => "SIGSYS",
        _ => "signal",
    }
}
