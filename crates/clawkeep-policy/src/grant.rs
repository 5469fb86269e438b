use std::net::IpAddr;
use std::sync::Arc;

use serde::Serialize;

use crate::address::{Class, Never, class, covered};
use crate::denial::{Denial, Reason, RuleName};
use crate::matcher::{Matcher, Rule};
use crate::model::{Enforcement, Inspection, Selector};
use crate::request_path::RequestPath;
use crate::requests::{self, Asked};

/// What one connection may do: the rules in play for it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Grant(Arc<InPlay>);

#[derive(Debug)]
struct InPlay {
    matcher: Matcher,
    /// Never empty, in the order of the file.
    rules: Vec<usize>,
}

/// How a granted connection is carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Handling {
    /// Untouched, once the name in its TLS greeting is that of the target.
    Passthrough,
    /// Each request is decided on.
    Inspect,
}

/// Where a granted connection goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    /// To what the name resolves to. Every address has to pass [`Grant::addresses`].
    Resolve,
    /// To this host's own loopback. Nothing is resolved.
    HostLoopback,
}

/// A request that goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permit {
    /// The rule that allows it.
    pub rule: RuleName,
    /// What it would have been refused for, if the rules in play did not all say `enforcement: audit`.
    pub audit: Option<Denial>,
}

/// Whether any policy at all could open an address.
pub(crate) fn reachable(ip: IpAddr) -> Result<(), Reason> {
    match class(ip) {
        Class::Public | Class::Internal => Ok(()),
        Class::Never(Never::Metadata) => Err(Reason::MetadataAddress),
        Class::Never(Never::Special) => Err(Reason::SpecialAddress),
    }
}

impl Grant {
    pub(crate) fn new(matcher: Matcher, rules: Vec<usize>) -> Self {
        Self(Arc::new(InPlay { matcher, rules }))
    }

    fn rules(&self) -> impl Iterator<Item = &Rule> {
        self.0.rules.iter().map(|at| self.0.matcher.rule(*at))
    }

    fn inspections(&self) -> impl Iterator<Item = (&Rule, &Inspection)> {
        self.rules().filter_map(|rule| rule.endpoint.inspection.as_ref().map(|inspection| (rule, inspection)))
    }

    /// The rule that a log names: the first that inspects, else the first.
    pub fn rule(&self) -> RuleName {
        let inspecting = self.inspections().map(|(rule, _)| rule).next();
        let first = inspecting.or_else(|| self.rules().next());
        first.map(|rule| rule.name.clone()).expect("a grant has a rule")
    }

    /// Inspected as soon as one rule in play inspects: the stricter one wins, and one that would pass everything
    /// through adds nothing.
    pub fn handling(&self) -> Handling {
        if self.inspections().next().is_some() { Handling::Inspect } else { Handling::Passthrough }
    }

    /// Where the connection goes.
    pub fn destination(&self) -> Destination {
        if self.rules().any(|rule| rule.endpoint.host.is_this_host()) {
            Destination::HostLoopback
        } else {
            Destination::Resolve
        }
    }

    /// Whether this one address may be dialed. Asked after resolving, and what is dialed are the very addresses
    /// that were asked about.
    ///
    /// Every rule in play has to agree: with `allowed_ips` an address within, without them a public one. So no
    /// rule lends its addresses to another's requests.
    ///
    /// # Errors
    /// A [`Denial`] of the address. What no policy opens stays shut whatever `allowed_ips` lists.
    pub fn address(&self, ip: IpAddr) -> Result<(), Denial> {
        if self.destination() == Destination::HostLoopback {
            let own = ip.to_canonical().is_loopback();
            return if own { Ok(()) } else { Err(Denial::new(Reason::UnlistedAddress, Some(&self.rule()))) };
        }
        reachable(ip).map_err(|reason| Denial::new(reason, Some(&self.rule())))?;
        for rule in self.rules() {
            let listed = &rule.endpoint.allowed_ips;
            let reason = match (listed.is_empty(), class(ip)) {
                (true, Class::Public) => continue,
                (true, _) => Reason::InternalAddress,
                (false, _) if covered(ip, listed) => continue,
                (false, _) => Reason::UnlistedAddress,
            };
            return Err(Denial::new(reason, Some(&rule.name)));
        }
        Ok(())
    }

    /// Whether everything that a name resolves to may be dialed. One address that may not refuses all of them:
    /// an answer that mixes public and internal ones is no accident.
    ///
    /// # Errors
    /// The [`Denial`] of the first address that is refused.
    pub fn addresses(&self, ips: &[IpAddr]) -> Result<(), Denial> {
        ips.iter().try_for_each(|ip| self.address(*ip))
    }

    /// Decide about one request on an inspected connection. `upgrade`: whether it asks to leave HTTP. On a
    /// connection that is passed through, every request is allowed.
    ///
    /// # Errors
    /// A [`Denial`] of the request.
    pub fn request(&self, method: &str, path: &RequestPath, upgrade: bool) -> Result<Permit, Denial> {
        if self.handling() == Handling::Passthrough {
            return Ok(Permit { rule: self.rule(), audit: None });
        }
        if matches!(method.to_ascii_uppercase().as_str(), "TRACE" | "CONNECT") {
            return Err(Denial::new(Reason::Method, Some(&self.rule())));
        }
        let asked = Asked { method, query: path.query(), upgrade };
        let (mut rule, mut broken, mut audited) = (None, None, true);
        for reading in path.readings() {
            let candidates: Vec<(&Rule, &Inspection)> = self
                .inspections()
                .filter(|(_, own)| own.selector.as_ref().is_none_or(|selector| selector.covers(reading)))
                .collect();
            audited &= !candidates.is_empty()
                && candidates.iter().all(|(_, own)| own.enforcement == Enforcement::Audit);
            match judge(candidates, &asked, reading, path.has_encoded_slash()) {
                Ok(name) => rule = rule.or(Some(name)),
                // Not a matter of rules but of what can be told apart: `audit` does not let it pass.
                Err(denial) if denial.reason == Reason::EncodedSlash => return Err(denial),
                Err(denial) => broken = broken.or(Some(denial)),
            }
        }
        match broken {
            None => Ok(Permit { rule: rule.unwrap_or_else(|| self.rule()), audit: None }),
            Some(denial) => {
                let rule = denial.rule.clone().unwrap_or_else(|| self.rule());
                let denial = Denial { rule: Some(rule.clone()), ..denial };
                if audited { Ok(Permit { rule, audit: Some(denial) }) } else { Err(denial) }
            }
        }
    }
}

/// What the endpoints for one reading of a path say: the rule that allows it, or what stands against it.
fn judge(
    mut candidates: Vec<(&Rule, &Inspection)>,
    asked: &Asked<'_>,
    reading: &str,
    encoded_slash: bool,
) -> Result<RuleName, Denial> {
    if let Some((rule, _)) = candidates.iter().find(|(_, own)| requests::denies(own, asked, reading)) {
        return Err(Denial::new(Reason::DenyRule, Some(&rule.name)));
    }
    // Of endpoints that choose by path, the most specific one's rules allow.
    let specificity = |own: &Inspection| own.selector.as_ref().map_or(0, Selector::specificity);
    let most = candidates.iter().map(|(_, own)| specificity(own)).max();
    candidates.retain(|(_, own)| Some(specificity(own)) == most);
    let denied = |reason, candidates: &[(&Rule, &Inspection)]| {
        Err(Denial::new(reason, candidates.first().map(|(rule, _)| &rule.name)))
    };
    let all = candidates.clone();
    candidates.retain(|(rule, _)| !encoded_slash || rule.endpoint.allow_encoded_slash);
    if candidates.is_empty() && !all.is_empty() {
        return denied(Reason::EncodedSlash, &all);
    }
    let allowing =
        |asked: &Asked<'_>| candidates.iter().find(|(_, own)| requests::allows(own, asked, reading));
    match allowing(asked) {
        Some((rule, _)) => Ok(rule.name.clone()),
        None if asked.upgrade && allowing(&Asked { upgrade: false, ..*asked }).is_some() => {
            denied(Reason::Upgrade, &all)
        }
        None => denied(Reason::Request, &all),
    }
}
