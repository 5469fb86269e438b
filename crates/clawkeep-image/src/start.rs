//! How an image says that it is started: the part of its configuration (`config.md` of the OCI image specification)
//! that a sandbox takes up. Whatever else is in it (ports, volumes, labels, a stop signal) has no meaning here.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::error::ImageError;

/// What the variables of an image may be together, and its command, in bytes: all of it goes into each launch's order.
const MAX_BYTES: usize = 48 * 1024;

/// What an image's configuration says of a start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Start {
    /// `Entrypoint`, then `Cmd`; empty where it has neither.
    pub command: Vec<String>,
    /// `Env`, but for what is dropped.
    pub env: BTreeMap<String, String>,
    /// The names in `Env` that are not taken: [`dangerous`], or not a name.
    pub dropped: Vec<String>,
    /// `WorkingDir`.
    pub working_dir: Option<String>,
    /// `User`, which is not taken: a sandbox has a user of its own.
    pub user: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
struct Document {
    config: Option<Config>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Config {
    user: Option<String>,
    env: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    working_dir: Option<String>,
}

impl Start {
    /// Of a configuration.
    ///
    /// # Errors
    /// When it is no such document, or says more than can be handed to a process.
    pub(crate) fn of(bytes: &[u8]) -> Result<Self, ImageError> {
        let document: Document = crate::document::parse("configuration", bytes)?;
        let config = document.config.unwrap_or_default();
        let command: Vec<String> = [config.entrypoint, config.cmd].into_iter().flatten().flatten().collect();
        let given = config.env.unwrap_or_default();
        let size = |words: &[String]| words.iter().map(|word| word.len() + 1).sum::<usize>();
        if size(&command) + size(&given) > MAX_BYTES {
            return Err(ImageError::TooLarge(format!("{MAX_BYTES} bytes in its command and variables")));
        }
        let zero = |word: &String| word.contains('\0');
        if command.iter().any(zero) {
            return Err(ImageError::Malformed {
                what: "configuration".into(),
                problem: "its command holds a zero byte".into(),
            });
        }
        let (mut env, mut dropped) = (BTreeMap::new(), Vec::new());
        for pair in given {
            let (name, value) = pair.split_once('=').unwrap_or((&pair, ""));
            if dangerous(name) || value.contains('\0') {
                dropped.push(tame(name));
            } else {
                env.insert(name.to_owned(), value.to_owned());
            }
        }
        let said = |text: Option<String>| text.filter(|text| !text.is_empty() && !zero(text));
        let working_dir = said(config.working_dir).filter(|dir| dir.starts_with('/'));
        Ok(Self { command, env, dropped, working_dir, user: said(config.user).map(|user| tame(&user)) })
    }
}

/// Whether a variable is not taken from an image: no name at all; what makes a program load or run something else
/// before it begins, so that a guard, or the receipt, would not be the first thing in it; and what a sandbox says
/// itself, or means something to a daemon around it.
pub(crate) fn dangerous(name: &str) -> bool {
    const LOADS: &[&str] = &[
        "NODE_OPTIONS",
        "NODE_REPL_EXTERNAL_MODULE",
        "BASH_ENV",
        "ENV",
        "PROMPT_COMMAND",
        "SHELLOPTS",
        "BASHOPTS",
        "GCONV_PATH",
        "GLIBC_TUNABLES",
        "PYTHONSTARTUP",
        "PYTHONINSPECT",
        "PERL5OPT",
        "PERL5DB",
        "RUBYOPT",
        "JAVA_TOOL_OPTIONS",
        "_JAVA_OPTIONS",
        "DOTNET_STARTUP_HOOKS",
    ];
    const OURS: &[&str] =
        &["HOME", "USER", "LOGNAME", "TMPDIR", "INVOCATION_ID", "NOTIFY_SOCKET", "JOURNAL_STREAM"];
    const OUR_PREFIXES: &[&str] = &["LD_", "BASH_FUNC_", "CLAWKEEP_", "NEMOCLAW_", "OPENCLAW_", "LISTEN_"];
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let is_name = name.bytes().all(plain) && name.bytes().next().is_some_and(|first| !first.is_ascii_digit());
    !is_name
        || LOADS.contains(&name)
        || OURS.contains(&name)
        || OUR_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        || name.to_ascii_uppercase().ends_with("_PROXY")
}

/// Text of the image's, for a person.
fn tame(text: &str) -> String {
    text.chars().filter(|c| c.is_ascii_graphic()).take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(config: serde_json::Value) -> Result<Start, ImageError> {
        Start::of(serde_json::json!({ "architecture": "amd64", "config": config }).to_string().as_bytes())
    }

    #[test]
    fn command_variables_and_directory_are_taken_and_the_user_is_not() {
        let start = of(serde_json::json!({
            "User": "node\u{1b}[2J", "Env": ["PATH=/opt/bin:/bin", "EMPTY=", "A=b=c"], "Entrypoint": ["/init"],
            "Cmd": ["serve", "--now"], "WorkingDir": "/app", "ExposedPorts": {"80/tcp": {}}, "Labels": null,
        }))
        .unwrap();
        assert_eq!(start.command, ["/init", "serve", "--now"]);
        let pairs = [("A", "b=c"), ("EMPTY", ""), ("PATH", "/opt/bin:/bin")];
        assert_eq!(start.env, pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
        assert_eq!((start.working_dir.as_deref(), start.user.as_deref()), (Some("/app"), Some("node[2J")));
        assert!(start.dropped.is_empty());
        assert_eq!(of(serde_json::Value::Null).unwrap(), Start::default());
        let nothing =
            serde_json::json!({"Env": null, "Entrypoint": null, "Cmd": [], "WorkingDir": "", "User": ""});
        assert_eq!(of(nothing).unwrap(), Start::default());
        assert_eq!(of(serde_json::json!({"WorkingDir": "app"})).unwrap().working_dir, None);
    }

    #[test]
    fn what_loads_code_or_is_ours_is_dropped_by_its_name() {
        for name in [
            "LD_PRELOAD",
            "LD_AUDIT",
            "LD_LIBRARY_PATH",
            "NODE_OPTIONS",
            "BASH_ENV",
            "ENV",
            "BASH_FUNC_ls%%",
            "PYTHONSTARTUP",
            "HTTPS_PROXY",
            "no_proxy",
            "HOME",
            "CLAWKEEP_SAFE_MODE",
            "OPENCLAW_STATE_DIR",
            "A B",
            "1A",
            "INVOCATION_ID",
            "LISTEN_FDS",
            "GLIBC_TUNABLES",
        ] {
            let start = of(serde_json::json!({ "Env": [format!("{name}=/x.so"), "KEPT=1"] })).unwrap();
            assert_eq!(start.env.keys().collect::<Vec<_>>(), ["KEPT"], "{name}");
            assert_eq!(start.dropped, [name.replace(' ', "")]);
        }
        for name in ["PATH", "LANG", "PYTHONPATH", "NODE_ENV", "APP_ENV", "LOADER", "PROXY_URL"] {
            assert!(!dangerous(name), "{name}");
        }
    }

    #[test]
    fn what_cannot_be_handed_to_a_process_is_refused() {
        let long = "x".repeat(MAX_BYTES);
        assert_eq!(
            of(serde_json::json!({ "Env": [format!("A={long}")] })).unwrap_err().code(),
            "image-too-large"
        );
        assert_eq!(of(serde_json::json!({ "Cmd": ["a\0b"] })).unwrap_err().code(), "image-malformed");
        assert_eq!(of(serde_json::json!({ "Cmd": "sh" })).unwrap_err().code(), "image-malformed");
        assert_eq!(of(serde_json::json!({ "Env": ["A=a\0b"] })).unwrap().dropped, ["A"]);
    }
}
