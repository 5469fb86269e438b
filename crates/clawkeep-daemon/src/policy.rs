//! What may leave a sandbox, as it is kept: changed whole, or not at all.

use clawkeep_plan::{Digest, SandboxName};
use clawkeep_policy::{
    Difference, Matcher, NotApprovable, Note, Policy, PolicyError, least_rule, preset, presets, tier,
};
use clawkeep_store::{Entry, SandboxRecord, unix_ms};
use serde::{Deserialize, Serialize};

use crate::api::policy::{PolicyChange, PolicyChoice, PolicyReport, PolicySet, TimedApproval};
use crate::api::{EgressStatus, Failure, Value};
use crate::create::to_value;
use crate::refused::{Asked, Refused};
use crate::server::{Daemon, store_failed};
use crate::status::rfc3339;

/// The longest that an approval for a time lasts: a year, in seconds.
const LONGEST: u64 = 366 * 24 * 3600;

/// The most approvals for a time at once.
const MOST_TIMED: usize = 128;

/// `policy` of a [`SandboxRecord`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Setting {
    /// The policy, as a file; without one nothing but the model's route leads out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    yaml: Option<String>,
    /// What is approved for a time, the oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    timed: Vec<Timed>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Timed {
    /// What was refused: the least rule for it is found again each time, whatever the policy has become.
    asked: Asked,
    /// Unix time, in milliseconds.
    until_ms: u64,
}

impl Setting {
    /// What the registry has.
    ///
    /// # Errors
    /// When that cannot be read.
    pub fn of(record: &SandboxRecord) -> Result<Self, Failure> {
        if record.policy.is_null() {
            return Ok(Self::default());
        }
        serde_json::from_value(record.policy.clone()).map_err(|error| {
            let next = format!("clawkeep {} policy set FILE", record.name);
            Failure::new(
                "registry-unreadable",
                format!("the registry's policy cannot be read: {error}"),
                next,
            )
        })
    }

    /// What a new sandbox is to have, and what is to be said about it.
    ///
    /// # Errors
    /// What is no policy, preset, tier or host.
    pub fn new(choice: &PolicyChoice) -> Result<(Self, Vec<Note>), Failure> {
        let next = "clawkeep onboard --help";
        let (mut policy, notes) = match &choice.file {
            Some(yaml) => read(yaml, next)?,
            None => (Policy::default(), vec![]),
        };
        let of_tier = choice.tier.as_deref().map(|name| tier_presets(name)).transpose()?.unwrap_or_default();
        for name in of_tier.iter().copied().chain(choice.presets.iter().map(String::as_str)) {
            add(&mut policy, &named(name)?, next)?;
        }
        for host in &choice.allow {
            add(&mut policy, &open(host, next)?, next)?;
        }
        let yaml = (policy != Policy::default()).then(|| policy.to_yaml());
        Ok((Self { yaml, timed: vec![] }, notes))
    }

    /// As the registry keeps it.
    pub fn to_value(&self) -> serde_json::Value {
        match *self == Self::default() {
            true => serde_json::Value::Null,
            false => to_value(self),
        }
    }

    /// The policy without what is approved for a time.
    fn lasting(&self) -> Result<Policy, Failure> {
        let Some(yaml) = &self.yaml else { return Ok(Policy::default()) };
        // It was valid when it was put in force; a later version may be stricter.
        Ok(read(yaml, "clawkeep NAME policy set FILE")?.0)
    }

    /// The policy at this time.
    ///
    /// # Errors
    /// When what is kept is no policy for this version.
    pub fn at(&self, now_ms: u64) -> Result<Policy, Failure> {
        let mut policy = self.lasting()?;
        for timed in self.timed.iter().filter(|timed| timed.until_ms > now_ms) {
            // What no rule can open, or the policy by now allows, adds nothing.
            if let Some(Ok(addition)) = timed.asked.with(|refused| least_rule(&policy, refused)) {
                policy = addition.policy;
            }
        }
        Ok(policy)
    }

    /// When the next approval ends.
    pub fn next_end(&self, now_ms: u64) -> Option<u64> {
        self.timed.iter().map(|timed| timed.until_ms).filter(|until| *until > now_ms).min()
    }

    fn approvals(&self, now_ms: u64) -> impl Iterator<Item = &Timed> {
        self.timed.iter().filter(move |timed| timed.until_ms > now_ms)
    }

    fn changed(
        &self,
        name: &SandboxName,
        change: &PolicyChange,
        refused: &Refused,
        now_ms: u64,
    ) -> Result<(Self, Vec<Note>), Failure> {
        let list = format!("clawkeep {name} policy list");
        let mut timed: Vec<Timed> = self.approvals(now_ms).cloned().collect();
        let mut notes = vec![];
        let policy = match change {
            PolicyChange::File { yaml } => {
                let (policy, said) = read(yaml, &list)?;
                notes = said;
                policy
            }
            PolicyChange::Preset { name } => {
                let mut policy = self.lasting()?;
                add(&mut policy, &named(name)?, &list)?;
                policy
            }
            PolicyChange::Rules { yaml } => {
                let (rules, said) = read(yaml, &list)?;
                notes = said;
                let mut policy = self.lasting()?;
                add(&mut policy, &rules, &list)?;
                policy
            }
            PolicyChange::Remove { name: part } => {
                let mut policy = self.lasting()?;
                let kept = timed.len();
                timed.retain(|timed| timed.asked.id() != *part);
                let of_preset = preset(part).is_some_and(|preset| policy.remove(&preset.policy));
                if !(timed.len() < kept || of_preset || policy.remove_rule(part)) {
                    let what = format!("{name} has no preset, rule or approval {part:?}");
                    return Err(Failure::new("no-such-rule", what, list));
                }
                policy
            }
            PolicyChange::Tier { name: tier } => {
                let wanted = tier_presets(tier)?;
                let mut policy = self.lasting()?;
                for preset in presets() {
                    // One that was altered is no preset any more, and stays.
                    if policy.includes(&preset.policy) {
                        policy.remove(&preset.policy);
                    }
                }
                for name in wanted {
                    add(&mut policy, &named(name)?, &list)?;
                }
                policy
            }
            PolicyChange::Approve { id, seconds } => {
                let requests = || format!("clawkeep {name} policy requests");
                let asked = refused.find(id).ok_or_else(|| {
                    Failure::new("no-such-request", format!("no refused request is named {id:?}"), requests())
                })?;
                let policy = self.lasting()?;
                let Some(addition) = asked.with(|refused| least_rule(&policy, refused)) else {
                    let what = format!("{}: no policy decides about this", asked.what());
                    return Err(Failure::new("not-approvable", what, requests()));
                };
                let addition = addition.map_err(|why| {
                    let code = match why {
                        NotApprovable::Allowed => "already-allowed",
                        NotApprovable::ByHand(_) | NotApprovable::Unsayable(_) => "not-approvable",
                    };
                    let next = format!("clawkeep {name} policy get, change it, then policy set FILE");
                    Failure::new(code, format!("{}: {why}", asked.what()), next)
                })?;
                match seconds {
                    None => addition.policy,
                    Some(seconds) if (1..=LONGEST).contains(seconds) && timed.len() < MOST_TIMED => {
                        timed.retain(|timed| timed.asked.id() != *id);
                        timed.push(Timed { asked, until_ms: now_ms + seconds * 1000 });
                        policy
                    }
                    Some(_) => {
                        let what = format!(
                            "an approval lasts a second to {LONGEST}, and there are {MOST_TIMED} at most"
                        );
                        return Err(Failure::new(
                            "bad-argument",
                            what,
                            format!("clawkeep {name} policy approve {id}"),
                        ));
                    }
                }
            }
        };
        let yaml = (policy != Policy::default()).then(|| policy.to_yaml());
        Ok((Self { yaml, timed }, notes))
    }

    /// The same in short; `digest` is that of the policy at this time.
    pub fn brief(&self, now_ms: u64, digest: Digest) -> EgressStatus {
        let (presets, rules) = parts(&self.lasting().unwrap_or_default());
        let approvals = self.approvals(now_ms).count();
        let policy = Some(digest);
        EgressStatus { presets, rules: rules.len(), approvals, policy, ..EgressStatus::default() }
    }

    /// What is told about it.
    pub fn report(&self, name: &SandboxName, now_ms: u64) -> Result<PolicyReport, Failure> {
        let lasting = self.lasting()?;
        let policy = self.at(now_ms)?;
        let yaml = policy.to_yaml();
        let (presets, rules) = parts(&lasting);
        let approvals = self.approvals(now_ms).map(|Timed { asked, until_ms }| TimedApproval {
            id: asked.id(),
            what: asked.what(),
            until: rfc3339(*until_ms),
        });
        Ok(PolicyReport {
            schema: 1,
            name: name.to_string(),
            presets,
            rules,
            approvals: approvals.collect(),
            digest: Digest::of(yaml.as_bytes()),
            yaml,
        })
    }
}

/// The built-in presets that are whole in a policy, and the names of its other rules.
fn parts(policy: &Policy) -> (Vec<String>, Vec<String>) {
    let of_presets: Vec<_> = presets().iter().filter(|preset| policy.includes(&preset.policy)).collect();
    let is_of_one =
        |rule: &str| of_presets.iter().any(|preset| preset.policy.rule_names().any(|own| own == rule));
    let rules = policy.rule_names().filter(|rule| !is_of_one(rule)).map(str::to_owned).collect();
    (of_presets.iter().map(|preset| preset.name.clone()).collect(), rules)
}

/// Change it. On a failure everything is as it was.
pub async fn set(
    daemon: &Daemon,
    name: &SandboxName,
    change: PolicyChange,
    dry_run: bool,
) -> Result<Value, Failure> {
    // Two changes at once must not lose one of them.
    let _one = daemon.creating.lock().await;
    let record = daemon.record(name)?;
    let running = daemon.running(name)?;
    let now_ms = unix_ms();
    let old = match (Setting::of(&record), &change) {
        (Ok(old), _) => old,
        // What cannot be read can be replaced.
        (Err(_), PolicyChange::File { .. }) => Setting::default(),
        (Err(why), _) => return Err(why),
    };
    let (new, notes) = old.changed(name, &change, &running.policy.refused, now_ms)?;
    let report = new.report(name, now_ms)?;
    let before = old.at(now_ms).unwrap_or_default().to_yaml();
    let set = PolicySet {
        difference: Difference::between(&before, &report.yaml).to_string(),
        notes: notes.iter().map(Note::to_string).collect(),
        report,
    };
    if dry_run || new == old {
        return Ok(Value::PolicySet(Box::new(set)));
    }
    daemon.store.update(name, |record| record.policy = new.to_value()).map_err(store_failed)?;
    running.policy.put(new);
    daemon.journal.record(Entry {
        at_ms: now_ms,
        sandbox: Some(name.clone()),
        kind: "policy-set".into(),
        cause: describe(&change),
        data: serde_json::json!({ "digest": set.report.digest, "difference": set.difference }),
    });
    Ok(Value::PolicySet(Box::new(set)))
}

fn describe(change: &PolicyChange) -> String {
    match change {
        PolicyChange::File { .. } => "a file was put in force".to_owned(),
        PolicyChange::Preset { name } => format!("preset {name} was added"),
        PolicyChange::Rules { .. } => "the rules of a file were added".to_owned(),
        PolicyChange::Remove { name } => format!("{name} was removed"),
        PolicyChange::Tier { name } => format!("tier {name}"),
        PolicyChange::Approve { id, seconds: None } => format!("request {id} was approved"),
        PolicyChange::Approve { id, seconds: Some(seconds) } => {
            format!(
                "request {id} was approved for {}",
                humantime::format_duration(std::time::Duration::from_secs(*seconds))
            )
        }
    }
}

/// Whether a policy allows this by now.
pub fn allows(policy: &Policy, asked: &Asked) -> bool {
    let matcher = Matcher::new(policy);
    let allows = |refused: &clawkeep_policy::Refused<'_>| {
        matcher.connect(refused.target, refused.caller).is_ok_and(|grant| {
            refused
                .request
                .is_none_or(|request| grant.request(request.method, request.path, request.upgrade).is_ok())
        })
    };
    asked.with(allows).unwrap_or(false)
}

fn read(yaml: &str, next: &str) -> Result<(Policy, Vec<Note>), Failure> {
    let reading = Policy::read(yaml).map_err(|error: PolicyError| {
        let next = if error.next.is_empty() { next.to_owned() } else { error.next.clone() };
        Failure::new(error.code, error.to_string(), next)
    })?;
    Ok((reading.policy, reading.notes))
}

fn named(name: &str) -> Result<Policy, Failure> {
    preset(name).map(|preset| preset.policy.clone()).ok_or_else(|| {
        Failure::new(
            "no-such-preset",
            format!("there is no preset {name:?}"),
            "clawkeep policy list".to_owned(),
        )
    })
}

fn tier_presets(name: &str) -> Result<&'static [&'static str], Failure> {
    let names = || clawkeep_policy::tiers().iter().map(|tier| tier.name).collect::<Vec<_>>().join(", ");
    tier(name).map(|tier| tier.presets).ok_or_else(|| {
        let what = format!("{name:?} is no tier; there is {}", names());
        Failure::new("no-such-tier", what, "clawkeep policy list".to_owned())
    })
}

fn add(policy: &mut Policy, rules: &Policy, next: &str) -> Result<(), Failure> {
    policy
        .add(rules)
        .map(drop)
        .map_err(|error| Failure::new("rule-exists", error.to_string(), next.to_owned()))
}

/// A rule that opens one host and port to everything in the sandbox.
fn open(host: &str, next: &str) -> Result<Policy, Failure> {
    let bad = |why: String| {
        Failure::new("bad-argument", format!("{host:?} is no HOST:PORT: {why}"), next.to_owned())
    };
    let target =
        clawkeep_policy::Target::parse(host.as_bytes(), None).map_err(|error| bad(error.to_string()))?;
    let word = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    let key: String = format!("allow_{}_{}", target.host(), target.port()).chars().map(word).collect();
    let (host, port) = (target.host(), target.port());
    let yaml = format!(
        "version: 1\nnetwork_policies:\n  {key}:\n    endpoints:\n      - host: \"{host}\"\n        port: {port}\n        access: full\n    \
         binaries:\n      - path: \"/**\"\n"
    );
    Ok(read(&yaml, next)?.0)
}
