use std::fmt;

use crate::{Digest, LaunchPlan, Tier};

/// One input of a plan, as the inspector is asked about it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum InputId {
    /// A packaged guard, by name: its bytes on the read-only mount.
    Guard(String),
    /// A pinned file, by its path inside: its bytes.
    File(String),
    /// A published file in `/tmp`, by name: bytes, type, owner and mode.
    Published(String),
    /// A listener on the sandbox's loopback, by port: held and served.
    Listener(u16),
    /// The sandbox's mounts: all that were specified, and no other. Every plan has it whose sandbox has mounts of
    /// its own.
    Mounts,
}

impl fmt::Display for InputId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Guard(name) => write!(f, "guard {name}"),
            Self::File(path) => write!(f, "file {path}"),
            Self::Published(name) => write!(f, "published file /tmp/{name}"),
            Self::Listener(port) => write!(f, "listener on port {port}"),
            Self::Mounts => write!(f, "mounts"),
        }
    }
}

/// What an inspector found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact {
    /// A regular file of the right type, owner and mode, with these bytes.
    Bytes(Digest),
    /// The thing is there and serves.
    Present,
    /// It is not there.
    Missing,
    /// It is there and not as it must be, or it could not be looked at: why, for a person.
    Unfit(String),
}

/// Looks at the real world for [`LaunchPlan::verify`].
pub trait Inspect {
    /// What is the state of this input now? Look afresh each time.
    fn inspect(&mut self, input: &InputId) -> Fact;
}

/// One input that is not as the plan says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    /// Which input.
    pub input: InputId,
    /// What is wrong with it, for a person.
    pub problem: String,
}

/// Why a plan may not be launched: every input that failed, not only the first.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("launch refused: {}", .mismatches.iter().map(|m| format!("{}: {}", m.input, m.problem)).collect::<Vec<_>>().join("; "))]
pub struct Refusal {
    /// The plan that was refused.
    pub plan: Digest,
    /// At least one.
    pub mismatches: Vec<Mismatch>,
}

/// A plan every input of which was looked at and found right. It is the only thing that can be launched, it
/// is made by [`LaunchPlan::verify`] alone, and it serves one launch: it cannot be cloned, and launching
/// consumes it, so the next launch verifies again.
///
/// The compiler holds this. A plan that was verified can be used:
/// ```
/// fn launch(plan: clawkeep_plan::VerifiedPlan) -> clawkeep_plan::Digest {
///     plan.digest()
/// }
/// ```
/// It cannot be written down by hand:
/// ```compile_fail,E0451
/// fn forge(plan: clawkeep_plan::LaunchPlan) -> clawkeep_plan::VerifiedPlan {
///     let digest = plan.digest();
///     clawkeep_plan::VerifiedPlan { plan, digest }
/// }
/// ```
/// It serves one launch only:
/// ```compile_fail,E0382
/// fn launch(_: clawkeep_plan::VerifiedPlan) {}
/// fn twice(plan: clawkeep_plan::VerifiedPlan) {
///     launch(plan);
///     launch(plan);
/// }
/// ```
/// ```compile_fail,E0277
/// fn needs_clone<T: Clone>() {}
/// needs_clone::<clawkeep_plan::VerifiedPlan>();
/// ```
/// And it cannot be read from a disk:
/// ```compile_fail,E0277
/// fn needs_loading<T: serde::de::DeserializeOwned>() {}
/// needs_loading::<clawkeep_plan::VerifiedPlan>();
/// ```
#[derive(Debug)]
pub struct VerifiedPlan {
    plan: LaunchPlan,
    digest: Digest,
}

impl LaunchPlan {
    /// Every input, in the order in which it is verified.
    pub fn inputs(&self) -> Vec<InputId> {
        let guards = self.guards.iter().map(|g| InputId::Guard(g.name.clone()));
        let files = self.files.iter().map(|f| InputId::File(f.path.clone()));
        let published = self.published.iter().map(|p| InputId::Published(p.name.clone()));
        let listeners = self.listeners.iter().map(|port| InputId::Listener(*port));
        let mounts = (self.sealing.tier == Tier::Namespaces).then_some(InputId::Mounts);
        guards.chain(files).chain(published).chain(listeners).chain(mounts).collect()
    }

    /// Ask the inspector about every input, and give the launchable form only if all are right.
    ///
    /// # Errors
    /// [`Refusal`] with everything that is wrong.
    pub fn verify(self, inspector: &mut impl Inspect) -> Result<VerifiedPlan, Refusal> {
        let mut mismatches = Vec::new();
        for input in self.inputs() {
            let problem = match (self.expected(&input), inspector.inspect(&input)) {
                (Some(want), Fact::Bytes(have)) if have == want => continue,
                (None, Fact::Present) => continue,
                (Some(want), Fact::Bytes(have)) => {
                    format!("altered (has digest {}, needs {})", have.short(), want.short())
                }
                (_, Fact::Missing) => "missing".to_owned(),
                (_, Fact::Unfit(why)) => why,
                (Some(_), Fact::Present) => "its bytes were not looked at".to_owned(),
                (None, Fact::Bytes(_)) => "is a file where none is needed".to_owned(),
            };
            mismatches.push(Mismatch { input, problem });
        }
        let digest = self.digest();
        if mismatches.is_empty() {
            Ok(VerifiedPlan { plan: self, digest })
        } else {
            Err(Refusal { plan: digest, mismatches })
        }
    }

    fn expected(&self, input: &InputId) -> Option<Digest> {
        match input {
            InputId::Guard(name) => self.guards.iter().find(|g| g.name == *name).map(|g| g.digest),
            InputId::File(path) => self.files.iter().find(|f| f.path == *path).map(|f| f.digest),
            InputId::Published(name) => self.published.iter().find(|p| p.name == *name).map(|p| p.digest),
            InputId::Listener(_) | InputId::Mounts => None,
        }
    }
}

impl VerifiedPlan {
    /// The plan that was verified.
    pub fn plan(&self) -> &LaunchPlan {
        &self.plan
    }

    /// Its digest, computed when it was verified.
    pub fn digest(&self) -> Digest {
        self.digest
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::{BTreeMap, HashMap};

    use proptest::prelude::*;

    use super::*;
    use crate::{Agent, GuardInput, NetlinkRule, PinnedFile, PublishedFile, SCHEMA, Sealing};

    pub(crate) fn sample() -> LaunchPlan {
        LaunchPlan {
            schema: SCHEMA,
            sandbox: "box".parse().unwrap(),
            agent: Agent { name: "openclaw".into(), version: "1".into(), runtime: "node 24".into() },
            argv: vec!["/bin/true".into()],
            cwd: "/sandbox".into(),
            env: BTreeMap::from([("HOME".into(), "/sandbox".into())]),
            guards: vec![GuardInput {
                name: "net".into(),
                digest: Digest::of(b"guard"),
                critical: true,
                path: "/opt/clawkeep/guards/net.js".into(),
            }],
            files: vec![PinnedFile { path: "/bundle/node".into(), digest: Digest::of(b"node") }],
            published: vec![PublishedFile { name: "env.sh".into(), digest: Digest::of(b"env") }],
            listeners: vec![3128],
            sealing: Sealing { tier: Tier::Namespaces, netlink: NetlinkRule::RouteOnly, landlock_abi_min: 1 },
        }
    }

    struct World(HashMap<InputId, Fact>);

    impl Inspect for World {
        fn inspect(&mut self, input: &InputId) -> Fact {
            self.0.remove(input).unwrap_or(Fact::Missing)
        }
    }

    fn intact(plan: &LaunchPlan) -> World {
        World(
            plan.inputs()
                .into_iter()
                .map(|input| {
                    let fact = plan.expected(&input).map_or(Fact::Present, Fact::Bytes);
                    (input, fact)
                })
                .collect(),
        )
    }

    #[test]
    fn an_intact_world_verifies_and_names_the_same_plan() {
        let plan = sample();
        let verified = plan.clone().verify(&mut intact(&plan)).unwrap();
        assert_eq!(verified.plan(), &plan);
        assert_eq!(verified.digest(), plan.digest());
    }

    #[test]
    fn the_refusal_names_every_failed_input() {
        let plan = sample();
        let refusal = plan.clone().verify(&mut World(HashMap::new())).unwrap_err();
        assert_eq!(refusal.mismatches.len(), plan.inputs().len());
        assert_eq!(
            refusal.to_string(),
            "launch refused: guard net: missing; file /bundle/node: missing; \
             published file /tmp/env.sh: missing; listener on port 3128: missing; mounts: missing"
        );
    }

    proptest! {
        /// One wrong fact about any one input is enough for a refusal, whatever the fact is.
        #[test]
        fn any_single_wrong_fact_refuses(index in 0_usize..5, kind in 0_usize..4) {
            let plan = sample();
            let input = plan.inputs()[index].clone();
            let wrong = match (kind, plan.expected(&input)) {
                (0, _) => Fact::Missing,
                (1, _) => Fact::Unfit("is a symlink".into()),
                (2, _) => Fact::Bytes(Digest::of(b"hostile")),
                (_, Some(_)) => Fact::Present,
                (_, None) => Fact::Missing,
            };
            let mut world = intact(&plan);
            world.0.insert(input.clone(), wrong);
            let refusal = plan.verify(&mut world).unwrap_err();
            prop_assert_eq!(refusal.mismatches.len(), 1);
            prop_assert_eq!(&refusal.mismatches[0].input, &input);
        }
    }

    #[test]
    fn every_field_of_the_plan_changes_its_digest() {
        let base = sample();
        let mut seen = vec![base.digest()];
        let edits: [fn(&mut LaunchPlan); 10] = [
            |p| p.sandbox = "other".parse().unwrap(),
            |p| p.agent.version.push('x'),
            |p| p.argv.push("x".into()),
            |p| p.cwd.push('x'),
            |p| p.env.insert("A".into(), "b".into()).map_or((), drop),
            |p| p.guards[0].critical = false,
            |p| p.files[0].digest = Digest::of(b"x"),
            |p| p.published[0].name.push('x'),
            |p| p.sealing.netlink = NetlinkRule::Refused,
            |p| p.sealing.tier = Tier::Landlock,
        ];
        for edit in edits {
            let mut plan = base.clone();
            edit(&mut plan);
            assert!(!seen.contains(&plan.digest()));
            seen.push(plan.digest());
        }
    }
}
