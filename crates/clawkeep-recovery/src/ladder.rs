use serde::{Deserialize, Serialize};

use crate::Settings;

/// What the evidence of a failure points at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Blame {
    /// Nothing known: the repair widens step by step.
    Unknown,
    /// Locks, ports, sockets: what an earlier run left.
    Runtime,
    /// The agent's configuration.
    Config,
    /// The agent's own files, or its version.
    Agent,
    /// The host: memory, disk, whoever killed the sandbox. Waited out, because no repair in the sandbox helps.
    Environment,
}

/// How far a repair goes. Each rung does what the ones before it do; the lowest that may help is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rung {
    /// Start it again, after what is certainly stale was cleared.
    #[default]
    Respawn,
    /// Clear all runtime state before.
    Clear,
    /// Make the whole sandbox anew.
    Renew,
    /// Put the last healthy configuration back.
    Config,
    /// Repair the agent's files, or put its last healthy version back.
    Agent,
    /// Start it without channels and plugins.
    Safe,
}

impl Rung {
    /// The word for it in every status.
    pub fn word(self) -> &'static str {
        match self {
            Self::Respawn => "respawn",
            Self::Clear => "clear",
            Self::Renew => "renew",
            Self::Config => "config",
            Self::Agent => "agent",
            Self::Safe => "safe",
        }
    }
}

/// What can be put back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Restore {
    /// The last healthy configuration.
    Config,
    /// The agent's files, or its last healthy version.
    Agent,
}

/// What a launch runs with that differs from the last healthy one, where there is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Unproven {
    /// Its configuration.
    pub config: bool,
    /// Its version.
    pub agent: bool,
}

/// Where the repair of one incident stands. An incident ends with sustained readiness, or with a person's order.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Ladder {
    /// The rung of the next start.
    pub rung: Rung,
    /// Failures at this rung that are not the host's.
    pub tries: u32,
    /// Those that are.
    #[serde(default)]
    pub host_tries: u32,
    /// What was put back in this incident, or found not to need it.
    pub restored: Vec<Restore>,
    /// Whether a sandbox made anew was launched in, with everything.
    #[serde(default)]
    pub renewed: bool,
}

impl Ladder {
    /// Take a failure in. Gives whether there is a rung left to try.
    pub(crate) fn fail(&mut self, blame: Blame, unproven: Unproven, settings: &Settings) -> bool {
        // Apart: a kill from outside is no evidence against what is new.
        let tries = if blame == Blame::Environment { &mut self.host_tries } else { &mut self.tries };
        *tries = tries.saturating_add(1);
        let tries = *tries;
        let pointed_at = match blame {
            Blame::Runtime => Rung::Clear,
            Blame::Config => Rung::Config,
            Blame::Agent => Rung::Agent,
            // Once may have been chance. The second time, what is new is suspected before what ran for months.
            Blame::Unknown if tries >= settings.tries && unproven.config => Rung::Config,
            Blame::Unknown if tries >= settings.tries && unproven.agent => Rung::Agent,
            Blame::Unknown | Blame::Environment => Rung::Respawn,
        };
        if pointed_at > self.rung {
            self.climb_to(pointed_at);
            return true;
        }
        let enough = match (blame, self.rung) {
            (Blame::Environment, _) => settings.host_tries,
            (_, Rung::Respawn | Rung::Safe) => settings.tries,
            _ => 1,
        };
        tries < enough || self.climb(settings)
    }

    /// The next rung. Gives whether there is one.
    pub(crate) fn climb(&mut self, settings: &Settings) -> bool {
        let next = match self.rung {
            Rung::Respawn => Rung::Clear,
            Rung::Clear => Rung::Renew,
            Rung::Renew => Rung::Config,
            Rung::Config if !self.restored.contains(&Restore::Agent) => Rung::Agent,
            // Evidence led past it, and was wrong.
            Rung::Agent if !self.restored.contains(&Restore::Config) => Rung::Config,
            Rung::Config | Rung::Agent if settings.safe_mode => Rung::Safe,
            Rung::Config | Rung::Agent | Rung::Safe => return false,
        };
        self.climb_to(next);
        true
    }

    /// Whether nothing could be put back, after evidence that led past the rungs which need nothing: those are
    /// tried before anything is taken from the agent.
    pub(crate) fn renews_first(&self) -> bool {
        !self.renewed && self.restored.len() > 1
    }

    fn climb_to(&mut self, rung: Rung) {
        self.rung = rung;
        self.tries = 0;
        self.host_tries = 0;
    }

    /// What has to be put back before the next start, and was not in this incident.
    pub(crate) fn wants(&self) -> Option<Restore> {
        let what = match self.rung {
            Rung::Config => Restore::Config,
            Rung::Agent => Restore::Agent,
            Rung::Respawn | Rung::Clear | Rung::Renew | Rung::Safe => return None,
        };
        (!self.restored.contains(&what)).then_some(what)
    }
}
