//! The decision against an oracle that is written straight from the documented meaning: slow, obvious, over the
//! words of the policy and not over anything that was compiled. Random policies and questions over a small
//! alphabet, so that they meet.

use clawkeep_policy::{
    Caller, Denial, Matcher, NotApprovable, Policy, Refused, RefusedRequest, RequestPath, Target, least_rule,
};
use proptest::prelude::*;
use proptest::sample::select;

#[derive(Debug, Clone)]
struct Rule {
    method: &'static str,
    path: &'static str,
    query: Option<(&'static str, &'static str)>,
}

#[derive(Debug, Clone)]
enum Allow {
    Access(&'static str),
    Rules(Vec<Rule>),
}

#[derive(Debug, Clone)]
struct Inspection {
    audit: bool,
    selector: Option<&'static str>,
    slash: bool,
    allow: Allow,
    deny: Vec<Rule>,
}

#[derive(Debug, Clone)]
struct Endpoint {
    host: &'static str,
    port: u16,
    inspection: Option<Inspection>,
}

#[derive(Debug, Clone)]
struct Entry {
    endpoints: Vec<Endpoint>,
    binaries: Vec<&'static str>,
}

#[derive(Debug, Clone)]
struct Question {
    host: &'static str,
    port: u16,
    program: Option<&'static str>,
    method: &'static str,
    path: &'static str,
}

const HOSTS: &[&str] =
    &["a.x.test", "b.a.x.test", "x.test", "*.x.test", "**.x.test", "a*.x.test", "a.*.x.test"];
const ASKED: &[&str] =
    &["a.x.test", "ab.x.test", "b.a.x.test", "a.b.x.test", "c.b.a.x.test", "x.test", "y.test"];
const PROGRAMS: &[&str] = &["/bin/a", "/bin/b", "/bin/*", "/opt/**", "/**"];
const ASKING: &[&str] = &["/bin/a", "/bin/b", "/bin/sub/a", "/opt/x/y", "/opt"];
const METHODS: &[&str] = &["GET", "POST", "DELETE", "*"];
const PATHS: &[&str] = &["/", "/**", "/a", "/a/*", "/a/**", "/a/b", "/*/b", "/a*/**", "/**/b", "/[a-b]/?"];
const SELECTORS: &[&str] = &["/**", "/a/**", "/a/b", "/a/*"];
const REQUESTS: &[&str] = &[
    "/",
    "/a",
    "/a/",
    "/a/b",
    "/a/b/c",
    "/b/b",
    "/ab/x",
    "/a/b?q=1",
    "/a?q=1&q=2",
    "/a?q=22",
    "/a%2Fb",
    "/a;v/b",
    "/a/b%3Bx",
    "/c?q=1;q=9",
    "/a/%62",
];

fn rule() -> impl Strategy<Value = Rule> {
    let query = prop::option::weighted(0.3, (Just("q"), select(&["1", "2*", "?"][..])));
    (select(METHODS), select(PATHS), query).prop_map(|(method, path, query)| Rule { method, path, query })
}

fn inspection() -> impl Strategy<Value = Inspection> {
    let allow = prop_oneof![
        select(&["read-only", "read-write", "full"][..]).prop_map(Allow::Access),
        prop::collection::vec(rule(), 1..4).prop_map(Allow::Rules),
    ];
    let selector = prop::option::weighted(0.3, select(SELECTORS));
    let deny = prop_oneof![Just(Vec::new()), prop::collection::vec(rule(), 1..3)];
    (prop::bool::weighted(0.3), selector, any::<bool>(), allow, deny)
        .prop_map(|(audit, selector, slash, allow, deny)| Inspection { audit, selector, slash, allow, deny })
}

fn entry() -> impl Strategy<Value = Entry> {
    let endpoint = (select(HOSTS), select(&[80u16, 443][..]), prop::option::weighted(0.8, inspection()))
        .prop_map(|(host, port, inspection)| Endpoint { host, port, inspection });
    let binaries = prop_oneof![Just(vec!["/**"]), prop::collection::vec(select(PROGRAMS), 1..3)];
    (prop::collection::vec(endpoint, 1..3), binaries)
        .prop_map(|(endpoints, binaries)| Entry { endpoints, binaries })
}

fn question() -> impl Strategy<Value = Question> {
    let program = prop::option::weighted(0.8, select(ASKING));
    let method = select(&["GET", "HEAD", "OPTIONS", "POST", "DELETE", "get", "PATCH"][..]);
    (select(ASKED), select(&[80u16, 443][..]), program, method, select(REQUESTS))
        .prop_map(|(host, port, program, method, path)| Question { host, port, program, method, path })
}

// The policy's words.

fn yaml(entries: &[Entry]) -> String {
    let mut text = "version: 1\nnetwork_policies:\n".to_owned();
    for (index, entry) in entries.iter().enumerate() {
        text += &format!("  r{index}:\n    endpoints:\n");
        for Endpoint { host, port, inspection } in &entry.endpoints {
            text += &format!("      - host: \"{host}\"\n        port: {port}\n");
            let Some(inspection) = inspection else { continue };
            text += "        protocol: rest\n";
            text += &format!("        enforcement: {}\n", if inspection.audit { "audit" } else { "enforce" });
            text += &format!("        allow_encoded_slash: {}\n", inspection.slash);
            if let Some(selector) = inspection.selector {
                text += &format!("        path: \"{selector}\"\n");
            }
            match &inspection.allow {
                Allow::Access(access) => text += &format!("        access: {access}\n"),
                Allow::Rules(rules) => {
                    text += "        rules:\n";
                    rules.iter().for_each(|rule| text += &format!("          - allow: {}\n", flow(rule)));
                }
            }
            if !inspection.deny.is_empty() {
                text += "        deny_rules:\n";
                inspection.deny.iter().for_each(|rule| text += &format!("          - {}\n", flow(rule)));
            }
        }
        text += "    binaries:\n";
        entry.binaries.iter().for_each(|path| text += &format!("      - path: \"{path}\"\n"));
    }
    text
}

fn flow(rule: &Rule) -> String {
    let query =
        rule.query.map(|(name, value)| format!(", query: {{ {name}: \"{value}\" }}")).unwrap_or_default();
    format!("{{ method: \"{}\", path: \"{}\"{query} }}", rule.method, rule.path)
}

// The oracle.

/// "Matcher Semantics": segments at a separator; `**` as a whole segment stands for one or more of them.
fn glob(pattern: &str, text: &str, separator: char) -> bool {
    let pattern: Vec<&str> = pattern.split(separator).collect();
    let text: Vec<&str> = text.split(separator).collect();
    segments(&pattern, &text)
}

fn segments(pattern: &[&str], text: &[&str]) -> bool {
    match pattern.split_first() {
        None => text.is_empty(),
        Some((&"**", rest)) => (1..=text.len()).any(|count| segments(rest, &text[count..])),
        Some((first, rest)) => {
            text.split_first().is_some_and(|(own, after)| letters(first, own) && segments(rest, after))
        }
    }
}

fn letters(pattern: &str, text: &str) -> bool {
    let mut characters = pattern.chars();
    let behind = |count: usize| text.get(count..).unwrap_or_default();
    match characters.next() {
        None => text.is_empty(),
        Some('*') => (0..=text.len()).any(|count| letters(characters.as_str(), behind(count))),
        Some('?') => !text.is_empty() && letters(characters.as_str(), behind(1)),
        Some('[') => {
            // The one class of this test's alphabet.
            let rest = characters.as_str().strip_prefix("a-b]").unwrap();
            text.starts_with(['a', 'b']) && letters(rest, behind(1))
        }
        Some(own) => text.starts_with(own) && letters(characters.as_str(), behind(1)),
    }
}

/// "The endpoint path field": `/**` is everything, `/v1/**` is `/v1` and what is under it, else `*` crosses `/`.
fn selects(selector: &str, path: &str) -> bool {
    match selector.strip_suffix("/**") {
        Some(root) => path == root || path.starts_with(&format!("{root}/")),
        None => letters(selector, path),
    }
}

/// Everything that a lax server could take the path for.
fn readings(path: &str) -> Vec<String> {
    let cut = |path: &str| -> String {
        let names: Vec<&str> = path.split('/').map(|segment| segment.split(';').next().unwrap()).collect();
        names.join("/")
    };
    let slashes = path.replace("%2F", "/");
    let semicolons = |text: &str| text.replace("%3B", ";");
    vec![path.to_owned(), slashes.clone(), cut(&semicolons(path)), cut(&semicolons(&slashes))]
}

/// A query's parameters, in both ways of parting them.
fn parameters(query: &str) -> Vec<Vec<(String, String)>> {
    let parted = |separators: &[char]| -> Vec<(String, String)> {
        let pairs = query.split(separators).filter(|pair| !pair.is_empty());
        pairs
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .map(|(a, b)| (a.into(), b.into()))
            .collect()
    };
    vec![parted(&['&']), parted(&['&', ';'])]
}

fn program_is_listed(entry: &Entry, program: Option<&str>) -> bool {
    entry.binaries.iter().any(|path| *path == "/**" || program.is_some_and(|own| glob(path, own, '/')))
}

fn names_programs(entry: &Entry) -> bool {
    !entry.binaries.contains(&"/**")
}

#[derive(Debug, PartialEq)]
enum Answer {
    NoConnection,
    Request { allowed: bool, audited: bool },
}

fn oracle(entries: &[Entry], question: &Question) -> Answer {
    let covering: Vec<(&Entry, &Endpoint)> = entries
        .iter()
        .flat_map(|entry| entry.endpoints.iter().map(move |endpoint| (entry, endpoint)))
        .filter(|(_, endpoint)| endpoint.port == question.port && glob(endpoint.host, question.host, '.'))
        .collect();
    if question.program.is_none() && covering.iter().any(|(entry, _)| names_programs(entry)) {
        return Answer::NoConnection;
    }
    let in_play: Vec<&Endpoint> = covering
        .iter()
        .filter(|(entry, _)| program_is_listed(entry, question.program))
        .map(|(_, endpoint)| *endpoint)
        .collect();
    if in_play.is_empty() {
        return Answer::NoConnection;
    }
    let inspections: Vec<&Inspection> = in_play.iter().filter_map(|own| own.inspection.as_ref()).collect();
    if inspections.is_empty() {
        return Answer::Request { allowed: true, audited: false };
    }
    let (path, query) = question.path.split_once('?').unwrap_or((question.path, ""));
    let path = path.replace("%62", "b");
    let slash = path.contains("%2F");
    let (mut allowed, mut all_audit) = (true, true);
    for reading in readings(&path) {
        let candidates: Vec<&&Inspection> = inspections
            .iter()
            .filter(|own| own.selector.is_none_or(|selector| selects(selector, &reading)))
            .collect();
        all_audit &= !candidates.is_empty() && candidates.iter().all(|own| own.audit);
        if candidates
            .iter()
            .any(|own| own.deny.iter().any(|rule| denies(rule, question.method, &reading, query)))
        {
            allowed = false;
            continue;
        }
        let specific = |own: &Inspection| {
            own.selector.map_or(0, |s| s.strip_suffix("/**").unwrap_or(s).replace('*', "").len())
        };
        let most = candidates.iter().map(|own| specific(own)).max().unwrap_or(0);
        let chosen: Vec<_> = candidates.iter().filter(|own| specific(own) == most).collect();
        if slash && !chosen.is_empty() && !chosen.iter().any(|own| own.slash) {
            return Answer::Request { allowed: false, audited: false };
        }
        allowed &= chosen.iter().filter(|own| !slash || own.slash).any(|own| match &own.allow {
            Allow::Access("read-only") => ["GET", "HEAD", "OPTIONS"].contains(&question.method),
            Allow::Access("read-write") => {
                ["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH"].contains(&question.method)
            }
            Allow::Access(_) => true,
            Allow::Rules(rules) => rules.iter().any(|rule| allows(rule, question.method, &reading, query)),
        });
    }
    Answer::Request { allowed: allowed || all_audit, audited: !allowed && all_audit }
}

fn denies(rule: &Rule, method: &str, path: &str, query: &str) -> bool {
    let value = |parameters: &Vec<(String, String)>| {
        rule.query.is_none_or(|(name, pattern)| {
            parameters.iter().any(|(own, value)| own == name && glob(pattern, value, '.'))
        })
    };
    (rule.method == "*" || rule.method == method.to_uppercase())
        && glob(rule.path, path, '/')
        && parameters(query).iter().any(value)
}

fn allows(rule: &Rule, method: &str, path: &str, query: &str) -> bool {
    let values = |parameters: &Vec<(String, String)>| {
        rule.query.is_none_or(|(name, pattern)| {
            let own: Vec<_> = parameters.iter().filter(|(own, _)| own == name).collect();
            !own.is_empty() && own.iter().all(|(_, value)| glob(pattern, value, '.'))
        })
    };
    (rule.method == "*" || rule.method == method)
        && glob(rule.path, path, '/')
        && parameters(query).iter().all(values)
}

fn decide(matcher: &Matcher, question: &Question) -> Answer {
    let target = Target::parse(question.host.as_bytes(), Some(question.port)).unwrap();
    let caller = question.program.map_or(Caller::Unknown, Caller::Executable);
    let Ok(grant) = matcher.connect(&target, caller) else { return Answer::NoConnection };
    let path = RequestPath::parse(question.path).unwrap();
    match grant.request(question.method, &path, false) {
        Ok(permit) => Answer::Request { allowed: true, audited: permit.audit.is_some() },
        Err(_) => Answer::Request { allowed: false, audited: false },
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn decides_as_documented(
        entries in prop::collection::vec(entry(), 0..5),
        questions in prop::collection::vec(question(), 20),
    ) {
        let text = yaml(&entries);
        let policy = Policy::read(&text).unwrap().policy;
        let again = Policy::read(&policy.to_yaml()).unwrap().policy;
        prop_assert_eq!(&again, &policy, "what is written reads back equal");
        let matcher = Matcher::new(&policy);
        for question in questions {
            prop_assert_eq!(decide(&matcher, &question), oracle(&entries, &question), "{:?}\n{}", question, text);
            let resolves = entries.iter().flat_map(|entry| &entry.endpoints).any(|own| glob(own.host, question.host, '.'));
            prop_assert_eq!(matcher.resolves(question.host), resolves);
        }
    }

    /// Yes to one thing is yes to that thing: what it allows besides is the same question in other words, and
    /// what was allowed before still is.
    #[test]
    fn an_approval_allows_one_thing_and_takes_nothing_away(
        entries in prop::collection::vec(entry(), 0..5),
        asked in question(),
        others in prop::collection::vec(question(), 40),
        connection_only in any::<bool>(),
    ) {
        let policy = Policy::read(&yaml(&entries)).unwrap().policy;
        let target = Target::parse(asked.host.as_bytes(), Some(asked.port)).unwrap();
        let caller = asked.program.map_or(Caller::Unknown, Caller::Executable);
        let path = RequestPath::parse(asked.path).unwrap();
        let request = RefusedRequest { method: asked.method, path: &path, upgrade: false };
        let request = (!connection_only).then_some(request);
        let outcome = |policy: &Policy| -> Result<(), Denial> {
            let grant = Matcher::new(policy).connect(&target, caller)?;
            request.map_or(Ok(()), |asked| grant.request(asked.method, asked.path, false).map(drop))
        };
        let Err(denial) = outcome(&policy) else { return Ok(()) };
        let addition = match least_rule(&policy, &Refused { target: &target, caller, request, reason: denial.reason }) {
            Ok(addition) => addition,
            Err(NotApprovable::Allowed) => panic!("it was refused: {denial}"),
            Err(_) => return Ok(()),
        };
        prop_assert_eq!(outcome(&addition.policy), Ok(()));
        let mut taken_back = addition.policy.clone();
        prop_assert!(taken_back.remove_rule(&addition.rule));
        prop_assert_eq!(&taken_back, &policy);
        let (before, after) = (Matcher::new(&policy), Matcher::new(&addition.policy));
        for other in others {
            let allows = |answer: &Answer| matches!(answer, Answer::Request { allowed: true, .. });
            let (old, new) = (decide(&before, &other), decide(&after, &other));
            prop_assert!(allows(&new) || !allows(&old), "{:?} was allowed\n{}", other, addition.difference);
            if allows(&new) && !allows(&old) {
                prop_assert_eq!((other.host, other.port), (asked.host, asked.port));
                let anybody = addition.difference.to_string().contains("path: \"/**\"");
                prop_assert!(other.program == asked.program || anybody, "{:?}\n{}", other, addition.difference);
                let bare = |path: &str| RequestPath::parse(path).unwrap().path().to_owned();
                let readings = |path: &str| readings(&bare(path));
                if connection_only {
                    prop_assert!(["GET", "HEAD", "OPTIONS"].contains(&other.method));
                } else {
                    prop_assert_eq!(other.method, asked.method);
                    prop_assert!(readings(asked.path).contains(&bare(other.path)), "{:?}", other);
                }
            }
        }
    }
}
