//! What an attempt said, read as hostile text: nothing in it is trusted but that somebody in the sandbox
//! wrote it.

use serde::Deserialize;

/// More than any attempt says, in bytes.
const MAX_LINE: usize = 4096;

/// Control and attack, as far as they were told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Told {
    pub control: Option<Answer>,
    pub attack: Option<Answer>,
}

/// One answer: `ok`, the name of an error or signal, or another word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub word: String,
    pub detail: String,
}

#[derive(Deserialize)]
struct Line {
    step: String,
    #[serde(default)]
    answer: Option<String>,
    #[serde(default)]
    errno: Option<i32>,
    #[serde(default)]
    detail: String,
}

/// The first answer of each kind; whatever else was written does not matter.
pub(crate) fn read(output: &[u8]) -> Told {
    let mut told = Told::default();
    for line in output.split(|byte| *byte == b'\n').filter(|line| line.len() <= MAX_LINE) {
        let Ok(line) = serde_json::from_slice::<Line>(line) else { continue };
        let place = match line.step.as_str() {
            "control" => &mut told.control,
            "attack" => &mut told.attack,
            _ => continue,
        };
        let word = match (line.answer, line.errno) {
            (Some(word), _) => plain(&word, 40),
            (None, Some(errno)) => name(errno),
            (None, None) => continue,
        };
        place.get_or_insert(Answer { word, detail: plain(&line.detail, 200) });
    }
    told
}

/// Printable ASCII, at most so much.
fn plain(text: &str, most: usize) -> String {
    text.chars().filter(|c| c.is_ascii_graphic() || *c == ' ').take(most).collect()
}

/// `EPERM` for 1 (errno(3)).
fn name(errno: i32) -> String {
    let known = NAMES.iter().find(|(number, _)| *number == errno).map(|(_, name)| (*name).to_owned());
    known.unwrap_or_else(|| format!("errno {errno}"))
}

macro_rules! names {
    ($($name:ident)+) => { &[$((libc::$name, stringify!($name))),+] };
}

/// Those that the calls of the suite can give.
const NAMES: &[(i32, &str)] = names!(
    EPERM ENOENT ESRCH EINTR EIO ENXIO E2BIG ENOEXEC EBADF ECHILD EAGAIN ENOMEM EACCES EFAULT ENOTBLK EBUSY
    EEXIST EXDEV ENODEV ENOTDIR EISDIR EINVAL ENFILE EMFILE ENOTTY ETXTBSY EFBIG ENOSPC ESPIPE EROFS EMLINK
    EPIPE EDOM ERANGE EDEADLK ENAMETOOLONG ENOLCK ENOSYS ENOTEMPTY ELOOP EOVERFLOW ENOTSOCK EMSGSIZE
    EPROTOTYPE ENOPROTOOPT EPROTONOSUPPORT ESOCKTNOSUPPORT EOPNOTSUPP EPFNOSUPPORT EAFNOSUPPORT EADDRINUSE
    EADDRNOTAVAIL ENETDOWN ENETUNREACH ECONNABORTED ECONNRESET ENOBUFS EISCONN ENOTCONN ETIMEDOUT ECONNREFUSED
    EHOSTDOWN EHOSTUNREACH EALREADY EINPROGRESS ESTALE EDQUOT ENOKEY EKEYREJECTED ENODATA ENOPKG EUSERS
);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn answer(word: &str, detail: &str) -> Option<Answer> {
        Some(Answer { word: word.into(), detail: detail.into() })
    }

    #[test]
    fn reads_words_and_errors_and_nothing_else() {
        let text = b"noise\n{\"step\":\"control\",\"answer\":\"ok\"}\n{\"step\":\"attack\",\"errno\":1,\"detail\":\"d\\u001b[2J\"}\n\
            {\"step\":\"attack\",\"answer\":\"second\"}\n{\"step\":\"other\",\"answer\":\"x\"}\n{\"step\":\"attack\"}\n";
        let told = read(text);
        assert_eq!(told, Told { control: answer("ok", ""), attack: answer("EPERM", "d[2J") });
        assert_eq!(read(b"{\"step\":\"attack\",\"errno\":4711}").attack, answer("errno 4711", ""));
        assert_eq!(read(b""), Told::default());
    }

    proptest! {
        #[test]
        fn whatever_is_written_is_bounded_and_printable(output in any::<Vec<u8>>(), word in any::<String>()) {
            let line = serde_json::json!({"step": "attack", "answer": word, "detail": word}).to_string();
            for told in [read(&output), read(line.as_bytes())] {
                for answer in [told.control, told.attack].into_iter().flatten() {
                    prop_assert!(answer.word.len() <= 40 && answer.detail.len() <= 200);
                    prop_assert!(answer.word.bytes().chain(answer.detail.bytes()).all(|b| (b' '..=b'~').contains(&b)));
                }
            }
        }
    }
}
