//! Attempts to take more than there is for everybody, and to end what must not end.

use std::ffi::CString;
use std::io::Write as _;

use crate::report::Answer;
use crate::{look, sys};

const SIGKILL: i32 = 9;
const SIGSTOP: i32 = 19;

/// Fork until it is refused; what was made is taken away again.
pub fn forks(most: u64) -> Answer {
    let mut children = Vec::new();
    let mut answer = Answer::word("ok", format!("{most} processes"));
    for _ in 0..most {
        match sys::fork() {
            Ok(0) => {
                // Should the parent be killed: not for ever.
                sys::alarm(20);
                loop {
                    std::thread::park();
                }
            }
            Ok(child) => children.push(child),
            Err(error) => {
                answer = Answer::of(&error, format!("after {} processes", children.len()));
                break;
            }
        }
    }
    for child in &children {
        let _ = sys::kill(*child, SIGKILL);
    }
    for child in children {
        sys::wait(child);
    }
    answer
}

/// Use memory until the kernel ends it.
pub fn eat(mib: u64) -> Answer {
    let mut eaten: Vec<Vec<u8>> = Vec::new();
    for _ in 0..mib {
        // Not zeros: those take no memory before they are written to.
        eaten.push(vec![0xa5; 1 << 20]);
    }
    Answer::word("ok", format!("{} MiB", eaten.len()))
}

/// Write files of 1 MiB until it is refused; they are removed again.
pub fn fill(path: &str, mib: u64) -> Answer {
    let block = vec![0xa5; 1 << 20];
    let name = |number: u64| format!("{path}-{number}");
    let write = |number| std::fs::File::create_new(name(number)).and_then(|mut file| file.write_all(&block));
    let full = (0..mib).find_map(|number| Some((number, write(number).err()?)));
    for number in 0..=full.as_ref().map_or(mib, |(number, _)| *number) {
        let _ = std::fs::remove_file(name(number));
    }
    match full {
        Some((number, error)) => Answer::of(&error, format!("after {number} MiB in {path}")),
        None => Answer::word("ok", format!("{mib} MiB in {path}")),
    }
}

/// A process that stops itself can still be ended: the answer is the signal that did it.
pub fn stop() -> Answer {
    let child = match sys::fork() {
        Ok(0) => {
            let _ = sys::kill(std::process::id().cast_signed(), SIGSTOP);
            sys::exit(0)
        }
        Ok(child) => child,
        Err(error) => return Answer::of(&error, "fork"),
    };
    if sys::wait_for(child, true) & 0xff != 0x7f {
        return Answer::word("error", "it did not stop");
    }
    match sys::kill(child, SIGKILL) {
        Ok(()) => Answer::word(sys::signal_name(sys::wait(child) & 0x7f), ""),
        Err(error) => Answer::of(&error, "kill"),
    }
}

/// Die in a way that would leave a core file: `no-core` where it does not (core(5)).
pub fn core() -> Answer {
    match sys::fork() {
        Ok(0) => std::process::abort(),
        Ok(child) if sys::wait(child) & 0x80 == 0 => Answer::word("no-core", ""),
        Ok(_) => Answer::word("ok", "a core was dumped"),
        Err(error) => Answer::of(&error, "fork"),
    }
}

/// Kill the sandbox's first process. Whoever can tell of it, it survived.
pub fn kill_init() -> Answer {
    let init = look::init();
    let refused = sys::kill(init, SIGKILL).err();
    match (sys::kill(init, 0), refused) {
        // Gone, and we are still here: it was not the first process of a namespace of ours.
        (Err(error), _) if error.raw_os_error() == Some(3) => Answer::word("ok", "the first process is gone"),
        (_, Some(error)) => Answer::of(&error, "kill"),
        (_, None) => Answer::word("survived", "the signal was ignored"),
    }
}

/// Kill every process that this one may, itself at last (kill(2), pid -1).
pub fn kill_everything() -> Answer {
    match sys::kill(-1, SIGKILL) {
        Ok(()) => Answer::done(),
        Err(error) => Answer::of(&error, "kill"),
    }
}

/// How much fits on the file system of a path, without filling it: `bounded` where that is no more than this.
pub fn bounded(path: &str, mib: u64, inodes: u64) -> Answer {
    let mut found = [0_u64; 512];
    let Ok(path) = CString::new(path) else { return Answer::word("error", "a NUL in a path") };
    // SAFETY: the path ends with NUL, and there is more room than `struct statfs` takes.
    let asked = unsafe { sys::syscall(STATFS, [path.as_ptr() as i64, found.as_mut_ptr() as i64, 0, 0, 0, 0]) };
    if let Err(error) = asked {
        return Answer::of(&error, "statfs");
    }
    // Type, size of a block, blocks, free, available, files (statfs(2)).
    let [_, block, blocks, _, _, files, ..] = found;
    let size = blocks.saturating_mul(block) >> 20;
    let word = if (1..=mib).contains(&size) && (1..=inodes).contains(&files) { "bounded" } else { "ok" };
    Answer::word(word, format!("{size} MiB, {files} files"))
}

/// Make empty files until it is refused; they are removed again.
pub fn files(path: &str, most: u64) -> Answer {
    if let Err(error) = std::fs::create_dir(path) {
        return Answer::of(&error, path);
    }
    let make = |number: u64| std::fs::File::create_new(format!("{path}/{number}"));
    let full = (0..most).find_map(|number| Some((number, make(number).err()?)));
    let _ = std::fs::remove_dir_all(path);
    match full {
        Some((number, error)) => Answer::of(&error, format!("after {number} files in {path}")),
        None => Answer::word("ok", format!("{most} files in {path}")),
    }
}

/// Give a file extended attributes of 4 KiB until it is refused; it is removed again.
pub fn attributes(path: &str, most: u64) -> Answer {
    let Ok(file) = CString::new(path) else { return Answer::word("error", "a NUL in a path") };
    if let Err(error) = std::fs::File::create_new(path) {
        return Answer::of(&error, path);
    }
    let value = vec![0xa5_u8; 4 << 10];
    let set = |number: u64| {
        let name = CString::new(format!("user.clawkeep-drill-{number}")).unwrap_or_default();
        let (at, what, value, size) = (file.as_ptr(), name.as_ptr(), value.as_ptr(), value.len());
        // SAFETY: path and name end with NUL and live over the call; the value is as long as is said.
        unsafe { sys::syscall(SETXATTR, [at as i64, what as i64, value as i64, size as i64, 0, 0]) }.err()
    };
    let full = (0..most).find_map(|number| Some((number, set(number)?)));
    let _ = std::fs::remove_file(path);
    match full {
        Some((number, error)) => Answer::of(&error, format!("after {number} attributes")),
        None => Answer::word("ok", format!("{most} attributes")),
    }
}

#[cfg(target_arch = "x86_64")]
const STATFS: i64 = 137;
#[cfg(target_arch = "x86_64")]
const SETXATTR: i64 = 188;
#[cfg(not(target_arch = "x86_64"))]
const STATFS: i64 = 43;
#[cfg(not(target_arch = "x86_64"))]
const SETXATTR: i64 = 5;
