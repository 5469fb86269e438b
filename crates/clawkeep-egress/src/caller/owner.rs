use std::collections::VecDeque;
use std::ffi::CStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, RawDir, SeekFrom};
use rustix::io::Errno;

/// Links of descriptors and programs that are read for one answer: some milliseconds' worth. A sandbox with more
/// that could hold a socket gets none.
const MAX_LOOKS: u32 = 2_048;

/// The longest path of a program, in bytes; longer ones are no rule's.
const MAX_PATH: usize = 1_024;

/// Owners that are tried first next time.
const MAX_HINTS: usize = 4;

/// What the kernel puts behind the path of a program that is nowhere any more (proc_pid_exe(5)).
const DELETED: &[u8] = b" (deleted)";

/// The processes of one sandbox.
pub struct Owners {
    proc: OwnedFd,
    /// The newest first.
    hints: VecDeque<Hint>,
    looks: u32,
}

/// A process that owned a socket.
struct Hint {
    process: Process,
    /// Which descriptor the socket was. The next one often has the same number, or the one after it.
    descriptor: u32,
}

/// Its directory in `/proc`: once the process is gone nothing is found there, whoever gets its number.
struct Process {
    pid: i32,
    directory: OwnedFd,
}

/// It cannot be told.
struct Unknown;

impl Owners {
    /// Of the process-id namespace of this `/proc`.
    pub fn new(proc: &OwnedFd) -> io::Result<Self> {
        // Its own open directory: places in it are shared by whoever has a copy of the descriptor.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let proc = rustix::fs::openat(proc, ".", flags, Mode::empty())?;
        Ok(Self { proc, hints: VecDeque::new(), looks: 0 })
    }

    /// The program of the process that holds this socket, by its path inside. `None` where there is no such process
    /// or no such path, where two different programs hold it, or where that cannot be ruled out.
    pub fn executable(&mut self, inode: u32) -> Option<String> {
        self.looks = 0;
        let link = format!("socket:[{inode}]");
        let (owner, program) = self.owner(link.as_bytes()).ok()??;
        // It may have become another program while the others were looked at.
        let still = self.is(&owner, owner.descriptor, link.as_bytes()).ok()?
            && self.program(&owner.process).ok()?.as_ref() == Some(&program);
        if still {
            self.hints.retain(|hint| hint.process.pid != owner.process.pid);
            self.hints.push_front(owner);
            self.hints.truncate(MAX_HINTS);
        }
        let named = still && program.starts_with(b"/") && !program.ends_with(DELETED);
        named.then(|| String::from_utf8(program).ok()).flatten()
    }

    /// A holder, with its program, once it is certain that no other program holds the socket as well.
    fn owner(&mut self, link: &[u8]) -> Result<Option<(Hint, Vec<u8>)>, Unknown> {
        let mut found = match self.hinted(link)? {
            Some(hint) => self.program(&hint.process)?.map(|program| (hint, program)),
            None => None,
        };
        for pid in self.processes()? {
            if found.as_ref().is_some_and(|(hint, _)| hint.process.pid == pid) {
                continue;
            }
            let Some(process) = self.process(pid)? else { continue };
            // Without a program it is a zombie, which holds nothing.
            let Some(program) = self.program(&process)? else { continue };
            if found.as_ref().is_some_and(|(_, known)| *known == program) {
                continue;
            }
            let Some(descriptor) = self.holds(&process, link)? else { continue };
            if found.is_some() {
                return Err(Unknown);
            }
            found = Some((Hint { process, descriptor }, program));
        }
        Ok(found)
    }

    /// The owner, where it is one of the last owners.
    fn hinted(&mut self, link: &[u8]) -> Result<Option<Hint>, Unknown> {
        let hints = std::mem::take(&mut self.hints);
        let mut owner = None;
        for hint in hints {
            if owner.is_none() {
                let (last, next) = (hint.descriptor, hint.descriptor.saturating_add(1));
                let hit = if self.is(&hint, last, link)? {
                    Some(last)
                } else if self.is(&hint, next, link)? {
                    Some(next)
                } else {
                    self.holds(&hint.process, link)?
                };
                if let Some(descriptor) = hit {
                    owner = Some(Hint { descriptor, ..hint });
                    continue;
                }
            }
            self.hints.push_back(hint);
        }
        Ok(owner)
    }

    /// All but init, which lends its descriptors to nobody. The newest first: whoever has just been started is
    /// likely to be who asks.
    fn processes(&self) -> Result<Vec<i32>, Unknown> {
        let mut pids = Vec::new();
        entries(self.proc.as_fd(), |name| pids.extend(parse::<i32>(name).filter(|pid| *pid > 1)))?;
        pids.reverse();
        Ok(pids)
    }

    fn process(&mut self, pid: i32) -> Result<Option<Process>, Unknown> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(&self.proc, pid.to_string(), flags, Mode::empty());
        Ok(there(opened)?.map(|directory| Process { pid, directory }))
    }

    fn program(&mut self, process: &Process) -> Result<Option<Vec<u8>>, Unknown> {
        self.look()?;
        let mut path = [0; MAX_PATH];
        match there(rustix::fs::readlinkat_raw(&process.directory, "exe", &mut path))? {
            Some(MAX_PATH) => Err(Unknown),
            Some(length) => Ok(Some(path[..length].to_vec())),
            None => Ok(None),
        }
    }

    /// By which descriptor a process holds the socket.
    fn holds(&mut self, process: &Process, link: &[u8]) -> Result<Option<u32>, Unknown> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let Some(fds) = there(rustix::fs::openat(&process.directory, "fd", flags, Mode::empty()))? else {
            return Ok(None);
        };
        let mut descriptors = Vec::new();
        entries(fds.as_fd(), |name| descriptors.extend(parse::<u32>(name)))?;
        for descriptor in descriptors {
            if self.links(fds.as_fd(), &descriptor.to_string(), link)? {
                return Ok(Some(descriptor));
            }
        }
        Ok(None)
    }

    fn is(&mut self, hint: &Hint, descriptor: u32, link: &[u8]) -> Result<bool, Unknown> {
        self.links(hint.process.directory.as_fd(), &format!("fd/{descriptor}"), link)
    }

    fn links(&mut self, directory: BorrowedFd<'_>, name: &str, link: &[u8]) -> Result<bool, Unknown> {
        self.look()?;
        // What is longer is no socket.
        let mut target = [0; 32];
        let length = there(rustix::fs::readlinkat_raw(directory, name, &mut target))?;
        Ok(length.is_some_and(|length| target[..length] == *link))
    }

    fn look(&mut self) -> Result<(), Unknown> {
        self.looks += 1;
        if self.looks > MAX_LOOKS { Err(Unknown) } else { Ok(()) }
    }
}

/// `None` for what has gone, with its process or before. What may not be looked at cannot be told.
fn there<T>(result: Result<T, Errno>) -> Result<Option<T>, Unknown> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(Errno::NOENT | Errno::SRCH) => Ok(None),
        Err(_) => Err(Unknown),
    }
}

fn parse<T: std::str::FromStr>(name: &CStr) -> Option<T> {
    name.to_str().ok()?.parse().ok()
}

/// Every name in a directory, from its beginning.
fn entries(directory: BorrowedFd<'_>, mut each: impl FnMut(&CStr)) -> Result<(), Unknown> {
    rustix::fs::seek(directory, SeekFrom::Start(0)).map_err(|_| Unknown)?;
    let mut space = [MaybeUninit::uninit(); 8 << 10];
    let mut entries = RawDir::new(directory, &mut space);
    while let Some(entry) = entries.next() {
        match entry {
            Ok(entry) => each(entry.file_name()),
            // The process has gone while its descriptors were read.
            Err(Errno::NOENT | Errno::SRCH) => return Ok(()),
            Err(_) => return Err(Unknown),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use super::*;

    /// A process in a directory that looks like `/proc`.
    fn process(proc: &Path, pid: i32, program: &str, descriptors: &[(u32, u32)]) {
        let of_it = proc.join(pid.to_string());
        let _ = std::fs::remove_dir_all(&of_it);
        std::fs::create_dir_all(of_it.join("fd")).unwrap();
        symlink(program, of_it.join("exe")).unwrap();
        for (descriptor, inode) in descriptors {
            symlink(format!("socket:[{inode}]"), of_it.join(format!("fd/{descriptor}"))).unwrap();
        }
    }

    fn owners(proc: &Path) -> Owners {
        Owners::new(&std::fs::File::open(proc).unwrap().into()).unwrap()
    }

    #[test]
    fn a_socket_belongs_to_the_one_program_that_holds_it() {
        let dir = tempfile::tempdir().unwrap();
        let proc = dir.path();
        std::fs::create_dir(proc.join("sys")).unwrap();
        process(proc, 1, "/init", &[(3, 11)]);
        process(proc, 7, "/usr/bin/node", &[(3, 10), (4, 12)]);
        process(proc, 8, "/usr/bin/curl", &[(3, 11)]);
        let mut owners = owners(proc);
        assert_eq!(owners.executable(11).as_deref(), Some("/usr/bin/curl"));
        assert_eq!(owners.executable(12).as_deref(), Some("/usr/bin/node"));
        assert_eq!(owners.executable(13), None, "nobody's");
        assert_eq!(owners.executable(1), None, "a number that is part of another");
        // Shared with a fork, which is the same program; and then with another.
        process(proc, 9, "/usr/bin/node", &[(9, 12)]);
        assert_eq!(owners.executable(12).as_deref(), Some("/usr/bin/node"));
        process(proc, 9, "/usr/bin/python3", &[(9, 12)]);
        assert_eq!(owners.executable(12), None);
        process(proc, 9, "/usr/bin/python3", &[]);
        assert_eq!(owners.executable(12).as_deref(), Some("/usr/bin/node"));
    }

    #[test]
    fn a_hint_is_never_an_answer() {
        let dir = tempfile::tempdir().unwrap();
        let proc = dir.path();
        process(proc, 7, "/usr/bin/node", &[(3, 10)]);
        let mut owners = owners(proc);
        for inode in [10, 11, 12] {
            process(proc, 7, "/usr/bin/node", &[(3, inode)]);
            assert_eq!(owners.executable(inode).as_deref(), Some("/usr/bin/node"));
        }
        assert_eq!(owners.hints.len(), 1, "one a process");
        // It is gone; another process has its number.
        process(proc, 7, "/usr/bin/curl", &[(3, 20)]);
        assert_eq!(owners.executable(12), None);
        assert_eq!(owners.executable(20).as_deref(), Some("/usr/bin/curl"));
        for pid in 10..20 {
            process(proc, pid, "/usr/bin/node", &[(3, 100 + pid as u32)]);
            assert_eq!(owners.executable(100 + pid as u32).as_deref(), Some("/usr/bin/node"));
        }
        assert_eq!(owners.hints.len(), MAX_HINTS);
    }

    #[test]
    fn a_program_that_is_nowhere_has_no_name() {
        let dir = tempfile::tempdir().unwrap();
        let long = format!("/{}", "x".repeat(MAX_PATH));
        for program in ["/usr/bin/curl (deleted)", "/memfd:x (deleted)", "pipe:[1]", &long] {
            process(dir.path(), 7, program, &[(3, 10)]);
            assert_eq!(owners(dir.path()).executable(10), None, "{program}");
        }
    }

    #[test]
    fn more_than_can_be_looked_at_is_unknown() {
        let dir = tempfile::tempdir().unwrap();
        process(dir.path(), 8, "/usr/bin/curl", &[(3, 10)]);
        let many: Vec<_> = (0..MAX_LOOKS).map(|number| (number, 100 + number)).collect();
        process(dir.path(), 7, "/usr/bin/node", &many);
        let mut owners = owners(dir.path());
        assert_eq!(owners.executable(10), None);
        process(dir.path(), 7, "/usr/bin/node", &many[..100]);
        assert_eq!(owners.executable(10).as_deref(), Some("/usr/bin/curl"));
    }
}
