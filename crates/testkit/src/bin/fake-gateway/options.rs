use std::path::PathBuf;

use crate::orders::{self, Order};

/// What to do with a lock that another process left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockRule {
    /// Take it over when its owner is gone, as OpenClaw mostly does.
    Reclaim,
    /// Refuse to start on any lock, as OpenClaw does when it is unlucky.
    Refuse,
    /// No lock.
    Off,
}

/// How this start behaves; see the head of the program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    pub port: u16,
    pub warmup_ms: u64,
    pub on_start: Vec<Order>,
    pub report: PathBuf,
    pub orders: PathBuf,
    pub twin_exit: u8,
    pub port_exit: u8,
    pub health_status: u16,
    pub lock: LockRule,
    /// The agent's temporary directory, `TMPDIR` or /tmp.
    pub tmp: PathBuf,
    /// The configuration's path, as OpenClaw finds it; it names the lock.
    pub config: PathBuf,
}

impl Options {
    pub fn read(
        args: impl Iterator<Item = String>,
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, String> {
        let home = env("HOME").unwrap_or_else(|| "/sandbox".into());
        let state =
            env("OPENCLAW_STATE_DIR").map_or_else(|| PathBuf::from(home).join(".openclaw"), Into::into);
        let mut options = Self {
            port: 18789,
            warmup_ms: 0,
            on_start: Vec::new(),
            report: "/sandbox/fake-report.jsonl".into(),
            orders: "/sandbox/fake-orders".into(),
            twin_exit: 0,
            port_exit: 0,
            health_status: 200,
            lock: LockRule::Reclaim,
            tmp: env("TMPDIR").unwrap_or_else(|| "/tmp".into()).into(),
            config: env("OPENCLAW_CONFIG_PATH").map_or_else(|| state.join("openclaw.json"), Into::into),
        };
        for name in NAMES {
            let variable = format!("FAKE_{}", name[2..].to_ascii_uppercase().replace('-', "_"));
            if let Some(value) = env(&variable) {
                options.set(name, &value).map_err(|wrong| format!("{variable}: {wrong}"))?;
            }
        }
        let mut args = args;
        while let Some(arg) = args.next() {
            if NAMES.contains(&arg.as_str()) {
                let value = args.next().ok_or_else(|| format!("{arg} needs a value"))?;
                options.set(&arg, &value).map_err(|wrong| format!("{arg}: {wrong}"))?;
            }
        }
        Ok(options)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        fn number<T: std::str::FromStr>(value: &str) -> Result<T, String> {
            value.parse().map_err(|_| format!("{value:?} is not a number that fits"))
        }
        match name {
            "--port" => self.port = number(value)?,
            "--warmup-ms" => self.warmup_ms = number(value)?,
            "--on-start" => self.on_start = orders::parse(value)?,
            "--report" => self.report = value.into(),
            "--orders" => self.orders = value.into(),
            "--twin-exit" => self.twin_exit = number(value)?,
            "--port-exit" => self.port_exit = number(value)?,
            "--health-status" => self.health_status = number(value)?,
            _ => {
                self.lock = match value {
                    "reclaim" => LockRule::Reclaim,
                    "refuse" => LockRule::Refuse,
                    "off" => LockRule::Off,
                    other => return Err(format!("{other:?} is no rule for locks")),
                }
            }
        }
        Ok(())
    }
}

const NAMES: [&str; 9] = [
    "--port",
    "--warmup-ms",
    "--on-start",
    "--report",
    "--orders",
    "--twin-exit",
    "--port-exit",
    "--health-status",
    "--lock",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn read(args: &[&str], env: &[(&str, &str)]) -> Result<Options, String> {
        Options::read(args.iter().map(|arg| (*arg).to_owned()), |name| {
            env.iter().find(|(have, _)| *have == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn arguments_beat_the_environment_and_other_words_pass() {
        let options = read(
            &["gateway", "run", "--port", "7", "--allow-unconfigured", "--lock", "off"],
            &[("FAKE_PORT", "8"), ("FAKE_WARMUP_MS", "30"), ("OPENCLAW_STATE_DIR", "/s")],
        )
        .unwrap();
        assert_eq!((options.port, options.warmup_ms, options.lock), (7, 30, LockRule::Off));
        assert_eq!(options.config, PathBuf::from("/s/openclaw.json"));
        assert_eq!(read(&[], &[("HOME", "/h")]).unwrap().config, PathBuf::from("/h/.openclaw/openclaw.json"));
    }

    #[test]
    fn a_wrong_value_is_named() {
        assert_eq!(read(&["--port", "x"], &[]).unwrap_err(), "--port: \"x\" is not a number that fits");
        assert_eq!(read(&["--lock"], &[]).unwrap_err(), "--lock needs a value");
        assert!(read(&[], &[("FAKE_ON_START", "dance")]).unwrap_err().starts_with("FAKE_ON_START: "));
    }
}
