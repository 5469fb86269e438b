use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::termios::tcsetwinsize;

use crate::{interrupt, terminal};

/// How long, after the command's end, its terminal may be silent before all of its output is here. Pipes need
/// none: what was written is there.
const SILENCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// Where output goes.
#[derive(Clone, Copy)]
enum To {
    Out,
    Err,
}

/// Our ends of what the command reads and writes.
pub struct Inside {
    input: Option<OwnedFd>,
    outputs: Vec<(OwnedFd, To)>,
    terminal: bool,
}

impl Inside {
    /// The master side of a terminal.
    ///
    /// # Errors
    /// What the system said.
    pub fn terminal(master: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&master, true)?;
        let input = master.try_clone()?;
        Ok(Self { input: Some(input), outputs: vec![(master, To::Out)], terminal: true })
    }

    /// Three pipes: our ends, and those for the command (standard input, output, error).
    ///
    /// # Errors
    /// What the system said.
    pub fn pipes() -> io::Result<(Self, Vec<OwnedFd>)> {
        let pipe = || pipe_with(PipeFlags::CLOEXEC);
        let ((stdin, input), (out, stdout), (err, stderr)) = (pipe()?, pipe()?, pipe()?);
        // Only our end: a command that reads slowly must not keep us from reading what it writes.
        rustix::io::ioctl_fionbio(&input, true)?;
        let inside =
            Self { input: Some(input), outputs: vec![(out, To::Out), (err, To::Err)], terminal: false };
        Ok((inside, vec![stdin, stdout, stderr]))
    }
}

/// A thread that carries bytes both ways.
pub struct Pump {
    end: UnixStream,
    thread: JoinHandle<()>,
}

impl Pump {
    /// Begin.
    ///
    /// # Errors
    /// What the system said.
    pub fn start(inside: Inside) -> io::Result<Self> {
        let (end, ended) = UnixStream::pair()?;
        let window = if inside.terminal { Some(interrupt::window_changes()?) } else { None };
        let mut carrier = Carrier { inside, window, pending: Vec::new(), ours: true };
        // It may have changed since the request.
        carrier.resize();
        let thread = std::thread::Builder::new().name("pump".into()).spawn(move || carrier.run(&ended))?;
        Ok(Self { end, thread })
    }

    /// The command has ended: carry what it left, not waiting for what its own children may still write.
    pub fn finish(self) {
        drop(self.end);
        let _ = self.thread.join();
    }
}

struct Carrier {
    inside: Inside,
    window: Option<UnixStream>,
    /// Read from us and not yet taken inside.
    pending: Vec<u8>,
    /// Our input may still give something.
    ours: bool,
}

/// What `poll` found.
struct Ready {
    ended: bool,
    window: bool,
    ours: bool,
    input: PollFlags,
    outputs: Vec<bool>,
}

impl Carrier {
    fn run(mut self, ended: &UnixStream) {
        let mut finishing = false;
        loop {
            let Ok(ready) = self.poll(ended, finishing) else { return };
            if finishing && !ready.outputs.contains(&true) {
                return;
            }
            finishing |= ready.ended;
            if ready.window {
                self.resize();
            }
            if ready.ours && !finishing {
                self.read_ours();
            }
            if !ready.input.is_empty() {
                self.give(ready.input);
            }
            for index in (0..ready.outputs.len()).rev().filter(|index| ready.outputs[*index]) {
                if self.carry(index).is_err() {
                    self.inside.outputs.remove(index);
                }
            }
        }
    }

    fn poll(&self, ended: &UnixStream, finishing: bool) -> Result<Ready, Errno> {
        let nothing = PollFlags::empty();
        let stdin = io::stdin();
        let mut fds: Vec<PollFd<'_>> =
            self.inside.outputs.iter().map(|(fd, _)| PollFd::new(fd, PollFlags::IN)).collect();
        let outputs = fds.len();
        if !finishing {
            fds.push(PollFd::new(ended, PollFlags::IN));
        }
        let window = self.window.as_ref().map(|window| {
            fds.push(PollFd::new(window, PollFlags::IN));
            fds.len() - 1
        });
        let ours =
            (self.ours && self.pending.is_empty() && self.inside.input.is_some() && !finishing).then(|| {
                fds.push(PollFd::new(&stdin, PollFlags::IN));
                fds.len() - 1
            });
        // Asked for nothing, it still tells when nobody reads inside any more.
        let input = self
            .inside
            .input
            .as_ref()
            .filter(|_| !finishing && !self.inside.terminal || !self.pending.is_empty())
            .map(|input| {
                fds.push(PollFd::new(input, if self.pending.is_empty() { nothing } else { PollFlags::OUT }));
                fds.len() - 1
            });
        let silence = if self.inside.terminal { SILENCE } else { Timespec { tv_sec: 0, tv_nsec: 0 } };
        while let Err(error) = poll(&mut fds, finishing.then_some(&silence)) {
            if error != Errno::INTR {
                return Err(error);
            }
        }
        let found = |at: usize| fds[at].revents();
        Ok(Ready {
            ended: !finishing && !found(outputs).is_empty(),
            window: window.is_some_and(|at| !found(at).is_empty()),
            ours: ours.is_some_and(|at| !found(at).is_empty()),
            input: input.map_or(nothing, found),
            outputs: (0..outputs).map(|at| !found(at).is_empty()).collect(),
        })
    }

    fn resize(&mut self) {
        if let Some(window) = &mut self.window {
            let mut block = [0_u8; 64];
            while matches!(window.read(&mut block), Ok(n) if n > 0) {}
        }
        if let (true, Some(input), Some(size)) = (self.inside.terminal, &self.inside.input, terminal::size())
        {
            let _ = tcsetwinsize(input, size);
        }
    }

    fn read_ours(&mut self) {
        let mut block = [0_u8; 16 * 1024];
        match rustix::io::read(io::stdin(), &mut block) {
            Ok(0) | Err(_) => {
                self.ours = false;
                // The end of our input is the end of its.
                if !self.inside.terminal {
                    self.inside.input = None;
                }
            }
            Ok(read) => self.pending.extend(&block[..read]),
        }
    }

    fn give(&mut self, ready: PollFlags) {
        let Some(input) = &self.inside.input else { return };
        let gone = ready.intersects(PollFlags::ERR | PollFlags::NVAL);
        match rustix::io::write(input, &self.pending) {
            Ok(written) if !gone || written > 0 => drop(self.pending.drain(..written)),
            Err(Errno::AGAIN | Errno::INTR) if !gone => {}
            Ok(_) | Err(_) => {
                self.pending.clear();
                self.inside.input = None;
            }
        }
    }

    /// One block of output, from inside to us.
    fn carry(&self, index: usize) -> io::Result<()> {
        let (fd, to) = &self.inside.outputs[index];
        let mut block = [0_u8; 32 * 1024];
        let read = match rustix::io::read(fd.as_fd(), &mut block) {
            // The end of a terminal is EIO, of a pipe 0.
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Err(Errno::AGAIN | Errno::INTR) => return Ok(()),
            read => read?,
        };
        // A reader of ours that went away ends the command's writing too, by its own SIGPIPE.
        match to {
            To::Out => {
                let mut out = io::stdout().lock();
                out.write_all(&block[..read]).and_then(|()| out.flush())
            }
            To::Err => io::stderr().lock().write_all(&block[..read]),
        }
    }
}
