use clawkeep_plan::{Digest, GuardInput, to_canonical_json};

/// Where the packaged guards are mounted, read-only, inside a sandbox.
pub const GUARDS_MOUNT: &str = "/opt/clawkeep/guards";

/// Set to `openclaw-gateway` for the process that is the gateway, so that no guard has to guess.
pub const PROCESS_ENV: &str = "CLAWKEEP_PROCESS";

/// Names the file descriptor of the receipt pipe to the guards. They take it out of the environment.
pub const RECEIPT_FD_ENV: &str = "CLAWKEEP_RECEIPT_FD";

/// Tells the guards how many of them load, so that the last one closes the receipt pipe.
pub const RECEIPT_GUARDS_ENV: &str = "CLAWKEEP_RECEIPT_GUARDS";

/// One embedded guard: a CommonJS preload for Node 20 and later that depends on nothing.
#[derive(Debug, PartialEq, Eq)]
pub struct Guard {
    /// Its name, without a suffix: `ciao-network-guard`.
    pub name: &'static str,
    /// Its bytes.
    pub source: &'static [u8],
    /// Whether a launch without it is refused.
    pub critical: bool,
}

/// A guard's file: the prelude that all share, then its own part.
macro_rules! embedded {
    ($name:literal, critical: $critical:literal) => {
        Guard {
            name: $name,
            source: concat!(include_str!("../js/prelude.js"), include_str!(concat!("../js/", $name, ".js")))
                .as_bytes(),
            critical: $critical,
        }
    };
}

// The safety net comes first, so that it is in force while the others load.
static GUARDS: [Guard; 5] = [
    embedded!("sandbox-safety-net", critical: true),
    embedded!("ciao-network-guard", critical: true),
    embedded!("http-proxy-fix", critical: false),
    embedded!("nemotron-inference-fix", critical: false),
    embedded!("private-tmp", critical: true),
];

/// Every embedded guard, in the order in which they load.
pub fn all() -> &'static [Guard] {
    &GUARDS
}

/// That which OpenClaw needs besides where it has no `/tmp` of its own but a directory that `TMPDIR` names. Loaded last.
pub fn private_tmp() -> &'static Guard {
    &GUARDS[4]
}

/// The oldest major version of Node that the guards are tested on.
const OLDEST_NODE: u32 = 20;

/// The guards for an agent on this major version of Node that talks to this model, in loading order.
///
/// `http-proxy-fix` goes to every Node that it is tested on: none of them (20, 22, 24, with or without
/// `NODE_USE_ENV_PROXY`) turns the absolute-form request of axios 1.15 for an https URL into CONNECT.
/// `nemotron-inference-fix` is for the models of that name alone.
pub fn select(node_major: u32, model: Option<&str>) -> Vec<&'static Guard> {
    let nemotron = model.is_some_and(|model| model.to_ascii_lowercase().contains("nemotron"));
    all()
        .iter()
        .filter(|guard| match guard.name {
            "http-proxy-fix" => node_major >= OLDEST_NODE,
            "nemotron-inference-fix" => nemotron,
            "private-tmp" => false,
            _ => true,
        })
        .collect()
}

/// Names the whole set: any other byte in any guard is another set.
pub(crate) fn set_digest() -> Digest {
    let set: Vec<_> = all().iter().map(|guard| (guard.name, guard.digest())).collect();
    Digest::of(to_canonical_json(&set).as_bytes())
}

impl Guard {
    /// The digest of its bytes.
    pub fn digest(&self) -> Digest {
        Digest::of(self.source)
    }

    /// Its place in a launch plan: the copy on the read-only mount.
    pub fn input(&self) -> GuardInput {
        GuardInput {
            name: self.name.to_owned(),
            digest: self.digest(),
            critical: self.critical,
            path: format!("{GUARDS_MOUNT}/{}", self.file_name()),
        }
    }

    /// Its file name in the package.
    pub fn file_name(&self) -> String {
        format!("{}.js", self.name)
    }

    /// Its file name in a sandbox's `/tmp`.
    pub fn published_name(&self) -> String {
        format!("nemoclaw-{}.js", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(guards: &[&Guard]) -> Vec<&'static str> {
        guards.iter().map(|guard| guard.name).collect()
    }

    #[test]
    fn what_applies_is_selected_in_a_stable_order() {
        let base = ["sandbox-safety-net", "ciao-network-guard", "http-proxy-fix"];
        for model in [None, Some("hermes3:8b"), Some("")] {
            assert_eq!(names(&select(22, model)), base);
        }
        let all = [base.as_slice(), &["nemotron-inference-fix"]].concat();
        assert_eq!(names(&select(24, Some("nvidia/Nemotron-3-super"))), all);
        assert_eq!(names(&select(18, None)), base[..2]);
        assert_eq!(private_tmp().name, "private-tmp");
    }

    #[test]
    fn a_guard_is_whole_and_knows_its_places() {
        for guard in all() {
            let text = std::str::from_utf8(guard.source).unwrap();
            assert!(text.starts_with("'use strict';"), "{}", guard.name);
            assert!(text.contains(&format!("guard('{}'", guard.name)), "{}", guard.name);
            assert!(guard.source.len() < 64 * 1024);
        }
        let input = all()[1].input();
        assert_eq!(input.path, "/opt/clawkeep/guards/ciao-network-guard.js");
        assert!(input.critical);
        assert_eq!(input.digest, Digest::of(all()[1].source));
        assert_eq!(all()[1].published_name(), "nemoclaw-ciao-network-guard.js");
    }
}
