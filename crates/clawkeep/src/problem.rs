use clawkeep_daemon::api::Failure;
use clawkeep_store::HomeError;

use crate::output::clean;

/// What a command gives: the exit status.
pub type Outcome = Result<u8, Problem>;

/// Why a command did not do what was asked, with its exit status. There is one way to show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Code, message, next step.
    pub failure: Failure,
    /// 2: the command line is wrong and nothing was touched; 130 and 143: ended by a signal; 1: the rest.
    pub status: u8,
}

impl Problem {
    /// Something went wrong.
    pub fn new(code: &str, message: impl Into<String>, next: &str) -> Self {
        Failure::new(code, message, next.to_owned()).into()
    }

    /// The command line, or a variable, is wrong.
    pub fn usage(code: &str, message: impl Into<String>, next: &str) -> Self {
        Self { failure: Failure::new(code, message, next.to_owned()), status: 2 }
    }

    /// A text that was to name a sandbox.
    pub fn bad_name(error: &clawkeep_plan::NameError) -> Self {
        Self::usage("bad-name", error.to_string(), "clawkeep list")
    }

    /// A version of OpenClaw that this program cannot install.
    pub fn unknown_version(version: &str, next: &str) -> Self {
        let known: Vec<&str> =
            clawkeep_agents::Release::all().iter().map(|release| release.version).collect();
        let known = known.join(", ");
        let message =
            format!("openclaw {version:?} is not a version that this clawkeep can install ({known})");
        Self::usage("unknown-version", message, next)
    }

    /// What the parser says of this command, in our form.
    pub fn of_clap(error: &clap::Error, command: Option<&str>) -> Self {
        let text = error.to_string();
        let body = text.split("\nUsage:").next().unwrap_or_default();
        let body = body.split("\nFor more information").next().unwrap_or_default().trim();
        let body = body.strip_prefix("error: ").unwrap_or(body);
        let command = command.map(|command| format!(" {command}")).unwrap_or_default();
        Self::usage("usage", body, &format!("clawkeep{command} --help"))
    }

    /// As it is shown on standard error.
    pub fn render(&self) -> String {
        let mut text = format!("error[{}]: {}\n", clean(&self.failure.code), clean(&self.failure.message));
        if let Some(next) = &self.failure.next {
            text += &format!("  next: {}\n", clean(next));
        }
        text
    }
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        Self { failure, status: 1 }
    }
}

impl From<HomeError> for Problem {
    fn from(error: HomeError) -> Self {
        let (code, next) = match &error {
            HomeError::NotAbsolute(_) => {
                ("home-not-absolute", "export CLAWKEEP_HOME=/an/absolute/path".to_owned())
            }
            HomeError::NoUserHome => ("home-unknown", "export CLAWKEEP_HOME=/an/absolute/path".to_owned()),
            HomeError::NotADirectory(path) => {
                ("home-not-a-directory", format!("move {} away, or set CLAWKEEP_HOME", path.display()))
            }
            HomeError::Foreign { path, .. } => {
                ("home-foreign", format!("run as the owner of {}, or set CLAWKEEP_HOME", path.display()))
            }
            HomeError::WritableByOthers { path, .. } => {
                ("home-writable", format!("chmod 700 {}", path.display()))
            }
            HomeError::ReadOnly(_) => {
                ("home-read-only", "set CLAWKEEP_HOME to a disk that can be written".to_owned())
            }
            HomeError::Full(path) => ("disk-full", format!("df -h {}", path.display())),
            HomeError::NotWritable(_) => {
                ("home-no-permission", "set CLAWKEEP_HOME to a directory of yours".to_owned())
            }
            HomeError::Io { path, .. } => ("home-unusable", format!("ls -ld {}", path.display())),
        };
        Self::new(code, error.to_string(), &next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_code_message_and_next_step_and_nothing_that_moves_a_cursor() {
        let problem = Problem::new("a-code", "what \u{1b}[2Jis wrong", "do\u{7} this");
        assert_eq!(problem.render(), "error[a-code]: what is wrong\n  next: do this\n");
        assert_eq!(problem.status, 1);
        let without = Problem::from(Failure::new("x", "y", None));
        assert_eq!(without.render(), "error[x]: y\n");
    }

    #[test]
    fn each_unusable_home_has_a_code_and_a_next_step() {
        let path = std::path::PathBuf::from("/h");
        for error in [
            HomeError::NotAbsolute(path.clone()),
            HomeError::NoUserHome,
            HomeError::NotADirectory(path.clone()),
            HomeError::WritableByOthers { path: path.clone(), mode: 0o777 },
            HomeError::Full(path.clone()),
            HomeError::Io { path, source: std::io::Error::other("x") },
        ] {
            let said = error.to_string();
            let problem = Problem::from(error);
            assert_eq!(problem.failure.message, said);
            assert!(problem.failure.next.is_some_and(|next| !next.is_empty()));
        }
    }
}
