use std::collections::BTreeMap;

use clawkeep_plan::Agent;
use serde::{Deserialize, Serialize};

use crate::openclaw::{self, AgentLaunch, LaunchContext, RuntimeDir};
use crate::{Bundle, Document, Ending, ExitReading, Generation, HealthSpec, HealthUrl, Release, command};

/// The agent of a sandbox, as the registry stores it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum Adapter {
    /// An OpenClaw gateway.
    OpenClaw {
        /// A version that [`Release::find`] knows.
        version: String,
        /// Where it listens, if that is not [`openclaw::GATEWAY_PORT`]: where its loopback is the host's.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        port: Option<u16>,
    },
    /// Any command.
    Command {
        /// The program as the sandbox sees it, then its arguments.
        argv: Vec<String>,
        /// Where its health is asked; without one it is ready when it runs.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        health: Option<HealthUrl>,
        /// Its configuration, which is put back to the last healthy one when it keeps the command from running.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        config: Option<Document>,
        /// Whether it has a safe mode, and enters it where `CLAWKEEP_SAFE_MODE` is `1`.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        safe_mode: bool,
    },
}

/// Why an adapter cannot say how to launch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AdapterError {
    /// This version of Clawkeep does not know the release.
    #[error("openclaw {0} is not a release that this version knows")]
    UnknownRelease(String),
    /// The bundle is missing, or another release's.
    #[error("the bundle of openclaw {0} is not installed")]
    NoBundle(String),
    /// A command without a program.
    #[error("a command needs a program")]
    EmptyCommand,
    /// A program, or an argument, that cannot be executed.
    #[error("argument {0} of the command holds a NUL byte")]
    NulByte(usize),
}

impl Adapter {
    /// `openclaw` or `command`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::OpenClaw { .. } => "openclaw",
            Self::Command { .. } => "command",
        }
    }

    /// The release to install before a launch; `None` for an agent that needs none.
    ///
    /// # Errors
    /// [`AdapterError::UnknownRelease`].
    pub fn release(&self) -> Result<Option<&'static Release>, AdapterError> {
        match self {
            Self::OpenClaw { version, .. } => {
                Release::find(version).map(Some).ok_or_else(|| AdapterError::UnknownRelease(version.clone()))
            }
            Self::Command { .. } => Ok(None),
        }
    }

    /// The adapter's part of the launch plan. `bundle` is the installed one, where there must be one.
    ///
    /// # Errors
    /// When this cannot be launched at all.
    pub fn launch(
        &self,
        bundle: Option<&Bundle>,
        context: &LaunchContext,
    ) -> Result<AgentLaunch, AdapterError> {
        match self {
            Self::OpenClaw { version, port } => {
                let generation = self.generation()?;
                let bundle = bundle
                    .filter(|bundle| bundle.version() == version)
                    .ok_or_else(|| AdapterError::NoBundle(version.clone()))?;
                Ok(openclaw::launch(bundle, generation, openclaw_port(*port), context))
            }
            Self::Command { argv, .. } => {
                if argv.first().is_none_or(String::is_empty) {
                    return Err(AdapterError::EmptyCommand);
                }
                if let Some(index) = argv.iter().position(|arg| arg.contains('\0')) {
                    return Err(AdapterError::NulByte(index));
                }
                let env =
                    [("HOME", "/sandbox"), ("LANG", "C.UTF-8"), ("PATH", "/usr/local/bin:/usr/bin:/bin")];
                Ok(AgentLaunch {
                    agent: Agent { name: "command".into(), version: String::new(), runtime: String::new() },
                    argv: argv.clone(),
                    cwd: "/sandbox".into(),
                    env: env.into_iter().map(|(k, v)| (k.into(), v.into())).collect::<BTreeMap<_, _>>(),
                    files: Vec::new(),
                })
            }
        }
    }

    /// How its health is seen; `None`: it is ready when it runs.
    pub fn health(&self) -> Option<HealthSpec> {
        match self {
            Self::OpenClaw { port, .. } => Some(openclaw::health(openclaw_port(*port))),
            Self::Command { health, .. } => health.as_ref().map(HealthUrl::spec),
        }
    }

    /// The file that keeps it from starting when it is wrong.
    pub fn config(&self) -> Option<Document> {
        match self {
            Self::OpenClaw { .. } => "/sandbox/.openclaw/openclaw.json".parse().ok(),
            Self::Command { config, .. } => config.clone(),
        }
    }

    /// What safe mode (no channels, no plugins) adds to the environment of a launch; `None` without one.
    pub fn safe_env(&self) -> Option<BTreeMap<String, String>> {
        match self {
            Self::OpenClaw { .. } => Some(openclaw::safe_env()),
            Self::Command { safe_mode, .. } => {
                safe_mode.then(|| [("CLAWKEEP_SAFE_MODE".to_owned(), "1".to_owned())].into())
            }
        }
    }

    /// What its end means. `ordered`: we had told it to end.
    pub fn exit_reading(&self, ending: Ending, ordered: bool) -> ExitReading {
        match self {
            // An unknown release cannot have been launched; the newer quirks are the safer guess.
            Self::OpenClaw { .. } => {
                openclaw::exit_reading(self.generation().unwrap_or(Generation::New), ending, ordered)
            }
            Self::Command { .. } => command::exit_reading(ending, ordered),
        }
    }

    /// What must exist in the sandbox's `/tmp` before a launch, for the uid that the agent sees itself as.
    pub fn runtime_dirs(&self, uid: u32) -> Vec<RuntimeDir> {
        match self {
            Self::OpenClaw { .. } => {
                openclaw::runtime_dirs(self.generation().unwrap_or(Generation::New), uid)
            }
            Self::Command { .. } => Vec::new(),
        }
    }

    fn generation(&self) -> Result<Generation, AdapterError> {
        match (self.release()?, self) {
            (Some(release), _) => Ok(release.generation),
            (None, _) => Ok(Generation::New),
        }
    }
}

fn openclaw_port(port: Option<u16>) -> u16 {
    port.unwrap_or(openclaw::GATEWAY_PORT)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::ExitVerdict;

    #[test]
    fn adapters_are_stored_as_they_were_and_strangers_refused() {
        let adapters = [
            (
                Adapter::OpenClaw { version: "2026.9.6".into(), port: None },
                json!({"kind": "openclaw", "version": "2026.9.6"}),
            ),
            (
                Adapter::OpenClaw { version: "2026.9.6".into(), port: Some(13_528) },
                json!({"kind": "openclaw", "version": "2026.9.6", "port": 13_528}),
            ),
            (
                Adapter::Command {
                    argv: vec!["/bin/x".into()],
                    health: "tcp://127.0.0.1:9".parse().ok(),
                    config: None,
                    safe_mode: false,
                },
                json!({"kind": "command", "argv": ["/bin/x"], "health": "tcp://127.0.0.1:9"}),
            ),
        ];
        for (adapter, stored) in adapters {
            assert_eq!(serde_json::to_value(&adapter).unwrap(), stored);
            assert_eq!(serde_json::from_value::<Adapter>(stored).unwrap(), adapter);
        }
        for bad in [
            json!({"kind": "other"}),
            json!({"kind": "command", "argv": [], "config": "../x"}),
            json!({"kind": "command", "argv": [], "health": "http://10.0.0.1:1/"}),
            json!({"kind": "openclaw", "version": "1", "more": 1}),
        ] {
            assert!(serde_json::from_value::<Adapter>(bad.clone()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_command_is_launched_as_it_is_and_what_cannot_run_is_refused() {
        let command = |argv: &[&str]| Adapter::Command {
            argv: argv.iter().map(|&arg| arg.to_owned()).collect(),
            health: None,
            config: None,
            safe_mode: false,
        };
        let context = LaunchContext::default();
        let launch = command(&["/bin/sh", "-c", "x"]).launch(None, &context).unwrap();
        assert_eq!(launch.argv, ["/bin/sh", "-c", "x"]);
        assert_eq!((launch.files.len(), launch.env["HOME"].as_str()), (0, "/sandbox"));
        assert_eq!(command(&[]).launch(None, &context), Err(AdapterError::EmptyCommand));
        assert_eq!(command(&["a", "b\0"]).launch(None, &context), Err(AdapterError::NulByte(1)));
        assert_eq!(command(&["a"]).health(), None);
        assert_eq!(command(&["a"]).runtime_dirs(998), vec![]);
        assert_eq!(command(&["a"]).exit_reading(Ending::Code(78), false).verdict, ExitVerdict::Crash);
    }

    #[test]
    fn openclaw_needs_a_known_release_and_its_bundle() {
        let adapter = |version: &str| Adapter::OpenClaw { version: version.into(), port: None };
        let context = LaunchContext::default();
        assert_eq!(adapter("0.1").release(), Err(AdapterError::UnknownRelease("0.1".into())));
        assert_eq!(
            adapter("2026.9.6").launch(None, &context),
            Err(AdapterError::NoBundle("2026.9.6".into()))
        );
        let names = |version: &str| -> Vec<String> {
            adapter(version).runtime_dirs(998).into_iter().map(|dir| dir.name).collect()
        };
        assert_eq!(names("2026.9.6"), ["openclaw", "openclaw-state-locks-998"]);
        assert_eq!(names("2026.4.9"), ["openclaw", "openclaw-998"]);
        let verdict = |version: &str| adapter(version).exit_reading(Ending::Code(78), false).verdict;
        assert_eq!(verdict("2026.9.6"), ExitVerdict::DiagnoseFirst);
        assert_eq!(adapter("2026.9.6").health().unwrap().port, 18789);
        let elsewhere = Adapter::OpenClaw { version: "2026.9.6".into(), port: Some(13_528) };
        assert_eq!(elsewhere.health().unwrap().port, 13_528);
    }
}
