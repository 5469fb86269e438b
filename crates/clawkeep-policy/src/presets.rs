use std::sync::LazyLock;

use crate::model::Policy;

/// A policy that comes with Clawkeep: one service and what an agent needs of it.
#[derive(Debug, Clone)]
pub struct Preset {
    /// What people add it by.
    pub name: String,
    /// One line about it.
    pub description: String,
    /// Its text.
    pub yaml: &'static str,
    /// What it says.
    pub policy: Policy,
}

/// Presets that belong together, as NemoClaw's users know them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tier {
    /// What people choose it by.
    pub name: &'static str,
    /// One line about it.
    pub description: &'static str,
    /// The names of its presets.
    pub presets: &'static [&'static str],
}

macro_rules! known {
    ($($name:literal),* $(,)?) => {
        /// In the order in which they are listed.
        const NAMES: &[&str] = &[$($name),*];
        const TEXTS: &[&str] = &[$(include_str!(concat!("../presets/", $name, ".yaml"))),*];
    };
}

known![
    "npm",
    "pypi",
    "crates",
    "apt",
    "brew",
    "github",
    "huggingface",
    "local-inference",
    "telegram",
    "discord",
    "slack",
    "whatsapp",
    "outlook",
    "jira",
    "brave",
    "duckduckgo",
    "weather",
];

const TIERS: &[Tier] = &[
    Tier { name: "restricted", description: "the model route, and nothing else", presets: &[] },
    Tier {
        name: "balanced",
        description: "packages and models; no messengers",
        presets: &["npm", "pypi", "crates", "huggingface", "brew"],
    },
    Tier { name: "open", description: "every preset: messengers, mail and search too", presets: NAMES },
];

static PRESETS: LazyLock<Vec<Preset>> = LazyLock::new(|| {
    let read = |yaml: &&'static str| {
        let policy = Policy::read(yaml).expect("the presets of this crate are policies").policy;
        let head = policy.preset.clone().expect("the presets of this crate have a head");
        Preset { name: head.name, description: head.description, yaml, policy }
    };
    TEXTS.iter().map(read).collect()
});

/// All presets.
pub fn presets() -> &'static [Preset] {
    &PRESETS
}

/// The preset of that name.
pub fn preset(name: &str) -> Option<&'static Preset> {
    presets().iter().find(|preset| preset.name == name)
}

/// All tiers, from the narrowest.
pub fn tiers() -> &'static [Tier] {
    TIERS
}

/// The tier of that name.
pub fn tier(name: &str) -> Option<&'static Tier> {
    TIERS.iter().find(|tier| tier.name == name)
}

/// A rule of that name is there already, and says something else.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the policy has a rule `{rule}` of its own that says something else")]
pub struct RuleExists {
    /// The rule's name.
    pub rule: String,
}

impl Policy {
    /// Add the network rules of another policy, such as a preset. Whether that changed anything.
    ///
    /// # Errors
    /// [`RuleExists`]; nothing is changed then.
    pub fn add(&mut self, other: &Self) -> Result<bool, RuleExists> {
        let mut new = Vec::new();
        for rule in &other.network {
            match self.network.iter().find(|own| own.key == rule.key) {
                Some(own) if own == rule => {}
                Some(_) => return Err(RuleExists { rule: rule.key.clone() }),
                None => new.push(rule.clone()),
            }
        }
        let changes = !new.is_empty();
        self.network.extend(new);
        Ok(changes)
    }

    /// Take the network rules of another policy out again, by name. Whether that changed anything.
    pub fn remove(&mut self, other: &Self) -> bool {
        let before = self.network.len();
        self.network.retain(|own| !other.network.iter().any(|rule| rule.key == own.key));
        self.network.len() != before
    }

    /// Take one network rule out. Whether it was there.
    pub fn remove_rule(&mut self, name: &str) -> bool {
        let before = self.network.len();
        self.network.retain(|own| own.key != name);
        self.network.len() != before
    }

    /// Whether it has every network rule of another policy, as it is there.
    pub fn includes(&self, other: &Self) -> bool {
        other.network.iter().all(|rule| self.network.contains(rule))
    }

    /// The names of its network rules.
    pub fn rule_names(&self) -> impl Iterator<Item = &str> {
        self.network.iter().map(|rule| rule.key.as_str())
    }
}
