//! Other doors into the kernel than the one that a filter might look at, and another way to a program's file.

use std::ffi::CString;
use std::os::fd::FromRawFd as _;
use std::sync::atomic::Ordering;

use crate::report::Answer;
use crate::sys;

/// getpid(2) by the 32-bit entry, where its number is 20.
#[cfg(target_arch = "x86_64")]
pub fn int80() -> Answer {
    let result: i32;
    // SAFETY: this call takes no arguments, so the kernel touches no memory; the clobbered registers of the
    // 32-bit entry (r8 to r11 are zeroed) are named.
    unsafe {
        std::arch::asm!("int 0x80", inlateout("eax") 20 => result,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _, options(nostack));
    }
    if result < 0 { Answer::errno(-result, "") } else { Answer::done() }
}

/// getpid(2) as an x32 call (syscall(2), __X32_SYSCALL_BIT).
#[cfg(target_arch = "x86_64")]
pub fn x32() -> Answer {
    // SAFETY: this call takes no arguments.
    match unsafe { sys::syscall(0x4000_0000 | 39, [0; 6]) } {
        Ok(_) => Answer::done(),
        Err(error) => Answer::of(&error, ""),
    }
}

#[cfg(not(target_arch = "x86_64"))]
pub fn int80() -> Answer {
    Answer::word("absent", "only x86-64 has it")
}

#[cfg(not(target_arch = "x86_64"))]
pub fn x32() -> Answer {
    int80()
}

/// Run the program again from a file that lies in memory only, where no mount and no Landlock rule covers it.
pub fn memfd(program: &[&str]) -> Answer {
    let file = match sys::memfd() {
        Ok(fd) => fd,
        Err(error) => return Answer::of(&error, "memfd_create"),
    };
    // SAFETY: new and ours alone; forgotten below, the exec needs its number.
    let mut memory = unsafe { std::fs::File::from_raw_fd(file) };
    let copied = std::fs::File::open("/proc/self/exe").and_then(|mut us| std::io::copy(&mut us, &mut memory));
    std::mem::forget(memory);
    if let Err(error) = copied {
        return Answer::of(&error, "copy");
    }
    let output = sys::OUTPUT.load(Ordering::Relaxed).to_string();
    let words = ["payload", "inner", &output].into_iter().chain(program.iter().copied());
    let words: Vec<CString> = words.filter_map(|word| CString::new(word).ok()).collect();
    let mut pointers: Vec<*const std::ffi::c_char> = words.iter().map(|word| word.as_ptr()).collect();
    pointers.push(std::ptr::null());
    let none = [std::ptr::null::<std::ffi::c_char>()];
    const AT_EMPTY_PATH: i64 = 0x1000;
    let arguments =
        [file.into(), c"".as_ptr() as i64, pointers.as_ptr() as i64, none.as_ptr() as i64, AT_EMPTY_PATH, 0];
    // SAFETY: path, arguments and environment end with NUL or null and live over the call.
    match unsafe { sys::syscall(EXECVEAT, arguments) } {
        Ok(_) => Answer::word("error", "execveat came back"),
        Err(error) => Answer::of(&error, "execveat"),
    }
}

#[cfg(target_arch = "x86_64")]
const EXECVEAT: i64 = 322;
#[cfg(not(target_arch = "x86_64"))]
const EXECVEAT: i64 = 281;
