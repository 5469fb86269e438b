//! What people read of a decision: explanations, denials, and what an approval changes.

use std::fmt::Write as _;

use clawkeep_policy::{
    Caller, Matcher, NotApprovable, Policy, Reason, Refused, RefusedRequest, RequestPath, Target, least_rule,
};

const POLICY: &str = r#"
version: 1
network_policies:
  api:
    endpoints:
      - host: api.example.com
        port: 443
        protocol: rest
        enforcement: enforce
        rules:
          - allow: { method: GET, path: "/repos/**" }
          - allow: { method: POST, path: "/repos/*/*/issues" }
        deny_rules:
          - { method: GET, path: "/repos/private/**" }
      - host: api.example.com
        port: 80
        protocol: rest
        enforcement: audit
        access: read-only
    binaries:
      - { path: /usr/bin/curl }
  cdn:
    endpoints:
      - host: "*.example.com"
        ports: [443, 8443]
        protocol: rest
        enforcement: enforce
        path: /assets/**
        rules:
          - allow: { method: GET, path: "/assets/**", query: { v: "1*" } }
      - host: db.example.net
        port: 5432
        allowed_ips: [10.0.0.0/8]
    binaries:
      - { path: /** }
  models:
    endpoints:
      - host: host.openshell.internal
        port: 11434
    binaries:
      - { path: /** }
"#;

fn target(text: &str) -> Target {
    Target::parse(text.as_bytes(), None).unwrap()
}

#[test]
fn explanations() {
    let matcher = Matcher::new(&Policy::read(POLICY).unwrap().policy);
    let curl = Caller::Executable("/usr/bin/curl");
    let mut said = String::new();
    for (to, caller, request) in [
        ("api.example.com:443", curl, None),
        ("api.example.com:443", curl, Some(("GET", "/repos/a/b"))),
        ("api.example.com:443", curl, Some(("GET", "/repos/private/b"))),
        ("api.example.com:443", curl, Some(("DELETE", "/repos/a/b"))),
        ("api.example.com:443", Caller::Unknown, None),
        ("api.example.com:80", curl, Some(("POST", "/"))),
        ("api.example.com:22", curl, None),
        ("img.example.com:8443", Caller::Unknown, Some(("GET", "/assets/a.png?v=12"))),
        ("db.example.net:5432", Caller::Unknown, None),
        ("db.example.net:5433", Caller::Unknown, None),
        ("host.openshell.internal:11434", Caller::Unknown, None),
        ("example.com:443", Caller::Executable("/usr/bin/wget"), None),
        ("127.0.0.1:443", Caller::Unknown, None),
        ("2130706433:80", Caller::Unknown, None),
        ("169.254.169.254:80", curl, Some(("GET", "/latest/meta-data/"))),
    ] {
        let path = request.map(|(_, path)| RequestPath::parse(path).unwrap());
        let request = request.map(|(method, _)| method).zip(path.as_ref());
        writeln!(said, "{}", matcher.explain(&target(to), caller, request)).unwrap();
    }
    insta::assert_snapshot!(said);
    let path = RequestPath::parse("/repos/a/b").unwrap();
    let explained = matcher.explain(&target("api.example.com:443"), curl, Some(("POST", &path)));
    insta::assert_snapshot!(serde_json::to_string_pretty(&explained).unwrap());
}

fn approve(
    policy: &Policy,
    to: &str,
    caller: Caller<'_>,
    request: Option<(&str, &str, bool)>,
) -> Result<Policy, String> {
    let target = target(to);
    let path = request.map(|(_, path, _)| RequestPath::parse(path).unwrap());
    let request = request.zip(path.as_ref());
    let request = request.map(|((method, _, upgrade), path)| RefusedRequest { method, path, upgrade });
    let outcome = match Matcher::new(policy).connect(&target, caller) {
        Err(denial) => Err(denial),
        Ok(grant) => match request {
            Some(RefusedRequest { method, path, upgrade }) => grant.request(method, path, upgrade).map(drop),
            None => Ok(()),
        },
    };
    let reason = outcome.err().map_or(Reason::Host, |denial| denial.reason);
    match least_rule(policy, &Refused { target: &target, caller, request, reason }) {
        Ok(addition) => {
            insta::assert_snapshot!(format!("{}\n{}", addition.rule, addition.difference));
            Ok(addition.policy)
        }
        Err(error) => Err(error.to_string()),
    }
}

#[test]
fn an_approval_is_the_least_rule() {
    let mut policy = Policy::read(POLICY).unwrap().policy;
    let wget = Caller::Executable("/usr/bin/wget");
    for (to, caller, request) in [
        ("new.example.org:443", wget, None),
        ("new.example.org:443", wget, Some(("POST", "/form?secret=1", false))),
        ("new.example.org:443", wget, Some(("PUT", "/other", false))),
        ("new.example.org:443", wget, Some(("GET", "/ws", true))),
        ("smtp.example.org:465", Caller::Unknown, None),
        ("93.184.216.34:443", Caller::Unknown, None),
        ("img.example.com:8443", Caller::Unknown, Some(("POST", "/assets/a*b", false))),
        ("api.example.com:443", wget, Some(("GET", "/a%2fb", false))),
    ] {
        policy = approve(&policy, to, caller, request).unwrap();
    }
    assert_eq!(Policy::read(&policy.to_yaml()).unwrap().policy, policy);
}

#[test]
fn what_is_not_approved_with_a_command() {
    let policy = Policy::read(POLICY).unwrap().policy;
    let curl = Caller::Executable("/usr/bin/curl");
    let mut said = String::new();
    for (to, caller, request) in [
        ("169.254.169.254:80", curl, None),
        ("10.0.0.1:80", curl, None),
        ("127.1:80", curl, None),
        ("kubernetes.example.org:6443", curl, None),
        ("api.example.com:443", curl, Some(("GET", "/repos/private/b", false))),
        ("api.example.com:443", curl, Some(("GET", "/repos/a/b", false))),
        ("api.example.com:443", Caller::Unknown, None),
        ("new.example.org:443", Caller::Executable("relative"), None),
        ("new.example.org:443", Caller::Executable("/a\nb"), None),
    ] {
        writeln!(said, "{to}: {}", approve(&policy, to, caller, request).unwrap_err()).unwrap();
    }
    insta::assert_snapshot!(said);
    let to = target("new.example.org:443");
    for reason in [Reason::InternalAddress, Reason::UnlistedAddress, Reason::SpecialAddress, Reason::DenyRule]
    {
        let refused = Refused { target: &to, caller: curl, request: None, reason };
        assert!(matches!(least_rule(&policy, &refused), Err(NotApprovable::ByHand(_))), "{reason:?}");
    }
}

#[test]
fn every_denial_has_a_sentence_and_a_name() {
    use Reason::*;
    let matcher = Matcher::new(&Policy::read(POLICY).unwrap().policy);
    let denial = matcher.connect(&target("db.example.net:1"), Caller::Unknown).unwrap_err();
    let mut said = String::new();
    for reason in [
        Host,
        Port,
        Binary,
        CallerUnknown,
        OddAddress,
        InternalAddress,
        UnlistedAddress,
        SpecialAddress,
        MetadataAddress,
        Request,
        DenyRule,
        EncodedSlash,
        Upgrade,
        Method,
    ] {
        let denial = clawkeep_policy::Denial { reason, ..denial.clone() };
        writeln!(said, "{}\n  {denial}", serde_json::to_string(&denial).unwrap()).unwrap();
    }
    insta::assert_snapshot!(said);
}
