//! Modes, times and owners of files in the lower tier, where the host's user is the agent's. Landlock leaves them to the owner
//! of a file wherever it lies, so the seccomp program puts these calls to init, which does for the caller what is
//! about a file in the sandbox's own directories and nothing else. The file is taken hold of once; what is looked at
//! and what is changed is that hold.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use clawkeep_plan::Tier;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, Timespec, Timestamps};
use rustix::io::Errno;

use crate::spec::{IdMap, MountAccess, SandboxSpec};
use crate::sys::{self, Question};

/// The longest path, with its NUL (limits.h, PATH_MAX).
const MAX_PATH: usize = 4096;

/// Memory is read page by page: the next one need not be there.
const PAGE: u64 = 4096;

/// Calls for a file's mode and times.
const MODES_AND_TIMES: &[i64] = &[
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    sys::FCHMODAT2,
    libc::SYS_utimensat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chmod,
];

/// The bits of a mode that nobody sets here, as elsewhere by the seccomp program (`arguments::SET_IDS`).
const SET_IDS: u64 = (libc::S_ISUID | libc::S_ISGID) as u64;

/// Calls for its owner.
const OWNERS: &[i64] = &[
    libc::SYS_fchown,
    libc::SYS_fchownat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chown,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_lchown,
];

/// Calls for its extended attributes.
const ATTRIBUTES: &[i64] = &[
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_fsetxattr,
    libc::SYS_removexattr,
    libc::SYS_lremovexattr,
    libc::SYS_fremovexattr,
];

/// The sandbox's own directories.
#[derive(Debug)]
pub struct Files(Vec<OwnedFd>);

/// Which file a call is about.
enum Named {
    /// One that is open in the caller, by its number.
    Open(u64),
    /// By directory, address of the path, and whether a link at its end is itself what is meant.
    At { directory: u64, path: u64, link: bool },
}

/// What a call wants of it.
enum Change {
    Mode(Mode),
    Times(Timestamps),
}

impl Files {
    /// As a sandbox of this specification needs it; `None` where the agent owns nothing but what is its own.
    pub fn of(spec: &SandboxSpec) -> io::Result<Option<Self>> {
        if spec.tier == Tier::Namespaces || matches!(spec.ids, IdMap::Range { .. }) {
            return Ok(None);
        }
        let writable = spec.mounts.iter().filter(|mount| mount.access == MountAccess::ReadWrite);
        writable
            .map(|mount| hold(CWD, &mount.source, true))
            .collect::<Result<_, _>>()
            .map(Self)
            .map(Some)
            .map_err(Into::into)
    }

    /// Whether this call is about what is a file's besides its content.
    pub fn knows(&self, call: i64) -> bool {
        [OWNERS, ATTRIBUTES, MODES_AND_TIMES].iter().any(|calls| calls.contains(&call))
    }

    /// Do what was asked, if it is about a file in one of the directories. `is_valid`: the caller still waits, so that
    /// what was read of it was its own.
    ///
    /// # Errors
    /// What the call is to return.
    pub fn carry_out(&self, question: &Question, is_valid: impl Fn() -> bool) -> Result<(), Errno> {
        if ATTRIBUTES.contains(&question.call) {
            // As on a file system that has none: whoever copies them goes on without (cp -p, tar).
            return Err(Errno::OPNOTSUPP);
        }
        if OWNERS.contains(&question.call) {
            return keeps_owner(question);
        }
        let caller = Caller(question.caller);
        let [first, second, third, fourth, ..] = question.arguments;
        let here = i64::from(libc::AT_FDCWD) as u64;
        let mode = |bits: u64| match bits & SET_IDS {
            0 => Ok(Change::Mode(Mode::from_raw_mode(bits as u32 & 0o7777))),
            _ => Err(Errno::PERM),
        };
        let (named, change) = match question.call {
            libc::SYS_fchmod => (Named::Open(first), mode(second)?),
            libc::SYS_fchmodat => (Named::At { directory: first, path: second, link: false }, mode(third)?),
            sys::FCHMODAT2 => (caller.named(first, second, fourth)?, mode(third)?),
            libc::SYS_utimensat if second == 0 => (Named::Open(first), Change::Times(caller.times(third)?)),
            libc::SYS_utimensat => {
                (caller.named(first, second, fourth)?, Change::Times(caller.times(third)?))
            }
            _ => (Named::At { directory: here, path: first, link: false }, mode(second)?),
        };
        let file = caller.file(&named)?;
        if !is_valid() {
            return Err(Errno::SRCH);
        }
        if !self.holds(file.as_fd())? {
            return Err(Errno::PERM);
        }
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        match change {
            Change::Mode(mode) => rustix::fs::chmod(path, mode),
            Change::Times(times) => rustix::fs::utimensat(CWD, path, &times, AtFlags::empty()),
        }
    }

    /// Whether a file lies in one of the directories now. From one of them nothing of the sandbox's can move it out.
    fn holds(&self, file: BorrowedFd<'_>) -> Result<bool, Errno> {
        let place = place_of(file)?;
        for directory in &self.0 {
            if place.starts_with(place_of(directory.as_fd())?) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// An owner can be said again and not changed: then there is nothing to do, whichever file it is.
fn keeps_owner(question: &Question) -> Result<(), Errno> {
    let [_, second, third, fourth, ..] = question.arguments;
    let (uid, gid) = match question.call {
        libc::SYS_fchownat => (third, fourth),
        _ => (second, third),
    };
    // The kernel takes 32 bits, and all of them set for "as it is" (chown(2)).
    let same = |given: u64, own: u32| [u32::MAX, own].contains(&(given as u32));
    let (own_uid, own_gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    if same(uid, own_uid) && same(gid, own_gid) { Ok(()) } else { Err(Errno::PERM) }
}

/// Where a file is, as the kernel tells it.
fn place_of(file: BorrowedFd<'_>) -> Result<PathBuf, Errno> {
    use std::os::unix::ffi::OsStringExt;
    let link = rustix::fs::readlink(format!("/proc/self/fd/{}", file.as_raw_fd()), Vec::new())?;
    Ok(std::ffi::OsString::from_vec(link.into_bytes()).into())
}

/// A handle on a file that opens nothing, through no link of /proc's.
fn hold(directory: impl AsFd, path: &Path, follow: bool) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::CLOEXEC | if follow { OFlags::empty() } else { OFlags::NOFOLLOW };
    rustix::fs::openat2(directory, path, flags, Mode::empty(), ResolveFlags::NO_MAGICLINKS)
}

/// A thread that waits for its answer, by its id. What is read of it is a copy.
struct Caller(u32);

impl Caller {
    fn named(&self, directory: u64, path: u64, flags: u64) -> Result<Named, Errno> {
        const KNOWN: u64 = (libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH) as u64;
        if flags & !KNOWN != 0 {
            return Err(Errno::INVAL);
        }
        if flags & libc::AT_EMPTY_PATH as u64 != 0 && self.text(path)?.is_empty() {
            return Ok(Named::Open(directory));
        }
        Ok(Named::At { directory, path, link: flags & libc::AT_SYMLINK_NOFOLLOW as u64 != 0 })
    }

    fn file(&self, named: &Named) -> Result<OwnedFd, Errno> {
        match *named {
            Named::Open(number) => self.open(number),
            Named::At { directory, path, link } => {
                let path = self.text(path)?;
                if path.is_empty() {
                    return Err(Errno::NOENT);
                }
                // The kernel takes 32 bits of it.
                let directory = match directory as i32 {
                    _ if path.first() == Some(&b'/') => hold(CWD, Path::new("/"), true)?,
                    libc::AT_FDCWD => self.magic("cwd")?,
                    _ => self.open(directory)?,
                };
                let path = CString::new(path).map_err(|_| Errno::INVAL)?;
                hold(directory, Path::new(path.to_str().map_err(|_| Errno::ILSEQ)?), !link)
            }
        }
    }

    /// What the caller has open under this number.
    fn open(&self, number: u64) -> Result<OwnedFd, Errno> {
        match number as i32 {
            number @ 0.. => self.magic(&format!("fd/{number}")).map_err(|error| match error {
                Errno::NOENT => Errno::BADF,
                error => error,
            }),
            _ => Err(Errno::BADF),
        }
    }

    /// What a link of the caller's /proc leads to.
    fn magic(&self, link: &str) -> Result<OwnedFd, Errno> {
        let path = format!("/proc/{}/{link}", self.0);
        rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
    }

    fn memory(&self) -> Result<File, Errno> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        rustix::fs::open(format!("/proc/{}/mem", self.0), flags, Mode::empty()).map(File::from)
    }

    /// The bytes up to the NUL at this address.
    fn text(&self, address: u64) -> Result<Vec<u8>, Errno> {
        let memory = self.memory()?;
        let mut text = Vec::new();
        let mut at = address;
        while text.len() < MAX_PATH {
            let mut page = [0_u8; PAGE as usize];
            let rest = (PAGE - at % PAGE) as usize;
            let read = memory.read_at(&mut page[..rest], at).map_err(|_| Errno::FAULT)?;
            if let Some(end) = page[..read].iter().position(|byte| *byte == 0) {
                text.extend(&page[..end]);
                return if text.len() < MAX_PATH { Ok(text) } else { Err(Errno::NAMETOOLONG) };
            }
            if read == 0 {
                return Err(Errno::FAULT);
            }
            text.extend(&page[..read]);
            at = at.checked_add(read as u64).ok_or(Errno::FAULT)?;
        }
        Err(Errno::NAMETOOLONG)
    }

    /// Two times at this address (timespec(3type), 64 bits each); at none: now.
    fn times(&self, address: u64) -> Result<Timestamps, Errno> {
        let now = Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW };
        if address == 0 {
            return Ok(Timestamps { last_access: now, last_modification: now });
        }
        let mut bytes = [0_u8; 32];
        self.memory()?.read_exact_at(&mut bytes, address).map_err(|_| Errno::FAULT)?;
        let number = |at: usize| {
            let mut number = [0_u8; 8];
            number.copy_from_slice(&bytes[at..at + 8]);
            i64::from_ne_bytes(number)
        };
        let time = |at: usize| Timespec { tv_sec: number(at), tv_nsec: number(at + 8) };
        Ok(Timestamps { last_access: time(0), last_modification: time(16) })
    }
}
