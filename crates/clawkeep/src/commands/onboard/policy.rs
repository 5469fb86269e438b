//! `--policy FILE --tier balanced --preset npm --allow HOST:PORT`, checked before anything is made.

use clawkeep_daemon::api::policy::PolicyChoice;
use clawkeep_policy::{Policy, Target, preset, presets, tier, tiers};

use super::options::Options;
use crate::commands::policy::read;
use crate::env::Env;
use crate::problem::Problem;

/// What may leave the new sandbox, and what is to be said about its file.
///
/// # Errors
/// What is no policy, preset, tier or host.
pub fn resolve(options: &Options, env: &Env) -> Result<(PolicyChoice, Vec<Problem>), Problem> {
    let mut named = options.preset.clone();
    if let Some(text) = env.text("POLICY_PRESETS")?
        && named.is_empty()
    {
        named = text.split([',', ' ']).map(str::to_owned).filter(|name| !name.is_empty()).collect();
    }
    let tier_name = match &options.tier {
        Some(name) => Some(name.clone()),
        None => env.text("POLICY_TIER")?,
    };
    if let Some(unknown) = named.iter().find(|name| preset(name).is_none()) {
        let known = presets().iter().map(|preset| preset.name.as_str()).collect::<Vec<_>>().join(", ");
        let message = format!("{unknown:?} is no preset; there is {known}");
        return Err(Problem::usage("no-such-preset", message, "clawkeep policy list"));
    }
    if let Some(unknown) = tier_name.as_ref().filter(|name| tier(name).is_none()) {
        let known = tiers().iter().map(|tier| tier.name).collect::<Vec<_>>().join(", ");
        let message = format!("{unknown:?} is no tier; there is {known}");
        return Err(Problem::usage("no-such-tier", message, "clawkeep onboard --help"));
    }
    for host in &options.allow {
        Target::parse(host.as_bytes(), None).map_err(|error| {
            let message = format!("--allow {host:?} is no HOST:PORT: {error}");
            Problem::usage("bad-argument", message, "clawkeep onboard --help")
        })?;
    }
    let mut notes = Vec::new();
    let file = options.policy.as_ref().map(|path| -> Result<String, Problem> {
        let path = path.to_string_lossy();
        let yaml = read(&path)?;
        let reading = Policy::read(&yaml)
            .map_err(|error| Problem::usage(error.code, format!("{path}: {error}"), &error.next))?;
        notes = reading
            .notes
            .iter()
            .map(|note| Problem::usage(note.code, format!("{path}: {note}"), "clawkeep policy get"))
            .collect();
        Ok(yaml)
    });
    let file = file.transpose()?;
    let choice = PolicyChoice { file, tier: tier_name, presets: named, allow: options.allow.clone() };
    Ok((choice, notes))
}
