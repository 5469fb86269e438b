//! `rules` and `deny_rules`.

use super::PolicyError;
use super::at::{At, Known};
use crate::glob::Glob;
use crate::model::{Method, Protocol, RequestRule};
use crate::request_path::percent_decoded;

const ALLOW: Known = Known { fields: &["allow"], unsupported: &[] };

const REQUEST: Known = Known {
    fields: &["method", "path", "query"],
    unsupported: &["operation_type", "operation_name", "fields", "command", "tool", "params"],
};

const ANY: Known = Known { fields: &["any"], unsupported: &[] };

/// One of `rules`.
pub(super) fn allow(at: &At<'_>, protocol: Protocol) -> Result<RequestRule, PolicyError> {
    let at = at.fields(&ALLOW)?.need("allow")?;
    let rule = request(&at, protocol)?;
    if protocol == Protocol::WebSocket && rule.method != Method::Any {
        return Err(whole_channel(&at));
    }
    Ok(rule)
}

/// One of `deny_rules`, or what stands under `allow`.
pub(super) fn request(at: &At<'_>, protocol: Protocol) -> Result<RequestRule, PolicyError> {
    let fields = at.fields(&REQUEST)?;
    let method = method(&fields.need("method")?, protocol)?;
    let path = path(&fields.need("path")?)?;
    let mut query = Vec::new();
    if let Some(at) = fields.get("query") {
        let entries = at.entries()?;
        if entries.is_empty() {
            let message = "an empty map means nothing here".to_owned();
            return Err(at.error("policy-list-empty", message, "name a parameter, or take the field out"));
        }
        for (name, at) in entries {
            query.push((name.to_owned(), values(&at)?));
        }
    }
    Ok(RequestRule { method, path, query })
}

fn method(at: &At<'_>, protocol: Protocol) -> Result<Method, PolicyError> {
    let text = at.text()?;
    if text == "*" {
        return Ok(Method::Any);
    }
    if text == "WEBSOCKET_TEXT" {
        return Err(whole_channel(at));
    }
    let method = text.to_ascii_uppercase();
    let word =
        !method.is_empty() && method.len() <= 32 && method.bytes().all(|byte| byte.is_ascii_uppercase());
    if !word || (protocol == Protocol::WebSocket && method != "GET") {
        let message = format!("`{}` is no method that can be asked for here", crate::printable(text));
        return Err(at.error("policy-value-unknown", message, "write an HTTP method, or \"*\""));
    }
    Ok(Method::One(method))
}

fn whole_channel(at: &At<'_>) -> PolicyError {
    let message = "messages of a WebSocket are not looked at: it is allowed as a whole or not".to_owned();
    at.error("policy-value-unsupported", message, "write `method: \"*\"`, or `access: full`")
}

/// A pattern over canonical paths. One that no canonical path matches is a mistake.
fn path(at: &At<'_>) -> Result<Glob, PolicyError> {
    let text = at.text()?;
    let bad = |why: &str| {
        let next = "write it as a request has it: /v1/**, with %20 for a space";
        at.error("policy-pattern", format!("no request has a path like this: {why}"), next)
    };
    if text != "**" && !text.starts_with(['/', '*']) {
        return Err(bad("it begins with neither a slash nor a star"));
    }
    if let Some(odd) = text.chars().find(|c| !c.is_ascii_graphic() || "\"#<>\\`{|}".contains(*c)) {
        return Err(bad(&format!("`{odd}` is always encoded")));
    }
    if text.get(1..).unwrap_or_default().contains("//") || text.starts_with("//") {
        return Err(bad("it holds an empty segment"));
    }
    if text.split('/').any(|segment| matches!(segment, "." | "..")) {
        return Err(bad("it holds a dot segment"));
    }
    let text =
        canonical_percent(text).ok_or_else(|| bad("a percent sign encodes nothing, or what needs none"))?;
    Glob::parse(&text, b'/').map_err(|error| bad(&error.to_string()))
}

/// Percent encodings as a canonical path has them: in capitals, and of what needs them only.
fn canonical_percent(text: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        let code = rest.get(at..at + 3)?;
        let byte = match percent_decoded(code.as_bytes()).as_slice() {
            [byte] => *byte,
            _ => return None,
        };
        if byte.is_ascii_alphanumeric() || b"-._~\0\\".contains(&byte) {
            return None;
        }
        out.push_str(&code.to_ascii_uppercase());
        rest = &rest[at + 3..];
    }
    out.push_str(rest);
    Some(out)
}

fn values(at: &At<'_>) -> Result<Vec<Glob>, PolicyError> {
    let pattern = |at: &At<'_>| {
        let next = "write a pattern: a value, `linux-*`, `**`";
        Glob::parse(at.text()?, b'.').map_err(|error| at.error("policy-pattern", error.to_string(), next))
    };
    match &at.node.value {
        crate::yaml::Value::Map(_) => {
            at.fields(&ANY)?.need("any")?.filled_list()?.iter().map(pattern).collect()
        }
        _ => Ok(vec![pattern(at)?]),
    }
}
