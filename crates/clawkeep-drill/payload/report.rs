//! What an attempt says, and how it says it when it is killed for it.

use std::fmt::Write as _;
use std::io::Read as _;
use std::os::fd::FromRawFd as _;

use crate::sys;

/// How an attempt ended: a word, or the number of an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    word: String,
    errno: i32,
    detail: String,
}

impl Answer {
    pub fn word(word: &str, detail: impl Into<String>) -> Self {
        Self { word: word.to_owned(), errno: 0, detail: detail.into() }
    }

    /// It was done.
    pub fn done() -> Self {
        Self::word("ok", "")
    }

    /// Whether it was done, whatever else is told.
    pub fn is_done(&self) -> bool {
        self.word == "ok"
    }

    /// The kernel refused it.
    pub fn errno(errno: i32, detail: impl Into<String>) -> Self {
        Self { word: String::new(), errno, detail: detail.into() }
    }

    pub fn of(error: &std::io::Error, detail: impl Into<String>) -> Self {
        match error.raw_os_error() {
            Some(errno) => Self::errno(errno, detail),
            None => Self::word("error", error.to_string()),
        }
    }

    /// One line of JSON.
    pub fn line(&self, step: &str) -> String {
        let mut line = format!("{{\"step\":\"{step}\",");
        if self.word.is_empty() {
            let _ = write!(line, "\"errno\":{}", self.errno);
        } else {
            let _ = write!(line, "\"answer\":\"{}\"", plain(&self.word));
        }
        let _ = write!(line, ",\"detail\":\"{}\"}}", plain(&self.detail));
        line
    }
}

/// Printable ASCII that needs no escape, and not too much of it.
fn plain(text: &str) -> String {
    let keep = |c: char| if c.is_ascii_graphic() && c != '"' && c != '\\' { c } else { ' ' };
    text.chars().take(400).map(keep).collect()
}

/// Write the answer for [`apart`] to read.
pub fn hand_over(fd: i32, answer: &Answer) {
    let text = format!("{}\0{}\0{}", answer.word, answer.errno, answer.detail);
    sys::write(fd, text.as_bytes());
}

/// Do it in a child, so that a signal that it earns is an answer as well.
pub fn apart(attempt: impl FnOnce() -> Answer) -> Answer {
    let (read, write) = match sys::pipe() {
        Ok(pipe) => pipe,
        Err(error) => return Answer::of(&error, "pipe"),
    };
    let child = match sys::fork() {
        Ok(0) => {
            // Nothing takes so long; a hang is told as SIGALRM.
            sys::alarm(20);
            sys::close(read);
            sys::OUTPUT.store(write, std::sync::atomic::Ordering::Relaxed);
            hand_over(write, &attempt());
            sys::exit(0)
        }
        Ok(child) => child,
        Err(error) => return Answer::of(&error, "fork"),
    };
    sys::close(write);
    let mut text = String::new();
    // SAFETY: `read` is the pipe's reading end, made above and owned by nobody else.
    let _ = unsafe { std::fs::File::from_raw_fd(read) }.take(8192).read_to_string(&mut text);
    let status = sys::wait(child);
    let signal = status & 0x7f;
    if signal != 0 {
        let dumped = if status & 0x80 == 0 { "" } else { "core dumped" };
        return Answer::word(sys::signal_name(signal), dumped);
    }
    let mut parts = text.splitn(3, '\0');
    let mut next = || parts.next().unwrap_or_default();
    let (word, errno, detail) = (next(), next(), next());
    match errno.parse() {
        Ok(errno) => Answer { word: word.to_owned(), errno, detail: detail.to_owned() },
        Err(_) => Answer::word("silent", "the attempt ended without an answer"),
    }
}
