//! The static program.

use std::io::{self, Write as _};
use std::os::fd::OwnedFd;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

static PAYLOAD: &[u8] = include_bytes!(env!("DRILL_PAYLOAD"));

/// Its bytes: an executable file that needs nothing of the system that it runs on.
pub fn payload() -> &'static [u8] {
    PAYLOAD
}

/// The same as a file in memory that nobody can change: given to a process in the sandbox as its standard
/// input, it is executed as `/proc/self/fd/0`, and the agent has no path at which to swap it.
///
/// # Errors
/// What the system said.
pub fn sealed_payload() -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = match memfd_create("clawkeep-drill", flags | MemfdFlags::EXEC) {
        // Before Linux 6.3 there was no such flag, and every one could be executed.
        Err(rustix::io::Errno::INVAL) => memfd_create("clawkeep-drill", flags),
        made => made,
    }?;
    let mut file = std::fs::File::from(file);
    file.write_all(PAYLOAD)?;
    fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn runs_from_a_file_that_cannot_be_written() {
        let file = std::fs::File::from(sealed_payload().unwrap());
        assert!((&file).write_all(b"x").is_err());
        let output = Command::new("/proc/self/fd/0")
            .args(["control", "nothing", "attack", "calls", "call", "-1"])
            .stdin(Stdio::from(file))
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(
            text,
            "{\"step\":\"control\",\"answer\":\"ok\",\"detail\":\"\"}\n\
             {\"step\":\"attack\",\"errno\":38,\"detail\":\"call 1 of the attempt\"}\n"
        );
    }

    #[test]
    fn needs_no_interpreter() {
        // ELF-64 program headers (elf(5)): none may be PT_INTERP, 3.
        let number = |at: usize, size: usize| {
            PAYLOAD[at..at + size].iter().rev().fold(0_usize, |sum, byte| sum << 8 | usize::from(*byte))
        };
        let (table, size, count) = (number(32, 8), number(54, 2), number(56, 2));
        assert!(count > 0 && (0..count).all(|index| number(table + index * size, 4) != 3));
    }
}
