//! The machine that runs a seccomp program, small: the instructions of classic BPF (the kernel's
//! Documentation/networking/filter.rst) that the kernel takes from such a program and ours has.

use seccompiler::sock_filter;

/// One system call, as a program sees it.
#[derive(Debug, Clone, Copy)]
pub struct Made {
    pub arch: u32,
    pub number: u32,
    pub arguments: [u64; 6],
}

impl Made {
    /// The 32 bits of `struct seccomp_data` at this offset.
    fn word(self, offset: u32) -> u32 {
        let of = |value: u64, high| if high { (value >> 32) as u32 } else { value as u32 };
        assert_eq!(offset % 4, 0, "the kernel loads whole words only");
        match offset {
            0 => self.number,
            4 => self.arch,
            8 | 12 => panic!("the address of the instruction decides nothing"),
            16..64 => of(
                self.arguments[(offset as usize - 16) / 8],
                cfg!(target_endian = "little") == (offset % 8 == 4),
            ),
            _ => panic!("outside of the data"),
        }
    }
}

/// What the program returns.
pub fn run(program: &[sock_filter], made: Made) -> u32 {
    let (mut at, mut accumulator) = (0, 0_u32);
    loop {
        let sock_filter { code, jt, jf, k } = program[at];
        at += 1;
        let branch = |taken| usize::from(if taken { jt } else { jf });
        match u32::from(code) {
            code if code == libc::BPF_LD | libc::BPF_W | libc::BPF_ABS => accumulator = made.word(k),
            code if code == libc::BPF_ALU | libc::BPF_AND | libc::BPF_K => accumulator &= k,
            code if code == libc::BPF_JMP | libc::BPF_JA => at += k as usize,
            code if code == libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K => at += branch(accumulator == k),
            code if code == libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K => at += branch(accumulator >= k),
            code if code == libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K => at += branch(accumulator > k),
            code if code == libc::BPF_RET | libc::BPF_K => return k,
            code => panic!("instruction {code:#x}"),
        }
    }
}
