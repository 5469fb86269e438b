use std::ffi::OsString;

use crate::problem::Problem;

type Read = dyn Fn(&str) -> Option<OsString>;

/// The environment, as the outside contract reads it: `CLAWKEEP_X`, then `NEMOCLAW_X`; an empty one is unset.
pub struct Env(Box<Read>);

impl Env {
    /// This process's.
    pub fn of_process() -> Self {
        Self(Box::new(|name| std::env::var_os(name)))
    }

    /// A made-up one.
    #[cfg(test)]
    pub fn of(variables: &[(&str, &str)]) -> Self {
        let variables: Vec<(String, OsString)> =
            variables.iter().map(|(name, value)| ((*name).to_owned(), value.into())).collect();
        Self(Box::new(move |name| {
            variables.iter().find(|(have, _)| have == name).map(|(_, value)| value.clone())
        }))
    }

    /// The variable of exactly this name.
    pub fn exact(&self, name: &str) -> Option<OsString> {
        (self.0)(name).filter(|value| !value.is_empty())
    }

    /// The first of these that is set, as text, and which it was.
    ///
    /// # Errors
    /// When it is not UTF-8.
    pub fn first(&self, names: &[&str]) -> Result<Option<(String, String)>, Problem> {
        let Some((name, value)) = names.iter().find_map(|name| Some((*name, self.exact(name)?))) else {
            return Ok(None);
        };
        match value.into_string() {
            Ok(value) => Ok(Some((name.to_owned(), value))),
            // The value may be a key: it is not shown.
            Err(_) => Err(Problem::usage(
                "bad-variable",
                format!("{name} is not valid UTF-8"),
                &format!("unset {name}"),
            )),
        }
    }

    /// `CLAWKEEP_X`, then `NEMOCLAW_X`.
    ///
    /// # Errors
    /// When it is not UTF-8.
    pub fn text(&self, x: &str) -> Result<Option<String>, Problem> {
        Ok(self.named(x)?.map(|(_, value)| value))
    }

    /// The same, as a yes or no.
    ///
    /// # Errors
    /// When it is neither.
    pub fn flag(&self, x: &str) -> Result<bool, Problem> {
        let Some((name, value)) = self.named(x)? else { return Ok(false) };
        match value.to_ascii_lowercase().as_str() {
            "1" | "true" | "yes" | "on" => Ok(true),
            "0" | "false" | "no" | "off" => Ok(false),
            _ => Err(Problem::usage(
                "bad-variable",
                format!("{name} is {value:?}, which is neither 1 nor 0"),
                &format!("unset {name}"),
            )),
        }
    }

    /// The same, as a number of a port.
    ///
    /// # Errors
    /// When it is none.
    pub fn port(&self, x: &str) -> Result<Option<u16>, Problem> {
        let Some((name, value)) = self.named(x)? else { return Ok(None) };
        match value.parse() {
            Ok(port) if port > 0 => Ok(Some(port)),
            _ => Err(Problem::usage(
                "bad-variable",
                format!("{name} is {value:?}, which is no port from 1 to 65535"),
                &format!("unset {name}"),
            )),
        }
    }

    /// The same, and the name that it was given by.
    ///
    /// # Errors
    /// When it is not UTF-8.
    pub fn named(&self, x: &str) -> Result<Option<(String, String)>, Problem> {
        self.first(&[&format!("CLAWKEEP_{x}"), &format!("NEMOCLAW_{x}")])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_name_comes_before_the_old_one_and_empty_is_unset() {
        let env = Env::of(&[
            ("CLAWKEEP_MODEL", "ours"),
            ("NEMOCLAW_MODEL", "old"),
            ("CLAWKEEP_PROVIDER", ""),
            ("NEMOCLAW_PROVIDER", "ollama"),
        ]);
        assert_eq!(env.text("MODEL").unwrap().as_deref(), Some("ours"));
        assert_eq!(env.text("PROVIDER").unwrap().as_deref(), Some("ollama"));
        assert_eq!(env.text("ENDPOINT_URL").unwrap(), None);
    }

    #[test]
    fn flags_and_ports_are_checked_and_named() {
        let env = Env::of(&[
            ("NEMOCLAW_YES", "1"),
            ("NEMOCLAW_A", "FALSE"),
            ("NEMOCLAW_B", "maybe"),
            ("CLAWKEEP_DASHBOARD_PORT", "0"),
            ("NEMOCLAW_P", "18790"),
        ]);
        assert!(env.flag("YES").unwrap());
        assert!(!env.flag("A").unwrap() && !env.flag("NONE").unwrap());
        assert!(env.flag("B").unwrap_err().failure.message.starts_with("NEMOCLAW_B is"));
        assert_eq!(env.port("P").unwrap(), Some(18790));
        assert!(
            env.port("DASHBOARD_PORT").unwrap_err().failure.message.starts_with("CLAWKEEP_DASHBOARD_PORT is")
        );
    }

    #[test]
    fn a_value_that_is_no_text_is_not_shown() {
        use std::os::unix::ffi::OsStringExt;
        let env = Env(Box::new(|_| Some(OsString::from_vec(b"secret\xff".to_vec()))));
        let problem = env.first(&["COMPATIBLE_API_KEY"]).unwrap_err();
        assert!(!problem.render().contains("secret"), "{}", problem.render());
    }
}
