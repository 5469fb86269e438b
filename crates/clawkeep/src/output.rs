//! What reaches the user's terminal.

use std::io::{ErrorKind, IsTerminal, Write};

/// Print to standard output. A reader that has gone away (`| head`) ends us quietly, as it does every tool.
pub fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    if let Err(error) = out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        leave(&error);
    }
}

/// Bytes to standard output, as they are.
pub fn write(bytes: &[u8]) {
    let mut out = std::io::stdout().lock();
    if let Err(error) = out.write_all(bytes).and_then(|()| out.flush()) {
        leave(&error);
    }
}

fn leave(error: &std::io::Error) -> ! {
    if error.kind() == ErrorKind::BrokenPipe {
        std::process::exit(0);
    }
    self::error(&format!("error[output]: cannot write to standard output: {error}\n"));
    std::process::exit(1);
}

/// Print to standard error.
pub fn error(text: &str) {
    // There is nowhere left to complain to.
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

/// Print a value as JSON.
pub fn print_json(value: &impl serde::Serialize) {
    // Plain data with text keys: it has a JSON form.
    let text = serde_json::to_string_pretty(value).unwrap_or_default();
    print(&(escape_json(&text) + "\n"));
}

/// Print a value as JSON on a line of its own.
pub fn print_json_line(value: &impl serde::Serialize) {
    print(&(escape_json(&serde_json::to_string(value).unwrap_or_default()) + "\n"));
}

/// JSON leaves some characters as they are that can draw on a terminal: escaped, they mean the same (RFC 8259,
/// section 7).
fn escape_json(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c == '\n' || !(c.is_control() || moves_text(c)) {
            out.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                out += &format!("\\u{unit:04x}");
            }
        }
    }
    out
}

/// Marks that reorder or hide text.
fn moves_text(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{e0000}'..='\u{e007f}')
}

/// The cleaned text on one line.
pub fn one_line(text: &str) -> String {
    clean(text).replace(['\n', '\t'], " ")
}

/// Whether a person reads our standard output.
pub fn is_terminal() -> bool {
    std::io::stdout().is_terminal()
}

/// The text without control characters, escape sequences (ECMA-48) and marks that reorder what is shown;
/// newlines and tabs stay. For everything that an agent may have written.
pub fn clean(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\n' | '\t' => out.push(c),
            '\u{1b}' => match chars.next_if(|c| !matches!(c, '\n' | '\u{1b}')) {
                Some('[') => skip_control_sequence(&mut chars),
                Some(']' | 'P' | 'X' | '^' | '_') => skip_string(&mut chars),
                // Intermediate bytes, then one final byte.
                Some(' '..='/') => {
                    while chars.next_if(|c| matches!(c, ' '..='/')).is_some() {}
                    chars.next_if(|c| matches!(c, '0'..='~'));
                }
                _ => {}
            },
            '\u{9b}' => skip_control_sequence(&mut chars),
            '\u{90}' | '\u{98}' | '\u{9d}'..='\u{9f}' => skip_string(&mut chars),
            c if c.is_control() => {}
            c if moves_text(c) => {}
            c => out.push(c),
        }
    }
    out
}

type Chars<'a> = std::iter::Peekable<std::str::Chars<'a>>;

fn skip_control_sequence(chars: &mut Chars<'_>) {
    while chars.next_if(|c| matches!(c, ' '..='?')).is_some() {}
    chars.next_if(|c| matches!(c, '@'..='~'));
}

/// Up to its terminator; never over the end of a line, so that an open one hides nothing but its own line.
fn skip_string(chars: &mut Chars<'_>) {
    while let Some(c) = chars.next_if(|c| *c != '\n') {
        match c {
            '\u{7}' | '\u{9c}' => return,
            '\u{1b}' => {
                chars.next_if_eq(&'\\');
                return;
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nothing_that_moves_a_cursor_is_left() {
        for (from, to) in [
            ("plain\ttext\n", "plain\ttext\n"),
            ("\u{1b}[31mred\u{1b}[0m", "red"),
            ("\u{1b}]0;title\u{7}after", "after"),
            ("\u{1b}]52;c;aGk=\u{1b}\\after", "after"),
            ("\u{1b}]open\nnext", "\nnext"),
            ("\u{1b}(Bx\u{1b}cy\u{1b}", "xy"),
            ("\u{9b}2Jx\u{9d}0;t\u{9c}y", "xy"),
            ("over\rwritten\u{8}\u{0}", "overwritten"),
            ("a\u{202e}b\u{2066}c", "abc"),
            ("gr\u{fc}\u{df}e \u{2714}", "gr\u{fc}\u{df}e \u{2714}"),
        ] {
            assert_eq!(clean(from), to, "{from:?}");
        }
    }

    #[test]
    fn json_for_a_terminal_is_the_same_json() {
        let value = serde_json::json!({"a\u{9b}": "\u{1b}[2J\u{7f}\u{202e}\u{e0041}\u{fc}\n"});
        let text = escape_json(&serde_json::to_string(&value).unwrap());
        assert_eq!(
            text,
            r#"{"a\u009b":"\u001b[2J\u007f\u202e\udb40\udc41\u{fc}\n"}"#.replace(r"\u{fc}", "\u{fc}")
        );
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
    }

    proptest! {
        #[test]
        fn of_any_text_only_printable_characters_lines_and_tabs_are_left(text in any::<String>()) {
            let cleaned = clean(&text);
            prop_assert!(cleaned.chars().all(|c| !c.is_control() || c == '\n' || c == '\t'));
            prop_assert_eq!(cleaned.matches('\n').count(), text.matches('\n').count());
            prop_assert_eq!(&clean(&cleaned), &cleaned);
        }
    }
}
