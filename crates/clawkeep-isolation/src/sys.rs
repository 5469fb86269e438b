//! The system calls that no safe library wraps. Each function here is safe to call from a process with one
//! thread, which every process of this crate is ([`assert_single_threaded`]).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::process::Pid;
use seccompiler::sock_filter;

/// End the process at once if it has more than one thread: after fork(2) the child of such a process may only
/// make async-signal-safe calls, and ours do more.
pub fn assert_single_threaded() -> io::Result<()> {
    let threads = std::fs::read_dir("/proc/self/task")?.count();
    if threads == 1 { Ok(()) } else { Err(io::Error::other("the setup process has more than one thread")) }
}

/// fork(2): `None` in the child. Must be called with one thread only.
pub fn fork() -> io::Result<Option<Pid>> {
    // SAFETY: the process has one thread, so no lock can be held by a thread that does not exist in the
    // child, and the child may run any code.
    let pid = unsafe { libc::fork() };
    if pid < 0 { Err(io::Error::last_os_error()) } else { Ok(Pid::from_raw(pid)) }
}

/// The same, with the child in new namespaces (clone(2)): the first process of a new process-id namespace, say. Not by
/// the C library's fork, which cannot do that: what of it asks for the thread's number of the child gets the
/// parent's, until the child forks or executes a program; nothing here asks.
pub fn fork_into(namespaces: rustix::thread::UnshareFlags) -> io::Result<Option<Pid>> {
    let flags = libc::c_ulong::from(namespaces.bits()) | libc::SIGCHLD as libc::c_ulong;
    // SAFETY: one thread, as above. No memory is shared (CLONE_VM) and a null stack is the caller's own, so the child
    // returns from here on its own copy of everything; the other arguments, which go by flags that are not set, are
    // null on every architecture, whatever their order.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0_usize, 0_usize, 0_usize, 0_usize) };
    if pid < 0 { Err(io::Error::last_os_error()) } else { Ok(Pid::from_raw(pid as libc::pid_t)) }
}

/// _exit(2): end this process without running destructors or atexit handlers of its parent's image.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: `_exit` has no preconditions and does not return.
    unsafe { libc::_exit(code) }
}

/// Block all signals and give a non-blocking signalfd(2) that becomes readable on SIGCHLD.
pub fn sigchld_fd() -> io::Result<OwnedFd> {
    // SAFETY: `mask` is a local that `sigfillset`/`sigemptyset` initialise before it is read; the returned
    // descriptor is new and ours alone.
    unsafe {
        let mut mask = std::mem::zeroed::<libc::sigset_t>();
        libc::sigfillset(&raw mut mask);
        if libc::sigprocmask(libc::SIG_SETMASK, &raw const mask, std::ptr::null_mut()) < 0 {
            return Err(io::Error::last_os_error());
        }
        libc::sigemptyset(&raw mut mask);
        libc::sigaddset(&raw mut mask, libc::SIGCHLD);
        let fd = libc::signalfd(-1, &raw const mask, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd)) }
    }
}

/// Give every signal its default action and unblock all, as a program expects at its start.
pub fn reset_signals() {
    // SAFETY: setting default actions and an empty mask touches no memory of ours; signals that cannot be
    // changed (SIGKILL, SIGSTOP) are refused by the kernel, which is fine.
    unsafe {
        for signal in 1..=libc::SIGRTMAX() {
            libc::signal(signal, libc::SIG_DFL);
        }
        let mut mask = std::mem::zeroed::<libc::sigset_t>();
        libc::sigemptyset(&raw mut mask);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const mask, std::ptr::null_mut());
    }
}

/// Make `fd` also be `number`, inheritable. What `number` was before is closed.
pub fn place_fd(fd: BorrowedFd<'_>, number: i32) -> io::Result<()> {
    if fd.as_raw_fd() == number {
        return rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty()).map_err(Into::into);
    }
    // SAFETY: both are plain numbers to the kernel. The caller owns the meaning of `number`: this is called
    // in a child right before exec only, where no owner of the old `number` is used again.
    let result = unsafe { libc::dup2(fd.as_raw_fd(), number) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Close every descriptor from `first` on but `keep` (close_range(2)).
pub fn close_all_but(first: i32, keep: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut kept: Vec<i32> = keep.iter().map(AsRawFd::as_raw_fd).filter(|fd| *fd >= first).collect();
    kept.sort_unstable();
    let mut from = first;
    for fd in kept.into_iter().chain([i32::MAX]) {
        if from < fd {
            // SAFETY: plain numbers. Descriptors that some value still owns are closed here; the callers
            // are single-purpose processes that list every descriptor they use again in `keep`.
            let result = unsafe {
                libc::syscall(libc::SYS_close_range, from as libc::c_uint, (fd - 1) as libc::c_uint, 0)
            };
            if result < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        from = fd.saturating_add(1);
    }
    Ok(())
}

/// mount_setattr(2) on a mount given by descriptor, with everything below it; also makes it private.
pub fn set_mount_attributes(mount: BorrowedFd<'_>, set: u64, recursive: bool) -> io::Result<()> {
    let attributes =
        libc::mount_attr { attr_set: set, attr_clr: 0, propagation: libc::MS_PRIVATE, userns_fd: 0 };
    mount_setattr(mount, &attributes, recursive)
}

/// Map the ids of a mount that is nowhere yet as this user namespace does.
pub fn map_mount(mount: BorrowedFd<'_>, namespace: BorrowedFd<'_>) -> io::Result<()> {
    let userns_fd = u64::from(namespace.as_raw_fd().unsigned_abs());
    let attributes =
        libc::mount_attr { attr_set: libc::MOUNT_ATTR_IDMAP, attr_clr: 0, propagation: 0, userns_fd };
    mount_setattr(mount, &attributes, false)
}

fn mount_setattr(mount: BorrowedFd<'_>, attributes: &libc::mount_attr, recursive: bool) -> io::Result<()> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a literal with a NUL, `attributes` lives over the call and its true size is given.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(attributes),
            size_of::<libc::mount_attr>(),
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Bring up the loopback device of this network namespace (netdevice(7), SIOCSIFFLAGS).
pub fn loopback_up() -> io::Result<()> {
    let socket = rustix::net::socket_with(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )?;
    // SAFETY: `request` is zeroed, which is a valid `ifreq`; the name "lo" fits and stays NUL-terminated;
    // the flags member of the union is the one that SIOCSIFFLAGS reads.
    let result = unsafe {
        let mut request = std::mem::zeroed::<libc::ifreq>();
        request.ifr_name[0] = b'l' as libc::c_char;
        request.ifr_name[1] = b'o' as libc::c_char;
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        libc::ioctl(socket.as_fd().as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The highest Landlock ABI of the running kernel (landlock_create_ruleset(2)).
///
/// # Errors
/// ENOSYS: the kernel has none; EOPNOTSUPP: it was switched off at boot.
pub fn landlock() -> io::Result<u32> {
    const CREATE_RULESET_VERSION: libc::c_uint = 1;
    // SAFETY: with this flag the kernel takes no attributes: a null pointer and size 0 are what it wants.
    let version = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<u8>(),
            0_usize,
            CREATE_RULESET_VERSION,
        )
    };
    u32::try_from(version).map_err(|_| io::Error::last_os_error())
}

/// The same, 0 where there is none.
pub fn landlock_abi() -> u32 {
    landlock().unwrap_or(0)
}

/// At most this much of a resource, for this process and what it becomes (setrlimit(2)). A lower limit that is
/// there already stays.
pub fn limit(resource: rustix::process::Resource, most: u64) -> io::Result<()> {
    let now = rustix::process::getrlimit(resource);
    let most = now.maximum.map_or(most, |hard| hard.min(most));
    let limit = rustix::process::Rlimit { current: Some(most), maximum: Some(most) };
    rustix::process::setrlimit(resource, limit).map_err(Into::into)
}

/// As many open descriptors at once as programs expect to be given at first (getrlimit(2)): whoever wants more
/// raises the limit by itself, and only such a program can know that it calls no select(2). The hard limit stays.
pub fn usual_descriptors() -> io::Result<()> {
    const USUAL: u64 = 1024;
    let now = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let current = Some(now.maximum.map_or(USUAL, |hard| hard.min(USUAL)));
    rustix::process::setrlimit(rustix::process::Resource::Nofile, rustix::process::Rlimit { current, ..now })
        .map_err(Into::into)
}

/// Core dumps off for this process and what it becomes (setrlimit(2)). With a limit of 0 the kernel would still hand
/// a dump to a crash handler of the host where core_pattern names one; with 1 it makes none at all (core(5)).
pub fn forbid_core_dumps() -> io::Result<()> {
    limit(rustix::process::Resource::Core, 1)
}

/// A new session keyring for this process and what it starts, in the place of its caller's: empty, and with no
/// permission for anybody (keyctl(2), KEYCTL_JOIN_SESSION_KEYRING and KEYCTL_SETPERM). A kernel without keyrings has
/// nothing to leave.
pub fn leave_session_keyring() -> io::Result<()> {
    const JOIN_SESSION_KEYRING: libc::c_int = 1;
    const SETPERM: libc::c_int = 5;
    // SAFETY: a null name asks for an anonymous keyring; the kernel reads no memory of ours.
    let keyring =
        unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, std::ptr::null::<libc::c_char>()) };
    if keyring < 0 {
        let error = io::Error::last_os_error();
        return if error.raw_os_error() == Some(libc::ENOSYS) { Ok(()) } else { Err(error) };
    }
    // SAFETY: numbers only.
    let closed = unsafe { libc::syscall(libc::SYS_keyctl, SETPERM, keyring, 0) };
    if closed < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The descriptors with a number below `slots` that are open, and whether exec closes each (fcntl(2), F_GETFD).
pub fn open_descriptors(slots: u32) -> Vec<(i32, bool)> {
    let flags = |number: i32| {
        // SAFETY: a plain number to the kernel, which says EBADF of one that is no descriptor.
        let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
        (flags >= 0).then_some((number, flags & libc::FD_CLOEXEC != 0))
    };
    (0..i32::try_from(slots).unwrap_or(i32::MAX)).filter_map(flags).collect()
}

/// Put this thread under a seccomp program, for ever (seccomp(2)).
pub fn install_filter(program: &[sock_filter]) -> io::Result<()> {
    set_filter(program, 0).map(drop)
}

/// The same, and give the listener that the program's questions are put to; closed at exec. From Linux 5.19 on a
/// caller that waits for its answer is not disturbed by signals that do not kill it.
pub fn install_listened_filter(program: &[sock_filter]) -> io::Result<OwnedFd> {
    let listener = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
    let number = match set_filter(program, listener | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => set_filter(program, listener)?,
        number => number?,
    };
    // SAFETY: with this flag the kernel gives a new descriptor, which is ours alone.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

fn set_filter(program: &[sock_filter], flags: libc::c_ulong) -> io::Result<i32> {
    let length = u16::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let program = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut().cast() };
    // SAFETY: `program` names as many instructions as it says, of the kernel's layout (`repr(C)`); the kernel copies
    // them and writes nothing.
    let result =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}

/// fchmodat2(2), which has one number everywhere (the kernel's `scripts/syscall.tbl`).
pub const FCHMODAT2: i64 = 452;

/// A system call that a seccomp listener was asked about.
#[derive(Debug, Clone, Copy)]
pub struct Question {
    /// By which it is answered.
    pub id: u64,
    /// The call's number.
    pub call: i64,
    /// The id of the thread that made it.
    pub caller: u32,
    /// Its arguments, as they were in the registers.
    pub arguments: [u64; 6],
}

/// Take one question from a seccomp listener that has some; `None` where the caller has gone before.
pub fn next_question(listener: BorrowedFd<'_>) -> Option<Question> {
    // A later kernel's question may be longer; all of it must be zero before (seccomp_unotify(2)).
    #[repr(C)]
    struct Asked {
        known: libc::seccomp_notif,
        more: [u64; 64],
    }
    let data = libc::seccomp_data { nr: 0, arch: 0, instruction_pointer: 0, args: [0; 6] };
    let mut asked = Asked { known: libc::seccomp_notif { id: 0, pid: 0, flags: 0, data }, more: [0; 64] };
    // SAFETY: the kernel writes one question there, for which there is more than enough room.
    let taken = unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut asked) };
    let libc::seccomp_notif { id, pid, data, .. } = asked.known;
    (taken >= 0).then_some(Question { id, call: data.nr.into(), caller: pid, arguments: data.args })
}

/// Whether the caller of a question still waits for its answer: what was found in its /proc before was its own then.
pub fn is_waiting(listener: BorrowedFd<'_>, id: u64) -> bool {
    // SAFETY: the kernel reads one number from there.
    unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_ID_VALID, &raw const id) == 0 }
}

/// Answer with an error number, or with 0 that it was done. A caller that has gone needs no answer.
pub fn answer_with_error(listener: BorrowedFd<'_>, id: u64, errno: i32) {
    let answer = libc::seccomp_notif_resp { id, val: 0, error: -errno, flags: 0 };
    // SAFETY: the kernel reads one answer from there.
    unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND, &raw const answer) };
}

/// Answer with a copy of a descriptor, whose number in the caller is what the call returns: in one step, so that no
/// copy is left behind where the caller goes in between (SECCOMP_ADDFD_FLAG_SEND).
pub fn answer_with_descriptor(
    listener: BorrowedFd<'_>,
    id: u64,
    given: BorrowedFd<'_>,
    closes_at_exec: bool,
) -> io::Result<()> {
    let answer = libc::seccomp_notif_addfd {
        id,
        flags: libc::SECCOMP_ADDFD_FLAG_SEND as u32,
        srcfd: given.as_raw_fd().cast_unsigned(),
        newfd: 0,
        newfd_flags: if closes_at_exec { libc::O_CLOEXEC.cast_unsigned() } else { 0 },
    };
    // SAFETY: the kernel reads one such answer from there; `given` is open over the call.
    let number =
        unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_ADDFD, &raw const answer) };
    if number < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Keep a socket on the loopback device, for ever: whoever has no CAP_NET_RAW cannot take it off again (socket(7),
/// SO_BINDTODEVICE).
pub fn keep_on_loopback(socket: BorrowedFd<'_>) -> io::Result<()> {
    // The first device of every network namespace (the kernel's LOOPBACK_IFINDEX).
    const LOOPBACK: libc::c_int = 1;
    const SO_BINDTOIFINDEX: libc::c_int = 62;
    // SAFETY: the value is one int, whose true size is given; the kernel copies it.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_BINDTOIFINDEX,
            std::ptr::from_ref(&LOOPBACK).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// unshare(2).
pub fn unshare(flags: rustix::thread::UnshareFlags) -> io::Result<()> {
    // SAFETY: descriptors are not unshared (no UnshareFlags::FILES among our flags), and the process has one
    // thread, so nobody relies on what is shared no more.
    unsafe { rustix::thread::unshare_unsafe(flags) }.map_err(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_left_session_keyring_is_another_one() {
        const GET_KEYRING_ID: libc::c_int = 0;
        const SESSION_KEYRING: libc::c_int = -3;
        // SAFETY: numbers in, a number out.
        let session = || unsafe { libc::syscall(libc::SYS_keyctl, GET_KEYRING_ID, SESSION_KEYRING, 1) };
        // Where there are no keyrings there is an error before as well.
        let before = session();
        leave_session_keyring().unwrap();
        let refused = (session(), io::Error::last_os_error().raw_os_error()) == (-1, Some(libc::EACCES));
        assert!(before < 0 || refused, "it can be found, where nobody may");
    }

    #[test]
    fn every_open_descriptor_is_seen_with_what_exec_does_to_it() {
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let high = rustix::io::fcntl_dupfd_cloexec(&read, 300).unwrap();
        rustix::io::fcntl_setfd(&write, rustix::io::FdFlags::empty()).unwrap();
        let status = crate::readback::text("status").unwrap();
        let open = crate::readback::open_descriptors(&crate::procself::Status(&status)).unwrap();
        for (fd, closes) in [(&read, true), (&write, false), (&high, true)] {
            assert!(open.contains(&(fd.as_raw_fd(), closes)), "{fd:?} in {open:?}");
        }
    }
}
