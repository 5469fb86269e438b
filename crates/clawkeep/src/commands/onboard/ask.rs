//! Questions to a person at a terminal. A signal ends the process here: nothing is made yet.

use std::io::{self, BufRead};

use clawkeep_daemon::api::RouteChoice;

use crate::commands::route;
use crate::output;
use crate::problem::Problem;
use crate::terminal;

/// Who answers.
pub trait Ask {
    /// A line of text; an empty one takes the default.
    ///
    /// # Errors
    /// When there is no more input.
    fn line(&mut self, question: &str, default: Option<&str>) -> Result<String, Problem>;

    /// A line that is not shown; it may be empty.
    ///
    /// # Errors
    /// When there is no more input.
    fn secret(&mut self, question: &str) -> Result<String, Problem>;

    /// The models that the provider of this route lists; none where it lists none, or cannot be asked.
    fn models(&mut self, route: &RouteChoice) -> Vec<String>;
}

/// The person at our terminal.
pub struct Terminal;

impl Ask for Terminal {
    fn line(&mut self, question: &str, default: Option<&str>) -> Result<String, Problem> {
        let hint = default.map(|default| format!(" [{default}]")).unwrap_or_default();
        output::print(&format!("{question}{hint}: "));
        let line = read()?;
        Ok(match (line.is_empty(), default) {
            (true, Some(default)) => default.to_owned(),
            _ => line,
        })
    }

    fn secret(&mut self, question: &str) -> Result<String, Problem> {
        output::print(&format!("{question}: "));
        let hidden = terminal::without_echo().map_err(|error| {
            Problem::new(
                "system",
                format!("cannot hide what is typed: {error}"),
                "give the key by its variable",
            )
        })?;
        let line = read();
        drop(hidden);
        output::print("\n");
        line
    }

    fn models(&mut self, route: &RouteChoice) -> Vec<String> {
        // Why it cannot be asked is told when the route is made.
        route::models(route).unwrap_or_default()
    }
}

fn read() -> Result<String, Problem> {
    let mut line = String::new();
    let no_input = |why: String| Problem::new("no-answer", why, "clawkeep onboard --non-interactive");
    match io::stdin().lock().read_line(&mut line) {
        Ok(0) => Err(no_input("the input ended before the questions".to_owned())),
        Ok(_) => Ok(line.trim().to_owned()),
        Err(error) => Err(no_input(format!("cannot read the answer: {error}"))),
    }
}

/// A question that only `yes` answers with yes.
///
/// # Errors
/// When there is no more input.
pub fn yes(question: &str) -> Result<bool, Problem> {
    let answer = Terminal.line(&format!("{question} (yes/no)"), Some("no"))?;
    Ok(matches!(answer.to_ascii_lowercase().as_str(), "y" | "yes"))
}
