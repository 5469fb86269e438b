//! One endpoint: a place, and what may be asked of it.

use super::at::{At, Fields, Known};
use super::{Notes, PolicyError, request};
use crate::address::{Class, class, overlaps_never};
use crate::cidr::Cidr;
use crate::host::HostPattern;
use crate::model::{
    Access, Allow, Endpoint, Enforcement, Inspection, Method, Protocol, RequestRule, Selector,
};

const ENDPOINT: Known = Known {
    fields: &[
        "host",
        "port",
        "ports",
        "path",
        "protocol",
        "tls",
        "enforcement",
        "access",
        "rules",
        "deny_rules",
        "allowed_ips",
        "allow_encoded_slash",
    ],
    unsupported: &[
        "credential_binding",
        "request_body_credential_rewrite",
        "websocket_credential_rewrite",
        "allow_uninspected_credentials",
        "credential_signing",
        "signing_service",
        "signing_region",
        "persisted_queries",
        "graphql_persisted_queries",
        "graphql_max_body_bytes",
        "mcp",
        "json_rpc",
        "advisor_proposed",
    ],
};

/// Answered by the proxy itself.
const MODEL_ROUTE: &str = "inference.local";

/// More is no list but a range.
const MAX_PORTS: usize = 256;

/// OpenShell never opens these (Kubernetes' and etcd's control planes); neither do we.
const CONTROL_PLANE: [u16; 5] = [2379, 2380, 6443, 10250, 10255];

pub(super) fn endpoint(at: &At<'_>, notes: &mut Notes) -> Result<Endpoint, PolicyError> {
    let fields = at.fields(&ENDPOINT)?;
    let host_at = fields.need("host")?;
    let host = HostPattern::parse(host_at.text()?).map_err(|error| {
        host_at.error("policy-host", error.to_string(), "write the host as a client asks for it")
    })?;
    let ports = ports(&fields, &host)?;
    let allowed_ips = allowed_ips(&fields)?;
    check_address(&host_at, &host, &allowed_ips, notes)?;
    let allow_encoded_slash =
        fields.get("allow_encoded_slash").map(|at| at.boolean()).transpose()?.unwrap_or(false);
    let tls_skip = match fields.get("tls") {
        // The other two are deprecated and have no effect, there as here.
        Some(at) => at.word(&[("skip", true), ("terminate", false), ("passthrough", false)])?,
        None => false,
    };
    let inspection = inspection(&fields, notes)?;
    if let (true, Some(_), Some(at)) = (tls_skip, &inspection, fields.get("tls")) {
        let message = "requests cannot be looked at in TLS that is passed through".to_owned();
        let next = "take `tls: skip` out, or `protocol` with its rules";
        return Err(at.error("policy-tls", message, next));
    }
    Ok(Endpoint { host, ports, allowed_ips, tls_skip, allow_encoded_slash, inspection })
}

fn ports(fields: &Fields<'_>, host: &HostPattern) -> Result<Vec<u16>, PolicyError> {
    let listed = match (fields.get("port"), fields.get("ports")) {
        (Some(_), Some(at)) => {
            let message = "`port` and `ports` are both there".to_owned();
            return Err(at.error("policy-port", message, "take one of them out"));
        }
        (None, Some(at)) => at.filled_list()?,
        (Some(at), None) => vec![at],
        (None, None) => vec![fields.need("port")?],
    };
    let mut ports = Vec::new();
    for at in listed {
        if ports.len() == MAX_PORTS {
            let message = format!("an endpoint has {MAX_PORTS} ports at most");
            return Err(at.error("policy-port", message, "make several endpoints of it"));
        }
        let port = at.port()?;
        if CONTROL_PLANE.contains(&port) && !host.is_this_host() {
            let message = format!("port {port} belongs to a control plane: no policy opens it");
            return Err(at.error("policy-port", message, "take the port out"));
        }
        if ports.contains(&port) {
            return Err(at.error("policy-port", format!("port {port} is said twice"), "take one out"));
        }
        ports.push(port);
    }
    Ok(ports)
}

fn allowed_ips(fields: &Fields<'_>) -> Result<Vec<Cidr>, PolicyError> {
    let Some(at) = fields.get("allowed_ips") else { return Ok(Vec::new()) };
    let mut ranges = Vec::new();
    for at in at.filled_list()? {
        let text = at.text()?;
        let bad = |why: String| at.error("policy-address", why, "write an address or a range: 10.20.0.0/16");
        let range: Cidr = text.parse().map_err(|error: crate::CidrError| bad(error.to_string()))?;
        if overlaps_never(range) {
            let message = format!(
                "`{text}` reaches into addresses that no policy opens: loopback, link-local, unspecified, \
                 multicast, reserved"
            );
            return Err(bad(message));
        }
        ranges.push(range);
    }
    Ok(ranges)
}

/// An address as host says itself where it is: what can never work is an error, what needs another field is said.
fn check_address(
    at: &At<'_>,
    host: &HostPattern,
    allowed_ips: &[Cidr],
    notes: &mut Notes,
) -> Result<(), PolicyError> {
    if host.is_this_host() {
        if !allowed_ips.is_empty() {
            let message = "this name is the host's own loopback here, whatever `allowed_ips` lists";
            notes.say(at, "host-loopback", message);
        }
        return Ok(());
    }
    let Some(name) = host.exact() else { return Ok(()) };
    if name == MODEL_ROUTE {
        notes.say(at, "model-route", "the model route answers this name before any policy is asked");
    }
    if name == "localhost" || name.ends_with(".localhost") {
        let message = "this name is the sandbox's own loopback, which no proxy is asked for".to_owned();
        return Err(at.error(
            "policy-address",
            message,
            "for this host's, write `host: host.openshell.internal`",
        ));
    }
    let Some(ip) = crate::target::host_address(name) else { return Ok(()) };
    match class(ip) {
        Class::Public => {}
        Class::Internal if crate::address::covered(ip, allowed_ips) => {}
        Class::Internal => {
            let message = "an internal address is refused until `allowed_ips` lists it";
            notes.say(at, "internal-address", message);
        }
        Class::Never(why) => {
            let message = format!("no policy opens this address: it is {why}");
            return Err(at.error("policy-address", message, "take the endpoint out"));
        }
    }
    Ok(())
}

fn inspection(fields: &Fields<'_>, notes: &mut Notes) -> Result<Option<Inspection>, PolicyError> {
    let access = fields
        .get("access")
        .map(|at| {
            let access = at.word(&[
                ("read-only", Access::ReadOnly),
                ("read-write", Access::ReadWrite),
                ("full", Access::Full),
            ])?;
            Ok((at, access))
        })
        .transpose()?;
    let protocol = fields.get("protocol").map(|at| protocol(&at)).transpose()?;
    let kind = protocol.unwrap_or(Protocol::Rest);
    let rules = fields
        .get("rules")
        .map(|at| {
            let rules =
                at.filled_list()?.iter().map(|at| request::allow(at, kind)).collect::<Result<Vec<_>, _>>()?;
            Ok((at, rules))
        })
        .transpose()?;
    let deny = match fields.get("deny_rules") {
        Some(at) => {
            at.filled_list()?.iter().map(|at| request::request(at, kind)).collect::<Result<_, _>>()?
        }
        None => Vec::new(),
    };
    let allow = match (access, rules) {
        (Some(_), Some((at, _))) => {
            let message = "`access` and `rules` are both there".to_owned();
            return Err(at.error("policy-rules", message, "take one of them out"));
        }
        (Some((at, access)), None) => {
            if protocol == Some(Protocol::WebSocket) && access == Access::ReadOnly {
                let message =
                    "messages of a WebSocket are not looked at: they cannot be held back".to_owned();
                return Err(at.error("policy-value-unsupported", message, "write `access: full`"));
            }
            Some((at, Allow::Access(access)))
        }
        (None, Some((at, rules))) => Some((at, Allow::Rules(rules))),
        (None, None) => None,
    };
    let without_rules = |at: At<'_>| {
        let message = "`protocol` needs `access` or `rules` beside it".to_owned();
        at.error("policy-rules", message, "add `access: read-only`, or `rules:`")
    };
    match (protocol, allow) {
        (Some(_), None) => Err(without_rules(fields.need("protocol")?)),
        (Some(protocol), Some((_, allow))) => inspected(fields, protocol, allow, deny, notes).map(Some),
        (None, _) if !deny.is_empty() => {
            let at = fields.need("deny_rules")?;
            let message = "`deny_rules` need `protocol: rest`".to_owned();
            Err(at.error("policy-rules", message, "add `protocol: rest`"))
        }
        (None, Some((at, allow))) if !is_everything(&allow) => {
            let message = "OpenShell looks at no request without `protocol: rest`; here the rules hold";
            notes.say(&at, "protocol-default", message);
            inspected(fields, Protocol::Rest, allow, deny, notes).map(Some)
        }
        (None, _) => {
            if let Some(at) = fields.get("path") {
                let message = "`path` chooses between endpoints with `protocol: rest`".to_owned();
                return Err(at.error("policy-rules", message, "add `protocol: rest`, or take `path` out"));
            }
            if let Some(at) = fields.get("enforcement") {
                at.word(&[("enforce", ()), ("audit", ())])?;
                notes.say(&at, "enforcement-unused", "there are no rules to enforce: all is passed through");
            }
            Ok(None)
        }
    }
}

/// Whether nothing is held back: then there is nothing to look at either.
fn is_everything(allow: &Allow) -> bool {
    match allow {
        Allow::Access(access) => *access == Access::Full,
        Allow::Rules(rules) => rules.iter().any(|RequestRule { method, path, query }| {
            *method == Method::Any && matches!(path.as_str(), "**" | "/**") && query.is_empty()
        }),
    }
}

fn protocol(at: &At<'_>) -> Result<Protocol, PolicyError> {
    let text = at.text()?;
    if matches!(text, "graphql" | "mcp" | "json-rpc" | "sql" | "tcp") {
        let message = format!("`{text}` is not looked into: what its rules say could not be enforced");
        let next =
            "write `protocol: rest` with rules for its paths, or take `protocol` out to pass all through";
        return Err(at.error("policy-value-unsupported", message, next));
    }
    at.word(&[("rest", Protocol::Rest), ("websocket", Protocol::WebSocket)])
}

fn inspected(
    fields: &Fields<'_>,
    protocol: Protocol,
    allow: Allow,
    deny: Vec<RequestRule>,
    notes: &mut Notes,
) -> Result<Inspection, PolicyError> {
    let enforcement = match fields.get("enforcement") {
        Some(at) => {
            let said = at.word(&[("enforce", Enforcement::Enforce), ("audit", Enforcement::Audit)])?;
            if said == Enforcement::Audit {
                notes.say(&at, "enforcement-audit", "what breaks these rules passes, and is written down");
            }
            said
        }
        None => {
            if fields.get("protocol").is_some() {
                let message = "the rules are enforced; OpenShell would only write down what breaks them";
                notes.say(&fields.at, "enforcement-default", message);
            }
            Enforcement::Enforce
        }
    };
    let selector = match fields.get("path") {
        Some(at) => {
            let text = at.text()?;
            let bad = |why: String| at.error("policy-pattern", why, "write a path: /v1/**");
            if !text.is_empty() && !text.starts_with('/') && text != "**" {
                return Err(bad("a path begins with a slash".to_owned()));
            }
            Some(Selector::parse(text).map_err(|error| bad(error.to_string()))?)
        }
        None => None,
    };
    Ok(Inspection { protocol, enforcement, selector, allow, deny })
}
