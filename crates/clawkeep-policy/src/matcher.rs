use std::collections::HashMap;
use std::sync::Arc;

use crate::denial::{Denial, Reason, RuleName};
use crate::glob::Glob;
use crate::grant::Grant;
use crate::model::{Endpoint, Enforcement, Inspection, Policy, Selector};
use crate::target::Target;

/// A policy, ready to decide. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Matcher(Arc<Compiled>);

/// Who is asking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller<'a> {
    /// Nobody can tell.
    Unknown,
    /// The program that owns the connecting socket, by the real path that the kernel reports.
    Executable(&'a str),
}

#[derive(Debug)]
pub(crate) struct Compiled {
    rules: Vec<Rule>,
    /// By a host's one name, which rules name it.
    exact: HashMap<String, Vec<usize>>,
    wildcards: Vec<usize>,
}

/// One endpoint with the programs of its rule.
#[derive(Debug)]
pub(crate) struct Rule {
    pub(crate) name: RuleName,
    pub(crate) endpoint: Endpoint,
    programs: Programs,
}

#[derive(Debug)]
enum Programs {
    /// `/**`: whoever asks.
    Any,
    Named(Vec<Glob>),
}

impl Programs {
    fn of(binaries: &[Glob]) -> Self {
        if binaries.iter().any(|glob| glob.as_str() == "/**") {
            return Self::Any;
        }
        Self::Named(binaries.to_vec())
    }

    fn include(&self, caller: Caller<'_>) -> bool {
        match (self, caller) {
            (Self::Any, _) => true,
            (Self::Named(_), Caller::Unknown) => false,
            (Self::Named(globs), Caller::Executable(path)) => globs.iter().any(|glob| glob.matches(path)),
        }
    }
}

impl Rule {
    pub(crate) fn includes(&self, caller: Caller<'_>) -> bool {
        self.programs.include(caller)
    }

    /// Its programs, for people.
    pub(crate) fn programs(&self) -> String {
        match &self.programs {
            Programs::Any => "any program".to_owned(),
            Programs::Named(globs) => globs.iter().map(Glob::as_str).collect::<Vec<_>>().join(", "),
        }
    }
}

impl Matcher {
    /// Compile a policy.
    pub fn new(policy: &Policy) -> Self {
        let mut compiled = Compiled { rules: Vec::new(), exact: HashMap::new(), wildcards: Vec::new() };
        for network in &policy.network {
            for (index, endpoint) in network.endpoints.iter().enumerate() {
                let at = compiled.rules.len();
                match endpoint.host.exact() {
                    Some(host) => compiled.exact.entry(host.to_owned()).or_default().push(at),
                    None => compiled.wildcards.push(at),
                }
                compiled.rules.push(Rule {
                    name: RuleName::new(&network.key, index),
                    endpoint: endpoint.clone(),
                    programs: Programs::of(&network.binaries),
                });
            }
        }
        Self(Arc::new(compiled))
    }

    /// The policy that allows nothing.
    pub fn nothing() -> Self {
        Self::new(&Policy::default())
    }

    /// The rules that name a host, in the order of the file.
    pub(crate) fn naming(&self, host: &str) -> Vec<usize> {
        let mut naming = self.0.exact.get(host).cloned().unwrap_or_default();
        naming.extend(self.0.wildcards.iter().filter(|at| self.rule(**at).endpoint.host.covers(host)));
        naming.sort_unstable();
        naming
    }

    pub(crate) fn rule(&self, at: usize) -> &Rule {
        &self.0.rules[at]
    }

    fn names_port(&self, at: usize, port: u16) -> bool {
        self.rule(at).endpoint.ports.contains(&port)
    }

    /// Whether some rule for this target names programs, so that it has to be known which one asks.
    pub fn needs_caller(&self, target: &Target) -> bool {
        self.naming(target.host()).into_iter().any(|at| {
            self.names_port(at, target.port()) && matches!(self.rule(at).programs, Programs::Named(_))
        })
    }

    fn inspections(&self, target: &Target) -> impl Iterator<Item = &Inspection> {
        let at_port = self.naming(target.host()).into_iter().filter(|at| self.names_port(*at, target.port()));
        at_port.filter_map(|at| self.rule(at).endpoint.inspection.as_ref())
    }

    /// The paths by which rules for this target choose, the least specific first.
    pub(crate) fn selectors(&self, target: &Target) -> Vec<Selector> {
        let mut selectors: Vec<Selector> =
            self.inspections(target).filter_map(|own| own.selector.clone()).collect();
        selectors.sort_by_key(Selector::specificity);
        selectors
    }

    /// Whether some rule for this target only writes down what breaks it.
    pub(crate) fn audits(&self, target: &Target) -> bool {
        self.inspections(target).any(|own| own.enforcement == Enforcement::Audit)
    }

    /// Whether some rule names this host: what a resolver inside a sandbox may answer at all.
    pub fn resolves(&self, name: &str) -> bool {
        self.named(name).is_some()
    }

    /// Decide about a connection, before anything is resolved or dialed.
    ///
    /// Every endpoint that covers host, port and program is in play. Who cannot be told gets nowhere where a rule
    /// names programs: it might be one that another rule holds back.
    ///
    /// # Errors
    /// A [`Denial`] of the connection.
    pub fn connect(&self, target: &Target, caller: Caller<'_>) -> Result<Grant, Denial> {
        let address = target.address();
        if target.is_address() {
            let ip = address.ok_or(Denial::new(Reason::OddAddress, None))?;
            crate::grant::reachable(ip).map_err(|reason| Denial::new(reason, None))?;
        }
        let naming = self.naming(target.host());
        let denied = |reason, at: &[usize]| Denial::new(reason, at.first().map(|at| &self.rule(*at).name));
        if naming.is_empty() {
            return Err(denied(Reason::Host, &[]));
        }
        let mut in_play: Vec<usize> =
            naming.iter().copied().filter(|at| self.names_port(*at, target.port())).collect();
        if in_play.is_empty() {
            return Err(denied(Reason::Port, &naming));
        }
        let at_port = in_play.clone();
        if caller == Caller::Unknown {
            in_play.retain(|at| matches!(self.rule(*at).programs, Programs::Named(_)));
            if !in_play.is_empty() {
                return Err(denied(Reason::CallerUnknown, &in_play));
            }
            in_play.clone_from(&at_port);
        }
        in_play.retain(|at| self.rule(*at).programs.include(caller));
        if in_play.is_empty() {
            return Err(denied(Reason::Binary, &at_port));
        }
        let grant = Grant::new(self.clone(), in_play);
        if let Some(ip) = address {
            grant.address(ip)?;
        }
        Ok(grant)
    }
}
