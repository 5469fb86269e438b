use std::fmt;

use serde::Serialize;

use crate::denial::{Denial, Reason, RuleName};
use crate::grant::{Destination, Handling};
use crate::matcher::{Caller, Matcher};
use crate::model::{Allow, Enforcement, Inspection};
use crate::request_path::RequestPath;
use crate::target::Target;

/// What a policy says to a question, and which rule says it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// `host:port`.
    pub target: String,
    /// The program that asks, where one was named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caller: Option<String>,
    /// `GET /path`, where one was named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// The answer.
    pub allowed: bool,
    /// Why not; for what only `enforcement: audit` lets pass, why it would not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub denial: Option<Denial>,
    /// The rule that decides.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<RuleName>,
    /// How the connection is carried.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handling: Option<Handling>,
    /// Whether it goes to this host's own loopback.
    pub host_loopback: bool,
    /// Every rule that names the host, in the order of the file.
    pub considered: Vec<Considered>,
}

/// A rule that names the host, and what it says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Considered {
    /// The rule.
    pub rule: RuleName,
    /// What it is for, one line.
    pub says: String,
    /// Whether it is for this port and this program.
    pub in_play: bool,
}

impl Matcher {
    /// What this policy says to a connection, or to a request on it: a method and a path.
    pub fn explain(
        &self,
        target: &Target,
        caller: Caller<'_>,
        request: Option<(&str, &RequestPath)>,
    ) -> Explanation {
        let considered = self.naming(target.host()).into_iter().map(|at| {
            let rule = self.rule(at);
            let in_play = rule.endpoint.ports.contains(&target.port()) && rule.includes(caller);
            Considered { rule: rule.name.clone(), says: rule.says(), in_play }
        });
        let mut explanation = Explanation {
            target: target.to_string(),
            caller: match caller {
                Caller::Unknown => None,
                Caller::Executable(path) => Some(path.to_owned()),
            },
            request: request.map(|(method, path)| format!("{method} {path}")),
            allowed: false,
            denial: None,
            rule: None,
            handling: None,
            host_loopback: false,
            considered: considered.collect(),
        };
        let decided = self.connect(target, caller).and_then(|grant| {
            explanation.handling = Some(grant.handling());
            explanation.host_loopback = grant.destination() == Destination::HostLoopback;
            match request {
                Some((method, path)) => {
                    grant.request(method, path, false).map(|permit| (permit.rule, permit.audit))
                }
                None => Ok((grant.rule(), None)),
            }
        });
        match decided {
            Ok((rule, audit)) => {
                (explanation.allowed, explanation.rule, explanation.denial) = (true, Some(rule), audit);
            }
            Err(denial) => {
                explanation.rule = denial.rule.clone();
                explanation.denial = Some(denial);
            }
        }
        explanation
    }
}

impl crate::matcher::Rule {
    fn says(&self) -> String {
        let ports: Vec<String> = self.endpoint.ports.iter().map(u16::to_string).collect();
        let mut says = format!("{} at {}, for {}", self.endpoint.host, ports.join(" and "), self.programs());
        says += &match &self.endpoint.inspection {
            None => ": passed through".to_owned(),
            Some(inspection) => format!(": {}", requests(inspection)),
        };
        if !self.endpoint.allowed_ips.is_empty() {
            let ranges: Vec<String> = self.endpoint.allowed_ips.iter().map(ToString::to_string).collect();
            says += &format!("; at {} only", ranges.join(", "));
        }
        says
    }
}

fn requests(inspection: &Inspection) -> String {
    let several = |rules: &[crate::model::RequestRule]| {
        let shown = rules.iter().take(4).map(|rule| {
            let query = if rule.query.is_empty() { "" } else { " with a query" };
            format!("{} {}{query}", rule.method, rule.path)
        });
        let more = rules.len().saturating_sub(4);
        let more = (more > 0).then(|| format!("{more} more"));
        shown.chain(more).collect::<Vec<_>>().join(", ")
    };
    let mut says = match &inspection.allow {
        Allow::Access(access) => access.as_str().to_owned(),
        Allow::Rules(rules) => several(rules),
    };
    if let Some(selector) = &inspection.selector {
        says = format!("below {}: {says}", selector.as_str());
    }
    if !inspection.deny.is_empty() {
        says += &format!("; never {}", several(&inspection.deny));
    }
    if inspection.enforcement == Enforcement::Audit {
        says += "; audit: the rest passes, and is written down";
    }
    says
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(request) = &self.request {
            write!(f, "{request} at ")?;
        }
        write!(f, "{}", self.target)?;
        if let Some(caller) = &self.caller {
            write!(f, " by {caller}")?;
        }
        match (&self.rule, self.allowed) {
            (Some(rule), true) => write!(f, ": allowed by {rule}")?,
            _ => write!(f, ": refused")?,
        }
        if self.allowed && self.host_loopback {
            write!(f, ", at this host's own loopback")?;
        }
        match (self.handling, &self.request, self.allowed) {
            (Some(Handling::Passthrough), _, true) => write!(f, ", passed through")?,
            (Some(Handling::Inspect), None, true) => write!(f, ", as far as its requests are")?,
            _ => {}
        }
        writeln!(f)?;
        if let Some(denial) = &self.denial {
            let audit = if self.allowed { "only `enforcement: audit` lets it pass: " } else { "" };
            writeln!(f, "  {audit}{}", denial.message())?;
        }
        if self.denial.as_ref().is_some_and(|denial| denial.reason == Reason::CallerUnknown) {
            writeln!(f, "  say which program asks")?;
        }
        for Considered { rule, says, in_play } in &self.considered {
            writeln!(f, "  {} {rule}: {says}", if *in_play { '*' } else { '-' })?;
        }
        Ok(())
    }
}
