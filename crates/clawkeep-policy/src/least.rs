//! What an operator says yes to: the least addition to a policy that allows what was refused.

use crate::denial::{Denial, Reason};
use crate::difference::Difference;
use crate::glob::Glob;
use crate::host::HostPattern;
use crate::matcher::{Caller, Matcher};
use crate::model::{
    Access, Allow, Endpoint, Enforcement, Inspection, Method, NetworkRule, Policy, Protocol, RequestRule,
    Selector,
};
use crate::request_path::RequestPath;
use crate::target::Target;

/// Something that was refused.
#[derive(Debug, Clone, Copy)]
pub struct Refused<'a> {
    /// Where to.
    pub target: &'a Target,
    /// Who asked.
    pub caller: Caller<'a>,
    /// What was asked, where it came to that.
    pub request: Option<RefusedRequest<'a>>,
    /// Why it was refused.
    pub reason: Reason,
}

/// A request that was refused.
#[derive(Debug, Clone, Copy)]
pub struct RefusedRequest<'a> {
    /// Its method.
    pub method: &'a str,
    /// Its target.
    pub path: &'a RequestPath,
    /// Whether it asked to leave HTTP.
    pub upgrade: bool,
}

/// An addition to a policy.
#[derive(Debug, Clone)]
pub struct Addition {
    /// The rule that is new, or has more in it.
    pub rule: String,
    /// The policy with the addition.
    pub policy: Policy,
    /// What changes, to be shown before it is said yes to.
    pub difference: Difference,
}

/// Why there is no addition.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotApprovable {
    /// The policy allows it by now.
    #[error("the policy allows this already")]
    Allowed,
    /// No rule may open it, or only one that is written by hand may.
    #[error("{0}: this is not approved with a command")]
    ByHand(Denial),
}

/// The ports at which requests can be expected that can be looked at.
const HTTP_PORTS: [u16; 2] = [80, 443];

/// The least rule that allows what was refused: this host and port, this program, this method and path.
///
/// Of a connection on whose requests nothing is known yet, at a port of HTTP, reading alone is allowed: what more
/// it asks for is then refused by name and can be approved by name. At other ports it is passed through.
///
/// # Errors
/// [`NotApprovable`] where an address, a deny rule or the form of the request is what stands against it.
pub fn least_rule(policy: &Policy, refused: &Refused<'_>) -> Result<Addition, NotApprovable> {
    let now = outcome(policy, refused);
    let by_hand = |reason| NotApprovable::ByHand(Denial::new(reason, None));
    match refused.reason {
        Reason::Host | Reason::Port | Reason::Binary => {}
        Reason::Request | Reason::EncodedSlash | Reason::Upgrade => {}
        reason => return Err(by_hand(reason)),
    }
    let Err(denial) = now else { return Err(NotApprovable::Allowed) };
    let endpoint = endpoint(refused).ok_or_else(|| by_hand(refused.reason))?;
    let program = match refused.caller {
        Caller::Unknown => "/**".to_owned(),
        Caller::Executable(path) => Glob::escape(path),
    };
    let binaries = vec![Glob::parse(&program, b'/').map_err(|_| by_hand(refused.reason))?];
    // Where endpoints choose by path, one without a choice might never be asked: then it chooses this very path.
    for chooses in [false, true] {
        let mut endpoint = endpoint.clone();
        if let (true, Some(inspection), Some(request)) = (chooses, &mut endpoint.inspection, refused.request)
        {
            inspection.selector = Selector::parse(&Glob::escape(request.path.path())).ok();
        }
        let (rule, new) = with_endpoint(policy, refused.target, endpoint, binaries.clone());
        let text = new.to_yaml();
        let reads = Policy::read(&text).is_ok_and(|reading| reading.policy == new);
        if reads && outcome(&new, refused).is_ok() {
            return Ok(Addition {
                rule,
                difference: Difference::between(&policy.to_yaml(), &text),
                policy: new,
            });
        }
    }
    Err(NotApprovable::ByHand(denial))
}

fn outcome(policy: &Policy, refused: &Refused<'_>) -> Result<(), Denial> {
    let grant = Matcher::new(policy).connect(refused.target, refused.caller)?;
    match refused.request {
        Some(RefusedRequest { method, path, upgrade }) => grant.request(method, path, upgrade).map(drop),
        None => Ok(()),
    }
}

fn endpoint(refused: &Refused<'_>) -> Option<Endpoint> {
    let allow = match refused.request {
        None => HTTP_PORTS.contains(&refused.target.port()).then_some(Allow::Access(Access::ReadOnly)),
        Some(request) => {
            let method = if request.upgrade { Method::Any } else { Method::One(request.method.to_owned()) };
            let rule = |reading: &str| {
                let path = Glob::parse(&Glob::escape(reading), b'/').ok()?;
                Some(RequestRule { method: method.clone(), path, query: Vec::new() })
            };
            Some(Allow::Rules(request.path.readings().map(rule).collect::<Option<_>>()?))
        }
    };
    let upgrade = refused.request.is_some_and(|request| request.upgrade);
    let inspection = allow.map(|allow| Inspection {
        protocol: if upgrade { Protocol::WebSocket } else { Protocol::Rest },
        enforcement: Enforcement::Enforce,
        selector: None,
        allow,
        deny: Vec::new(),
    });
    Some(Endpoint {
        host: HostPattern::parse(refused.target.host()).ok()?,
        ports: vec![refused.target.port()],
        allowed_ips: Vec::new(),
        tls_skip: false,
        allow_encoded_slash: refused.request.is_some_and(|request| request.path.has_encoded_slash()),
        inspection,
    })
}

/// The policy with the endpoint: in a rule that an earlier approval made, where it is the same but for its list
/// of requests, else in a new one.
fn with_endpoint(
    policy: &Policy,
    target: &Target,
    endpoint: Endpoint,
    binaries: Vec<Glob>,
) -> (String, Policy) {
    let word = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    let host: String = target.host().chars().map(word).take(80).collect();
    let base = format!("approved_{host}_{}", target.port());
    let mut policy = policy.clone();
    for rule in
        policy.network.iter_mut().filter(|rule| rule.key.starts_with(&base) && rule.binaries == binaries)
    {
        if let [own] = rule.endpoints.as_mut_slice()
            && extend(own, &endpoint)
        {
            return (rule.key.clone(), policy);
        }
    }
    let mut keys = std::iter::once(base.clone()).chain((2..).map(|count| format!("{base}_{count}")));
    let key = keys.find(|key| policy.network.iter().all(|rule| rule.key != *key)).unwrap_or(base);
    policy.network.push(NetworkRule { key: key.clone(), name: None, endpoints: vec![endpoint], binaries });
    (key, policy)
}

/// Add the requests of one endpoint to another that differs in nothing else.
fn extend(own: &mut Endpoint, other: &Endpoint) -> bool {
    let mut merged = own.clone();
    let (Some(mine), Some(theirs)) = (&mut merged.inspection, &other.inspection) else { return false };
    let (Allow::Rules(rules), Allow::Rules(more)) = (&mut mine.allow, &theirs.allow) else { return false };
    let before = std::mem::replace(rules, more.clone());
    if merged != *other {
        return false;
    }
    if let Some(Inspection { allow: Allow::Rules(rules), .. }) = &mut own.inspection {
        *rules = before;
        rules.extend(more.iter().cloned());
    }
    true
}
