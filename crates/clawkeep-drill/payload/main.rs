//! Makes one attempt of the drill: first the legitimate neighbour (the control), then the attack, each in a
//! process of its own, and tells of each in one line of JSON on standard output.
//!
//! `payload control PROGRAM attack PROGRAM`; what a program is, is in `program.rs`. All words come from the
//! suite; this program decides nothing about what an answer means.

mod foreign;
mod look;
mod machine;
mod net;
mod program;
mod report;
mod strain;
mod sys;

use std::process::ExitCode;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args_os().skip(1).map(|w| w.to_string_lossy().into_owned()).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.split_first() {
        // The second life of `memfd`: the answer goes where the first one says.
        Some((&"inner", [fd, program @ ..])) => {
            report::hand_over(fd.parse().unwrap_or(-1), &program::run(program));
            ExitCode::SUCCESS
        }
        Some((&"control", rest)) => {
            let Some(at) = rest.iter().position(|word| *word == "attack") else { return ExitCode::from(2) };
            for (step, program) in [("control", &rest[..at]), ("attack", &rest[at + 1..])] {
                let answer = report::apart(|| program::run(program));
                println!("{}", answer.line(step));
                if step == "control" && !answer.is_done() {
                    break;
                }
            }
            ExitCode::SUCCESS
        }
        _ => ExitCode::from(2),
    }
}
