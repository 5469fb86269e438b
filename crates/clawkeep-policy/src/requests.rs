//! Whether one endpoint's rules cover a request.

use crate::glob::Glob;
use crate::model::{Allow, Inspection, Method, Protocol, RequestRule};
use crate::request_path::percent_decoded;

/// A request, but for its path.
#[derive(Clone, Copy)]
pub(crate) struct Asked<'a> {
    pub(crate) method: &'a str,
    pub(crate) query: Option<&'a str>,
    pub(crate) upgrade: bool,
}

/// Whether a deny rule covers it. Whoever spells a method in small letters is denied as well: some servers take it.
pub(crate) fn denies(inspection: &Inspection, asked: &Asked<'_>, path: &str) -> bool {
    inspection.deny.iter().any(|rule| {
        let method = match &rule.method {
            Method::Any => true,
            Method::One(method) => method.eq_ignore_ascii_case(asked.method),
        };
        method && rule.path.matches(path) && readings(asked.query).any(|query| touches(rule, &query))
    })
}

/// Whether access or an allow rule covers it.
///
/// What is upgraded is a channel in which nothing can be told apart. So only what allows every method allows it.
pub(crate) fn allows(inspection: &Inspection, asked: &Asked<'_>, path: &str) -> bool {
    if inspection.protocol == Protocol::WebSocket && !(asked.upgrade && asked.method == "GET") {
        return false;
    }
    match &inspection.allow {
        Allow::Access(access) => {
            let channel = *access == crate::model::Access::Full || inspection.protocol == Protocol::WebSocket;
            access.allows(asked.method) && (!asked.upgrade || channel)
        }
        Allow::Rules(rules) => rules.iter().any(|rule| {
            let method = match &rule.method {
                Method::Any => true,
                Method::One(method) => method == asked.method && !asked.upgrade,
            };
            method && rule.path.matches(path) && readings(asked.query).all(|query| satisfies(rule, &query))
        }),
    }
}

/// A query's parameters, decoded as forms are.
type Parameters = Vec<(String, String)>;

/// The parameters as servers read them: parted by `&`, and by some by `;` too.
fn readings(query: Option<&str>) -> impl Iterator<Item = Parameters> {
    let query = query.unwrap_or_default();
    let parameters = move |separators: &'static [char]| -> Parameters {
        let pairs = query.split(separators).filter(|pair| !pair.is_empty());
        pairs
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .map(|(n, v)| (decoded(n), decoded(v)))
            .collect()
    };
    let second = query.contains(';').then(|| parameters(&['&', ';']));
    std::iter::once(parameters(&['&'])).chain(second)
}

fn decoded(text: &str) -> String {
    String::from_utf8_lossy(&percent_decoded(text.replace('+', " ").as_bytes())).into_owned()
}

fn values<'a>(query: &'a Parameters, name: &'a str) -> impl Iterator<Item = &'a str> {
    query.iter().filter(move |(own, _)| own == name).map(|(_, value)| value.as_str())
}

fn matches(patterns: &[Glob], value: &str) -> bool {
    patterns.iter().any(|pattern| pattern.matches(value))
}

/// For a deny rule: each parameter that it names is there, with one value that matches.
fn touches(rule: &RequestRule, query: &Parameters) -> bool {
    rule.query.iter().all(|(name, patterns)| values(query, name).any(|value| matches(patterns, value)))
}

/// For an allow rule: each parameter that it names is there, and all its values match.
fn satisfies(rule: &RequestRule, query: &Parameters) -> bool {
    rule.query.iter().all(|(name, patterns)| {
        let mut values = values(query, name).peekable();
        values.peek().is_some() && values.all(|value| matches(patterns, value))
    })
}
