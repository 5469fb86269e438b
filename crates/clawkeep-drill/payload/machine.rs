//! System calls as the suite writes them. One call is `call NUMBER ARGUMENT...`; an argument is
//! `i` and a number, `s` and a path or text, `x` and bytes in hexadecimal, `z` and the size of a zeroed
//! buffer, `r` and the index of an earlier call whose result is meant, `p` (this process), `g` (another
//! process of the same user that is not of ours, so the gateway where there is one), `n` the first process of the
//! sandbox, `h` a process of the host
//! as its pid and start time.

use crate::report::Answer;
use crate::{look, sys};

/// One argument: a number, or memory that the call may read and write.
enum Argument {
    Number(i64),
    Memory(Vec<u8>),
}

/// More than any structure that a kernel writes to an argument of ours.
const SLACK: usize = 4096;

/// Make the calls in order; the answer is the first error, or that all were done.
pub fn calls(words: &[&str]) -> Answer {
    let mut results = Vec::new();
    for call in words.split(|word| *word == "call").skip(1) {
        match make(call, &results) {
            Ok(result) => results.push(result),
            Err(answer) => return answer,
        }
    }
    Answer::done()
}

/// Make the call again and again, until it fails or has been made so often.
pub fn repeat(times: u64, words: &[&str]) -> Answer {
    for _ in 0..times {
        if let Err(answer) = make(words.get(1..).unwrap_or_default(), &[]) {
            return answer;
        }
    }
    Answer::done()
}

fn make(call: &[&str], results: &[i64]) -> Result<i64, Answer> {
    let bad = || Answer::word("error", format!("no call: {call:?}"));
    let (number, words) = call.split_first().ok_or_else(bad)?;
    let number: i64 = number.parse().map_err(|_| bad())?;
    let mut arguments = Vec::new();
    for word in words {
        arguments.push(argument(word, results)?);
    }
    let mut raw = [0; 6];
    for (raw, argument) in raw.iter_mut().zip(&mut arguments) {
        *raw = match argument {
            Argument::Number(number) => *number,
            Argument::Memory(bytes) => bytes.as_mut_ptr() as i64,
        };
    }
    let us = std::process::id();
    // SAFETY: every pointer leads to memory of ours with more room behind it than any call of the suite reads or
    // writes, and `arguments` outlives the call. What a call does to the process beyond that is the experiment:
    // it is a child that only reports and ends.
    let result = unsafe { sys::syscall(number, raw) };
    if std::process::id() != us {
        // It was a clone or fork that must not be: the parent tells of it.
        sys::exit(0);
    }
    result.map_err(|error| Answer::of(&error, format!("call {} of the attempt", results.len() + 1)))
}

fn argument(word: &str, results: &[i64]) -> Result<Argument, Answer> {
    let bad = || Answer::word("error", format!("no argument: {word}"));
    let (kind, rest) = word.split_at_checked(1).ok_or_else(bad)?;
    let with_room = |mut bytes: Vec<u8>| {
        bytes.resize(bytes.len() + SLACK, 0);
        Argument::Memory(bytes)
    };
    Ok(match kind {
        "i" => Argument::Number(rest.parse().map_err(|_| bad())?),
        "s" => with_room(rest.as_bytes().to_vec()),
        "x" => with_room(bytes(rest).ok_or_else(bad)?),
        "z" => with_room(vec![0; rest.parse::<u16>().map_err(|_| bad())?.into()]),
        "r" => Argument::Number(*results.get(rest.parse::<usize>().map_err(|_| bad())?).ok_or_else(bad)?),
        "p" => Argument::Number(std::process::id().into()),
        "g" => match look::sibling_pids().first() {
            Some(pid) => Argument::Number((*pid).into()),
            None => return Err(Answer::word("absent", "no other process runs here")),
        },
        "n" => Argument::Number(look::init().into()),
        "h" => {
            let (pid, started) = rest.split_once(':').ok_or_else(bad)?;
            let pid: i32 = pid.parse().map_err(|_| bad())?;
            // One of ours may have the same number; then nothing is proven either way.
            match look::stat_field(pid, 22) {
                Some(found) if found != started => {
                    return Err(Answer::word(
                        "absent",
                        "a process here has the number of the one on the host",
                    ));
                }
                Some(_) | None => Argument::Number(pid.into()),
            }
        }
        _ => return Err(bad()),
    })
}

/// From hexadecimal.
pub fn bytes(hex: &str) -> Option<Vec<u8>> {
    let pair = |at: usize| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok();
    (0..hex.len()).step_by(2).map(pair).collect()
}
