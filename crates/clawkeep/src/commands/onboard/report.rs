use std::time::Duration;

use clawkeep_daemon::api::SandboxStatus;
use indicatif::{ProgressBar, ProgressStyle};

use crate::output::{self, clean};

/// Tells the steps: a line each when it is done, and meanwhile, to a person, that it goes on.
pub struct Report {
    /// A person watches.
    person: bool,
    colour: bool,
    spinner: Option<ProgressBar>,
    step: String,
    /// What was last said to whoever is no person.
    said: String,
}

const GOOD: (&str, &str) = ("\u{2714}", "32");
const BAD: (&str, &str) = ("\u{2716}", "31");
const CARE: (&str, &str) = ("\u{26a0}", "33");

impl Report {
    /// `person`: standard output is a terminal.
    pub fn new(person: bool, colour: bool) -> Self {
        Self { person, colour: person && colour, spinner: None, step: String::new(), said: String::new() }
    }

    /// This step is at work.
    pub fn begin(&mut self, step: &str, text: &str) {
        step.clone_into(&mut self.step);
        self.said.clear();
        if self.person {
            self.clear();
            let spinner = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("  {spinner} {msg}") {
                spinner.set_style(style);
            }
            spinner.enable_steady_tick(Duration::from_millis(120));
            spinner.set_message(format!("{step:<14}{}", clean(text)));
            self.spinner = Some(spinner);
        }
    }

    /// It is still at work: `stage` in a few words, `figures` that change. A log gets a line for each stage.
    pub fn progress(&mut self, stage: &str, figures: &str) {
        if let Some(spinner) = &self.spinner {
            spinner.set_message(format!("{:<14}{stage}{figures}", self.step));
        } else if self.said != stage {
            stage.clone_into(&mut self.said);
            output::print(&format!("  \u{2026} {:<14}{stage}\n", self.step));
        }
    }

    /// It is still at work, which only a person who watches needs to know.
    pub fn detail(&self, text: &str) {
        if let Some(spinner) = &self.spinner {
            spinner.set_message(format!("{:<14}{}", self.step, clean(text)));
        }
    }

    /// It is done.
    pub fn done(&mut self, step: &str, text: &str) {
        self.line(GOOD, step, text, None);
    }

    /// It is not, and the rest goes on.
    pub fn warn(&mut self, step: &str, text: &str, next: Option<&str>) {
        self.line(CARE, step, text, next);
    }

    /// It is not, and that is the end.
    pub fn fail(&mut self, step: &str, text: &str, next: Option<&str>) {
        self.line(BAD, step, text, next);
    }

    /// The step that is at work has failed.
    pub fn fail_current(&mut self, text: &str) {
        let step = std::mem::take(&mut self.step);
        self.fail(&step, text, None);
    }

    fn clear(&mut self) {
        if let Some(spinner) = self.spinner.take() {
            spinner.finish_and_clear();
        }
    }

    fn line(&mut self, mark: (&str, &str), step: &str, text: &str, next: Option<&str>) {
        self.clear();
        output::print(&line(mark, step, text, next, self.colour));
    }
}

fn line((mark, colour): (&str, &str), step: &str, text: &str, next: Option<&str>, coloured: bool) -> String {
    let mark = if coloured { format!("\u{1b}[{colour}m{mark}\u{1b}[0m") } else { mark.to_owned() };
    let indent = format!("\n{:<18}", "");
    let text = clean(text).trim_end().replace('\n', &indent);
    let mut line = format!("  {mark} {step:<14}{text}\n");
    if let Some(next) = next {
        line += &format!("{:<18}next: {}\n", "", clean(next).replace('\n', " "));
    }
    line
}

/// What to do with it now.
pub fn closing(status: &SandboxStatus) -> String {
    let name = &status.name;
    let mut text = String::new();
    if let Some(url) = &status.dashboard_url {
        text += &format!("  Open   {url}\n");
    }
    text += &format!("  Shell  clawkeep {name} connect\n");
    if status.route.provider == "canary" {
        let which = if status.default { String::new() } else { format!(" {name}") };
        text += &format!("  Model  clawkeep{which} inference set --help\n");
    }
    clean(&text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::tests::ready;

    #[test]
    fn lines_are_aligned_and_plain_where_nobody_watches() {
        let mut all = line(GOOD, "host", "Landlock ABI 7, seccomp", None, false);
        all += &line(
            CARE,
            "model",
            "it does not answer\nat all\u{1b}[2J",
            Some("curl http://h/v1/models"),
            false,
        );
        all += &line(BAD, "gateway", "not ready", None, false);
        all += &closing(&ready("my-assistant"));
        insta::assert_snapshot!(all, @r#"
        ✔ host          Landlock ABI 7, seccomp
        ⚠ model         it does not answer
                        at all
                        next: curl http://h/v1/models
        ✖ gateway       not ready
        Open   http://127.0.0.1:18789/#token=t
        Shell  clawkeep my-assistant connect
        Model  clawkeep inference set --help
        "#);
    }

    #[test]
    fn colour_is_only_around_the_mark() {
        assert_eq!(line(GOOD, "a", "b", None, true), "  \u{1b}[32m\u{2714}\u{1b}[0m a             b\n");
    }

    #[test]
    fn the_closing_lines_fit_the_sandbox() {
        let mut status = ready("box");
        assert!(closing(&status).ends_with("  Model  clawkeep inference set --help\n"));
        status.default = false;
        assert!(closing(&status).ends_with("  Model  clawkeep box inference set --help\n"));
        status.route.provider = "custom".into();
        status.dashboard_url = None;
        assert_eq!(closing(&status), "  Shell  clawkeep box connect\n");
    }
}
