//! The tail of a log, made comparable and harmless. All of it was written by whoever runs in the sandbox.

use std::ops::Range;

/// At most this much of the end of a log is looked at, in bytes.
const LOOK: usize = 64 * 1024;

/// At most this many lines of it.
const LINES: usize = 200;

/// Of each line at most this much, in bytes.
const LINE: usize = 1_000;

/// Shown in the place of a secret.
const MASK: &str = "***";

/// The last lines of a log, oldest first: without escape sequences, control characters, time stamps, process
/// numbers, addresses and secrets; empty ones left out.
pub(super) fn tail(log: &[u8]) -> Vec<String> {
    let whole = log.len() <= LOOK;
    let text = String::from_utf8_lossy(&log[log.len().saturating_sub(LOOK)..]).into_owned();
    // The first line is the end of one.
    let text = if whole { &text[..] } else { text.split_once('\n').map_or("", |(_, rest)| rest) };
    let mut lines = Vec::new();
    let mut armoured = false;
    for line in text.split(['\n', '\r']) {
        let printable = printable(line);
        // The lines of an armoured key have no mark of their own.
        if printable.contains("-----BEGIN ") {
            armoured = true;
            lines.push(format!("-----BEGIN {MASK}"));
        } else if armoured {
            // An agent can forget the end of a key on purpose, to hide what comes.
            armoured = !printable.contains("-----END ") && printable.len() <= 80 && !printable.contains(": ");
        } else {
            let line = clip(&normal(&mask(without_time(&printable))), LINE);
            if !line.is_empty() {
                lines.push(line);
            }
        }
    }
    lines.drain(..lines.len().saturating_sub(LINES));
    lines
}

/// The same of one line that does not come from a log, cut to so many bytes.
pub(super) fn plain(text: &str, longest: usize) -> String {
    let text = &text[..boundary(text, LOOK)];
    clip(&mask(&printable(&text.replace(['\n', '\r'], " "))), longest)
}

/// At most so many bytes of it, marked where something was cut off.
pub(super) fn clip(line: &str, longest: usize) -> String {
    let line = line.trim_end();
    if line.len() <= longest {
        return line.to_owned();
    }
    format!("{}…", &line[..boundary(line, longest)])
}

/// The last place up to here at which a text can be cut.
fn boundary(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0)
}

/// Without escape sequences (ECMA-48), control characters and marks that reorder what is shown.
fn printable(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\t' => out.push(' '),
            '\u{1b}' => match chars.next() {
                Some('[') => {
                    while chars.next_if(|c| matches!(c, ' '..='?')).is_some() {}
                    chars.next_if(|c| matches!(c, '@'..='~'));
                }
                // A string up to its terminator; an open one hides nothing but its own line.
                Some(']' | 'P' | 'X' | '^' | '_') => {
                    while chars.next_if(|c| !matches!(c, '\u{7}' | '\u{9c}' | '\u{1b}')).is_some() {}
                    if chars.next() == Some('\u{1b}') {
                        chars.next_if_eq(&'\\');
                    }
                }
                _ => {}
            },
            c if c.is_control() || invisible(c) => {}
            c => out.push(c),
        }
    }
    out
}

/// Marks without a width: they reorder text or hide in it.
fn invisible(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Without the time at its beginning: `2026-11-25T05:45:16.516+00:00`, `[05:45:16]` and the like. What else
/// stands in front of a line, as of the frames of a stack, says nothing either.
fn without_time(line: &str) -> &str {
    let start = line.trim_start();
    let stamp = |text: &str| {
        let of_stamp = |c: char| c.is_ascii_digit() || matches!(c, '-' | ':' | '.' | ',' | '+' | 'T' | 'Z');
        text.find(|c| !of_stamp(c)).unwrap_or(text.len())
    };
    let body = start.strip_prefix('[').unwrap_or(start);
    let (mut stamped, mut rest) = body.split_at(stamp(body));
    if stamped.len() == 10 && stamped.matches('-').count() == 2 {
        // A date, and the time behind a space.
        let time = rest.trim_start();
        (stamped, rest) = time.split_at(stamp(time));
    }
    let is_time = stamped.starts_with(|c: char| c.is_ascii_digit()) && stamped.matches(':').count() >= 2;
    if is_time { rest.strip_prefix(']').unwrap_or(rest).trim_start() } else { start }
}

/// Numbers that differ from run to run: process numbers and addresses. Ports stay, they tell something.
fn normal(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(at) = rest.find(|c: char| c.is_ascii_digit()) {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        let run = |text: &str, of: fn(char) -> bool| text.find(|c| !of(c)).unwrap_or(text.len());
        let digits = run(from, |c| c.is_ascii_digit());
        if let Some(hex) = from.strip_prefix("0x")
            && hex.starts_with(|c: char| c.is_ascii_hexdigit())
        {
            out.push_str("0xN");
            rest = &hex[run(hex, |c| c.is_ascii_hexdigit())..];
            continue;
        }
        let named = [" pid ", "(pid ", "pid=", "pid:", "pid: ", "PID "];
        let is_pid = named.iter().any(|name| out.ends_with(name)) || out == "pid " || out == "- pid ";
        // V8 begins its lines so: `[4711:0x27...]`; Node its warnings: `(node:4711)`.
        let is_pid = is_pid || out == "(node:" || (out == "[" && from[digits..].starts_with(":0x"));
        out.push_str(if is_pid { "N" } else { &from[..digits] });
        rest = &from[digits..];
    }
    out + rest
}

/// Names of values that are secret, in lower case.
const SECRET_NAMES: [&str; 12] = [
    "token",
    "secret",
    "password",
    "passwd",
    "passphrase",
    "api_key",
    "apikey",
    "api-key",
    "authorization",
    "access_key",
    "private_key",
    "cookie",
];

/// How well-known keys begin.
const SECRET_STARTS: [&str; 16] = [
    "sk-",
    "nvapi-",
    "ghp_",
    "gho_",
    "ghs_",
    "ghu_",
    "github_pat_",
    "glpat-",
    "xoxb-",
    "xoxp-",
    "AKIA",
    "AIza",
    "eyJ",
    "hf_",
    "npm_",
    "AGE-SECRET-KEY-",
];

/// Opaque words of this length and more are taken for secrets.
const OPAQUE: usize = 32;

fn mask(line: &str) -> String {
    let mut secrets: Vec<Range<usize>> = Vec::new();
    let lower = line.to_ascii_lowercase();
    // user:password@ in URLs.
    for (at, _) in line.match_indices("://") {
        let from = at + 3;
        let end = line[from..].find(['/', '?', '#', ' ', '"', '\'']).map_or(line.len(), |end| from + end);
        if let Some(at) = line[from..end].rfind('@') {
            secrets.push(from..from + at);
        }
    }
    for scheme in ["bearer ", "basic "] {
        secrets.extend(lower.match_indices(scheme).map(|(at, _)| word_at(line, at + scheme.len())));
    }
    for name in SECRET_NAMES {
        let mut done = 0;
        for (at, _) in lower.match_indices(name) {
            // One in a value is of that value: `token=token=token=...` is looked at once.
            if at >= done
                && let Some(value) = value_after(line, at + name.len())
            {
                done = value.end;
                secrets.push(value);
            }
        }
    }
    for (at, word) in words(line) {
        let known =
            SECRET_STARTS.iter().any(|start| word.strip_prefix(start).is_some_and(|rest| rest.len() >= 8));
        let has = |of: fn(&char) -> bool| word.chars().any(|c| of(&c));
        if known || (word.len() >= OPAQUE && has(char::is_ascii_digit) && has(char::is_ascii_alphabetic)) {
            secrets.push(at..at + word.len());
        }
    }
    secrets.retain(|range| !range.is_empty());
    secrets.sort_by_key(|range| range.start);
    let mut out = String::with_capacity(line.len());
    let mut done = 0;
    for secret in secrets {
        if secret.start >= done {
            out.push_str(&line[done..secret.start]);
            out.push_str(MASK);
        }
        done = done.max(secret.end);
    }
    out + &line[done..]
}

/// The words of a line, of the characters that keys are made of.
fn words(line: &str) -> impl Iterator<Item = (usize, &str)> {
    let of_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    let mut at = 0;
    std::iter::from_fn(move || {
        let from = at + line[at..].find(of_word)?;
        let end = line[from..].find(|c| !of_word(c)).map_or(line.len(), |end| from + end);
        at = end;
        Some((from, &line[from..end]))
    })
}

/// From here to the end of the word.
fn word_at(line: &str, from: usize) -> Range<usize> {
    let ends = [' ', '"', '\'', ',', ';', '&', '}', ')', ']', '<'];
    from..line[from..].find(ends).map_or(line.len(), |end| from + end)
}

/// The value behind a name that ends here: `=VALUE`, `: VALUE`, `":"VALUE"`.
fn value_after(line: &str, end: usize) -> Option<Range<usize>> {
    let rest = &line[end..];
    let gap = rest.len() - rest.trim_start_matches(['"', '\'', ' ', '\\']).len();
    let rest = rest[gap..].strip_prefix([':', '='])?;
    let value = rest.trim_start_matches(['"', '\'', ' ', '\\']);
    Some(word_at(line, line.len() - value.len()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_differs_from_run_to_run_is_left_out() {
        for (from, to) in [
            ("2026-11-25T05:45:16.516+00:00 [gateway] ready", "[gateway] ready"),
            ("[2026-11-25T05:45:16Z] ready", "ready"),
            ("2026-11-25 05:45:16,516 ready", "ready"),
            ("05:45:16 ready", "ready"),
            ("8080: in use", "8080: in use"),
            ("2026-11-25 is a date", "2026-11-25 is a date"),
            ("\u{1b}[31mError:\u{1b}[0m no", "Error: no"),
            ("\u{1b}]0;title\u{7}after", "after"),
            ("a\u{202e}b\u{200b}c\u{0}", "abc"),
            ("[4711:0x27aF00] 12 ms: Mark", "[N:0xN] 12 ms: Mark"),
            ("gateway already running (pid 9666); lock", "gateway already running (pid N); lock"),
            ("broker ready pid=74", "broker ready pid=N"),
            ("- pid 9666 root: x (127.0.0.1:28813)", "- pid N root: x (127.0.0.1:28813)"),
            ("rapid 5 of 0xyz", "rapid 5 of 0xyz"),
        ] {
            assert_eq!(tail(from.as_bytes()), [to], "{from:?}");
        }
    }

    #[test]
    fn secrets_are_masked_and_ordinary_text_is_not() {
        for (from, to) in [
            ("GET http://u:pw@h:1/x", "GET http://***@h:1/x"),
            ("proxy https://a@b@h/", "proxy https://***@h/"),
            ("Authorization: Bearer abc.def rest", "Authorization: *** *** rest"),
            ("url http://h/#token=abc&x=1", "url http://h/#token=***&x=1"),
            (r#"{"apiKey":"k-1","n":2}"#, r#"{"apiKey":"***","n":2}"#),
            (r#"\"password\": \"hunter2\""#, r#"\"password\": \"***""#),
            ("key sk-abcdefgh1 used", "key *** used"),
            ("no ask-abcdefgh1 here", "no ask-abcdefgh1 here"),
            ("id 0123456789abcdef0123456789abcdef.", "id ***."),
            ("SyntaxError: Unexpected token ';'", "SyntaxError: Unexpected token ';'"),
            ("StateDatabaseCoordinatorContentionError: x", "StateDatabaseCoordinatorContentionError: x"),
            (
                "at /opt/clawkeep/agent/app/node_modules/x.js:1:2",
                "at /opt/clawkeep/agent/app/node_modules/x.js:1:2",
            ),
        ] {
            assert_eq!(tail(from.as_bytes()), [to], "{from:?}");
        }
        let key = "a\n-----BEGIN PRIVATE KEY-----\nMIIB\nAAAA\n-----END PRIVATE KEY-----\nb";
        assert_eq!(tail(key.as_bytes()), ["a", "-----BEGIN ***", "b"]);
    }

    #[test]
    fn a_value_that_looks_like_many_is_one() {
        let lines = tail(format!("a {}", "token=".repeat(10_000)).as_bytes());
        assert_eq!(lines, ["a token=***"]);
    }

    #[test]
    fn an_endless_line_and_an_endless_log_are_cut() {
        assert_eq!(tail(&vec![b'x'; 1_000_000]), Vec::<String>::new());
        let long = tail(&vec![b'x'; 10_000]);
        assert!(long.len() == 1 && long[0].len() <= LINE + 3);
        let many = "line\n".repeat(100_000) + "last";
        let lines = tail(many.as_bytes());
        assert_eq!((lines.len(), lines.last().unwrap().as_str()), (LINES, "last"));
    }

    proptest! {
        #[test]
        fn any_bytes_become_bounded_printable_lines(bytes in proptest::collection::vec(any::<u8>(), 0..4_000)) {
            for line in tail(&bytes) {
                prop_assert!(line.len() <= LINE + 3);
                prop_assert!(!line.chars().any(|c| c.is_control() || invisible(c)));
            }
        }

        #[test]
        fn a_secret_never_gets_through(
            before in "[ -~]{0,30}", name in "(token|API_KEY|password)(=|: |\":\")", secret in "[a-zA-Z0-9]{12}",
        ) {
            let shown = tail(format!("{before} {name}{secret}").as_bytes()).concat();
            prop_assert!(!shown.contains(&secret), "{shown}");
        }
    }
}
