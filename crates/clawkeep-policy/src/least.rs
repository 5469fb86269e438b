//! What an operator says yes to: the least addition to a policy that allows what was refused.

use crate::denial::{Denial, Reason};
use crate::difference::Difference;
use crate::error::PolicyError;
use crate::glob::Glob;
use crate::host::HostPattern;
use crate::matcher::{Caller, Matcher};
use crate::model::{
    Access, Allow, Endpoint, Enforcement, Inspection, Method, NetworkRule, Policy, Protocol, RequestRule,
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
    /// The rule that is new. Without it the policy is what it was: [`Policy::remove_rule`].
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
    /// No policy can say it.
    #[error("{}: a policy cannot say it", .0.message)]
    Unsayable(PolicyError),
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
    use Reason::{Binary, EncodedSlash, Host, Port, Request, Upgrade};
    let denial = match (outcome(policy, refused), refused.reason) {
        (Err(denial), Host | Port | Binary | Request | EncodedSlash | Upgrade) => denial,
        (Ok(()), Host | Port | Binary | Request | EncodedSlash | Upgrade) => {
            return Err(NotApprovable::Allowed);
        }
        // Addresses, deny rules, forms of requests: said by the proxy, which knows more than a policy does.
        (now, reason) => {
            let same = now.err().filter(|denial| denial.reason == reason);
            return Err(NotApprovable::ByHand(same.unwrap_or(Denial::new(reason, None))));
        }
    };
    let by_hand = |denial: &Denial| NotApprovable::ByHand(denial.clone());
    let endpoint = endpoint(refused).ok_or_else(|| by_hand(&denial))?;
    let matcher = Matcher::new(policy);
    // A rule that enforces would end the audit of all beside it, one that audits would let more pass than this.
    if matcher.audits(refused.target) {
        return Err(by_hand(&denial));
    }
    let program = match (refused.caller, denial.reason) {
        // Where every rule so far is for anybody, one for a single program would shut out who cannot be told.
        (_, Request | EncodedSlash | Upgrade) if !matcher.needs_caller(refused.target) => "/**".to_owned(),
        (Caller::Unknown, _) => "/**".to_owned(),
        (Caller::Executable(path), _) => Glob::escape(path),
    };
    let binaries = vec![Glob::parse(&program, b'/').map_err(|_| by_hand(&denial))?];
    let added = |endpoint: Endpoint| {
        let (rule, new) = with_endpoint(policy, refused.target, endpoint, binaries.clone());
        let text = new.to_yaml();
        // What cannot be read again would be lost with the next start.
        let read = Policy::read(&text).map_err(NotApprovable::Unsayable)?;
        if read.policy != new {
            return Err(by_hand(&denial));
        }
        outcome(&new, refused).map_err(NotApprovable::ByHand)?;
        Ok(Addition { rule, difference: Difference::between(&policy.to_yaml(), &text), policy: new })
    };
    let first = added(endpoint.clone());
    if refused.request.is_none() || !matches!(first, Err(NotApprovable::ByHand(_))) {
        return first;
    }
    // Where endpoints choose by path, one without a choice is never asked. It stands beside the one that was, with
    // the same choice: a narrower one of its own would take the path away from that.
    let beside = matcher.selectors(refused.target).into_iter().map(|selector| {
        let mut endpoint = endpoint.clone();
        if let Some(inspection) = &mut endpoint.inspection {
            inspection.selector = Some(selector);
        }
        added(endpoint)
    });
    beside.into_iter().find(Result::is_ok).unwrap_or(first)
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

/// The policy with the endpoint, in a rule of its own, so that one approval can be taken back without another.
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
    let taken = |key: &str| policy.network.iter().any(|rule| rule.key == key);
    let mut key = base.clone();
    let mut count = 1;
    while taken(&key) {
        count += 1;
        key = format!("{base}_{count}");
    }
    policy.network.push(NetworkRule { key: key.clone(), name: None, endpoints: vec![endpoint], binaries });
    (key, policy)
}
