//! The cases that went wrong elsewhere, each with the answer that it gets here.

use std::net::IpAddr;

use clawkeep_policy::{
    Caller, Denial, Destination, Grant, Handling, Matcher, Permit, Policy, Reason, RequestPath, Target,
};

/// Endpoints of one rule for one program.
fn matcher_for(endpoints: &str, program: &str) -> Matcher {
    let endpoints: String = endpoints.lines().map(|line| format!("      {line}\n")).collect();
    let text = format!(
        "version: 1\nnetwork_policies:\n  r:\n    endpoints:\n{endpoints}    binaries: [{{path: {program}}}]\n"
    );
    Matcher::new(&Policy::read(&text).unwrap().policy)
}

fn matcher(endpoints: &str) -> Matcher {
    matcher_for(endpoints, "/**")
}

fn target(text: &str) -> Target {
    Target::parse(text.as_bytes(), None).unwrap()
}

fn connect(matcher: &Matcher, to: &str) -> Result<Grant, Reason> {
    matcher.connect(&target(to), Caller::Unknown).map_err(|denial| denial.reason)
}

fn request(grant: &Grant, method: &str, path: &str) -> Result<Permit, Denial> {
    grant.request(method, &RequestPath::parse(path).unwrap(), false)
}

fn refused(grant: &Grant, method: &str, path: &str) -> Option<Reason> {
    request(grant, method, path).err().map(|denial| denial.reason)
}

const ANYWHERE: &str = r#"- { host: "a.example", port: 443, allowed_ips: ["1.0.0.0/8", "10.0.0.0/8", "64.0.0.0/3", "fd00::/8", "64:ff9b::/96", "192.0.0.0/24", "100.64.0.0/10", "168.0.0.0/8"] }"#;

#[test]
fn what_no_policy_opens_stays_shut_inside_an_allowed_range() {
    let grant = connect(&matcher(ANYWHERE), "a.example:443").unwrap();
    for (ip, reason) in [
        ("169.254.169.254", Reason::MetadataAddress),
        ("fd00:ec2::254", Reason::MetadataAddress),
        ("100.100.100.200", Reason::MetadataAddress),
        ("192.0.0.192", Reason::MetadataAddress),
        ("168.63.129.16", Reason::MetadataAddress),
        ("::ffff:169.254.169.254", Reason::MetadataAddress),
        ("64:ff9b::a9fe:a9fe", Reason::MetadataAddress),
        ("127.0.0.1", Reason::SpecialAddress),
        ("::1", Reason::SpecialAddress),
        ("0.0.0.0", Reason::SpecialAddress),
        ("::", Reason::SpecialAddress),
        ("::ffff:127.0.0.1", Reason::SpecialAddress),
        ("64:ff9b::7f00:1", Reason::SpecialAddress),
        ("224.0.0.1", Reason::SpecialAddress),
        ("255.255.255.255", Reason::SpecialAddress),
        ("fe80::1", Reason::SpecialAddress),
        ("192.168.1.1", Reason::UnlistedAddress),
        ("8.8.8.8", Reason::UnlistedAddress),
        ("64:ff9b::c0a8:101", Reason::UnlistedAddress),
    ] {
        assert_eq!(grant.address(ip.parse().unwrap()).unwrap_err().reason, reason, "{ip}");
    }
    for ip in ["10.1.2.3", "::ffff:10.1.2.3", "1.1.1.1", "fd12::1", "64:ff9b::808:808", "64:ff9b::a01:203"] {
        assert_eq!(grant.address(ip.parse().unwrap()), Ok(()), "{ip}");
    }
}

#[test]
fn addresses_in_every_spelling_lead_nowhere() {
    let matcher = matcher("- { host: \"*.example.com\", port: 80 }\n- { host: 93.184.216.34, port: 80 }");
    for (to, reason) in [
        ("127.0.0.1:80", Reason::SpecialAddress),
        ("[::1]:80", Reason::SpecialAddress),
        ("0.0.0.0:80", Reason::SpecialAddress),
        ("[::ffff:127.0.0.1]:80", Reason::SpecialAddress),
        ("[::ffff:7f00:1]:80", Reason::SpecialAddress),
        ("169.254.169.254:80", Reason::MetadataAddress),
        ("[fd00:ec2::254]:80", Reason::MetadataAddress),
        ("2130706433:80", Reason::OddAddress),
        ("0x7f000001:80", Reason::OddAddress),
        ("0177.0.0.1:80", Reason::OddAddress),
        ("127.1:80", Reason::OddAddress),
        ("127.0.0.1.:80", Reason::SpecialAddress),
        ("093.184.216.34:80", Reason::OddAddress),
        ("10.0.0.1:80", Reason::Host),
        ("8.8.8.8:80", Reason::Host),
        ("[::ffff:93.184.216.34]:80", Reason::Host),
    ] {
        assert_eq!(connect(&matcher, to).unwrap_err(), reason, "{to}");
    }
    assert!(connect(&matcher, "93.184.216.34:80").is_ok());
}

#[test]
fn an_internal_address_as_host_needs_to_be_listed() {
    let endpoints = "- { host: 10.0.0.1, port: 80 }\n- { host: 10.0.0.2, port: 80, allowed_ips: [10.0.0.2] }";
    let matcher = matcher(endpoints);
    assert_eq!(connect(&matcher, "10.0.0.1:80").unwrap_err(), Reason::InternalAddress);
    assert!(connect(&matcher, "10.0.0.2:80").is_ok());
}

#[test]
fn what_a_name_resolves_to_is_asked_about_as_a_whole() {
    let grant = connect(&matcher("- { host: \"*.x.example\", port: 443 }"), "a.x.example:443").unwrap();
    let ips = |list: &[&str]| -> Vec<IpAddr> { list.iter().map(|ip| ip.parse().unwrap()).collect() };
    assert_eq!(grant.addresses(&ips(&["93.184.216.34", "2606:2800:220:1::1"])), Ok(()));
    for list in [
        &["192.168.0.1"][..],
        &["10.0.0.1"],
        &["172.20.0.1"],
        &["93.184.216.34", "10.0.0.1"],
        &["10.0.0.1", "93.184.216.34"],
        &["93.184.216.34", "::ffff:10.0.0.1"],
        &["93.184.216.34", "fd00::1"],
        &["64:ff9b::808:808"],
        &["2002:a00:1::1"],
        &["198.18.0.1"],
        &["100.64.0.1"],
    ] {
        assert_eq!(grant.addresses(&ips(list)).unwrap_err().reason, Reason::InternalAddress, "{list:?}");
    }
}

#[test]
fn names_are_told_apart_label_by_label() {
    let matcher = matcher("- { host: \"*.x.com\", port: 443 }\n- { host: xn--bcher-kva.example, port: 443 }");
    for (to, allowed) in [
        ("a.x.com:443", true),
        ("A.X.COM.:443", true),
        ("x.com:443", false),
        ("a.b.x.com:443", false),
        ("ax.com:443", false),
        ("a.x.com.evil.example:443", false),
        ("a.x.com-evil.example:443", false),
        ("xn--bcher-kva.example:443", true),
        ("XN--BCHER-KVA.example.:443", true),
        ("bcher.example:443", false),
    ] {
        let outcome = connect(&matcher, to);
        assert_eq!(outcome.as_ref().err(), (!allowed).then_some(&Reason::Host), "{to}");
        let name = to.trim_end_matches(":443");
        assert_eq!(matcher.resolves(name), allowed, "{name}");
    }
    assert_eq!(connect(&matcher, "a.x.com:80").unwrap_err(), Reason::Port);
    for name in ["", ".", "127.0.0.1", "127.1", "a..x.com", "b\u{fc}cher.example", "*.x.com"] {
        assert!(!matcher.resolves(name), "{name}");
    }
}

#[test]
fn a_path_is_what_it_is_and_nothing_else() {
    let endpoints = "- { host: a.example, port: 443, protocol: rest, enforcement: enforce, rules: [{allow: \
                     {method: GET, path: /public/**}}] }";
    let grant = connect(&matcher(endpoints), "a.example:443").unwrap();
    assert_eq!(refused(&grant, "GET", "/public/x"), None);
    assert_eq!(refused(&grant, "GET", "/public/"), None);
    assert_eq!(refused(&grant, "GET", "/%70ublic/x"), None, "the same bytes in another spelling");
    for path in ["/public", "/secret", "/publicx/a", "/PUBLIC/x", "/x/public/y", "/public;/x"] {
        assert_eq!(refused(&grant, "GET", path), Some(Reason::Request), "{path}");
    }
    assert_eq!(refused(&grant, "GET", "/public/a%2fb"), Some(Reason::EncodedSlash));
    for path in
        ["/public/../secret", "/public/%2e%2e/secret", "/public%2f..%2fsecret", "//secret", "/public/..;p/x"]
    {
        assert!(RequestPath::parse(path).is_err(), "{path}");
    }
    // HEAD and OPTIONS are requests of their own.
    assert_eq!(refused(&grant, "HEAD", "/public/x"), Some(Reason::Request));
    assert_eq!(refused(&grant, "OPTIONS", "/public/x"), Some(Reason::Request));
    assert_eq!(refused(&grant, "get", "/public/x"), Some(Reason::Request));
    assert_eq!(refused(&grant, "TRACE", "/public/x"), Some(Reason::Method));
}

#[test]
fn access_is_the_methods_that_are_documented() {
    for (access, allowed) in [
        ("read-only", &["GET", "HEAD", "OPTIONS"][..]),
        ("read-write", &["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH"]),
        ("full", &["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", "PROPFIND"]),
    ] {
        let endpoint = format!(
            "- {{ host: a.example, port: 443, protocol: rest, enforcement: enforce, access: {access} }}"
        );
        let grant = connect(&matcher(&endpoint), "a.example:443").unwrap();
        assert_eq!(grant.handling(), Handling::Inspect);
        for method in ["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", "PROPFIND"] {
            let permitted = request(&grant, method, "/").is_ok();
            assert_eq!(permitted, allowed.contains(&method), "{access} {method}");
        }
        for method in ["TRACE", "CONNECT", "trace"] {
            assert_eq!(refused(&grant, method, "/"), Some(Reason::Method));
        }
    }
}

#[test]
fn the_stricter_rule_wins() {
    let endpoints = "- { host: a.example, port: 443, access: full }\n\
                     - { host: \"*.example.org\", port: 443, access: full }\n\
                     - { host: a.example, port: 443, protocol: rest, enforcement: enforce, access: read-only }\n\
                     - { host: a.example, port: 443, protocol: rest, enforcement: enforce, access: full, deny_rules: \
                     [{method: GET, path: \"/private/**\"}] }";
    let matcher = matcher(endpoints);
    let grant = connect(&matcher, "a.example:443").unwrap();
    assert_eq!(grant.handling(), Handling::Inspect);
    assert_eq!(grant.rule().as_str(), "r[2]");
    assert_eq!(refused(&grant, "DELETE", "/"), None, "one of two rules allows it");
    assert_eq!(refused(&grant, "GET", "/private/x"), Some(Reason::DenyRule), "a deny rule beats both");
    let other = connect(&matcher, "b.example.org:443").unwrap();
    assert_eq!(other.handling(), Handling::Passthrough);
    assert_eq!(refused(&other, "DELETE", "/"), None);
}

#[test]
fn deny_rules_see_through_lax_readings() {
    let endpoint = "- { host: a.example, port: 443, protocol: rest, enforcement: enforce, access: full, \
                    allow_encoded_slash: true, deny_rules: [{method: DELETE, path: \"/secret/**\"}, {method: GET, \
                    path: \"/q\", query: {mode: \"raw*\"}}] }";
    let grant = connect(&matcher(endpoint), "a.example:443").unwrap();
    for path in ["/secret/x", "/secret%2fx", "/secret;v=1/x", "/secret%3Bv/x;y", "/%73ecret/x", "/secret/"] {
        assert_eq!(refused(&grant, "DELETE", path), Some(Reason::DenyRule), "{path}");
        assert_eq!(refused(&grant, "delete", path), Some(Reason::DenyRule), "{path}");
        assert_eq!(refused(&grant, "POST", path), None, "{path}");
    }
    for query in ["mode=raw", "mode=rawer", "a=b&mode=raw", "mode=x&mode=raw", "%6dode=%72aw", "a=1;mode=raw"]
    {
        assert_eq!(refused(&grant, "GET", &format!("/q?{query}")), Some(Reason::DenyRule), "{query}");
    }
    for query in ["", "mode=x", "Mode=raw", "a=mode", "mode"] {
        assert_eq!(refused(&grant, "GET", &format!("/q?{query}")), None, "{query}");
    }
}

#[test]
fn allow_rules_with_a_query_need_every_value_to_match() {
    let endpoint = "- { host: a.example, port: 443, protocol: rest, enforcement: enforce, rules: [{allow: {method: \
                    GET, path: /d, query: {os: {any: [\"linux-*\", mac]}, v: \"1.*\"}}}] }";
    let grant = connect(&matcher(endpoint), "a.example:443").unwrap();
    for query in ["os=linux-x&v=1.2", "v=1.2&os=mac&z=9", "os=linux-x&os=mac&v=1.0", "os=linux%2Dx&v=1%2E2"] {
        assert_eq!(refused(&grant, "GET", &format!("/d?{query}")), None, "{query}");
    }
    for query in [
        "",
        "os=mac",
        "v=1.2",
        "os=win&v=1.2",
        "os=mac&os=win&v=1.2",
        "os=mac&v=1.2.3",
        "os=mac&v=1.2;os=win",
        "os=&v=1.2",
        "OS=mac&v=1.2",
    ] {
        assert_eq!(refused(&grant, "GET", &format!("/d?{query}")), Some(Reason::Request), "{query}");
    }
}

#[test]
fn a_program_is_matched_itself() {
    let matcher = matcher_for("- { host: a.example, port: 443 }", "/usr/bin/curl");
    let to = target("a.example:443");
    let ask = |caller| matcher.connect(&to, caller).map(drop).map_err(|denial| denial.reason);
    assert!(matcher.needs_caller(&to));
    assert!(!matcher.needs_caller(&target("a.example:80")));
    assert_eq!(ask(Caller::Executable("/usr/bin/curl")), Ok(()));
    assert_eq!(ask(Caller::Executable("/usr/bin/curl (deleted)")), Err(Reason::Binary));
    assert_eq!(ask(Caller::Executable("/usr/bin/wget")), Err(Reason::Binary));
    assert_eq!(ask(Caller::Executable("usr/bin/curl")), Err(Reason::Binary));
    assert_eq!(ask(Caller::Executable("")), Err(Reason::Binary));
    assert_eq!(ask(Caller::Unknown), Err(Reason::CallerUnknown));
}

#[test]
fn who_cannot_be_told_does_not_get_around_a_rule_for_a_program() {
    let text = "version: 1\nnetwork_policies:\n  \
        all: {endpoints: [{host: a.example, port: 443}], binaries: [{path: /**}]}\n  \
        curl: {endpoints: [{host: a.example, port: 443, protocol: rest, enforcement: enforce, access: read-only}], \
        binaries: [{path: /usr/bin/curl}]}\n";
    let matcher = Matcher::new(&Policy::read(text).unwrap().policy);
    let to = target("a.example:443");
    assert_eq!(matcher.connect(&to, Caller::Unknown).unwrap_err().reason, Reason::CallerUnknown);
    let handling = |path| matcher.connect(&to, Caller::Executable(path)).unwrap().handling();
    assert_eq!(handling("/usr/bin/curl"), Handling::Inspect);
    assert_eq!(handling("/usr/bin/wget"), Handling::Passthrough);
}

#[test]
fn an_upgrade_needs_everything_to_be_allowed() {
    let endpoint = |rest: &str| format!("- {{ host: a.example, port: 443, enforcement: enforce, {rest} }}");
    let upgrade = |rest: &str, method: &str, upgrade: bool| {
        let grant = connect(&matcher(&endpoint(rest)), "a.example:443").unwrap();
        grant
            .request(method, &RequestPath::parse("/ws").unwrap(), upgrade)
            .map_err(|denial| denial.reason)
            .err()
    };
    for rest in [
        "protocol: rest, access: read-only",
        "protocol: rest, access: read-write",
        "protocol: rest, rules: [{allow: {method: GET, path: /ws}}]",
    ] {
        assert_eq!(upgrade(rest, "GET", false), None, "{rest}");
        assert_eq!(upgrade(rest, "GET", true), Some(Reason::Upgrade), "{rest}");
    }
    for rest in
        ["protocol: rest, access: full", "protocol: rest, rules: [{allow: {method: \"*\", path: /ws}}]"]
    {
        assert_eq!(upgrade(rest, "GET", true), None, "{rest}");
    }
    for rest in [
        "protocol: websocket, access: full",
        "protocol: websocket, rules: [{allow: {method: \"*\", path: /ws}}]",
    ] {
        assert_eq!(upgrade(rest, "GET", true), None, "{rest}");
        assert_eq!(upgrade(rest, "GET", false), Some(Reason::Request), "{rest}");
        assert_eq!(upgrade(rest, "POST", true), Some(Reason::Request), "{rest}");
    }
}

#[test]
fn audit_lets_pass_what_breaks_rules_and_nothing_else() {
    let endpoint = |enforcement: &str| {
        format!(
            "- {{ host: a.example, port: 443, protocol: rest, enforcement: {enforcement}, access: read-only, \
             deny_rules: [{{method: GET, path: /no}}] }}"
        )
    };
    let audit = connect(&matcher(&endpoint("audit")), "a.example:443").unwrap();
    assert_eq!(request(&audit, "GET", "/").unwrap().audit, None);
    assert_eq!(request(&audit, "POST", "/").unwrap().audit.unwrap().reason, Reason::Request);
    assert_eq!(request(&audit, "GET", "/no").unwrap().audit.unwrap().reason, Reason::DenyRule);
    assert_eq!(refused(&audit, "TRACE", "/"), Some(Reason::Method));
    assert_eq!(refused(&audit, "GET", "/a%2fb"), Some(Reason::EncodedSlash));
    let both = format!("{}\n{}", endpoint("audit"), endpoint("enforce"));
    let both = connect(&matcher(&both), "a.example:443").unwrap();
    assert_eq!(refused(&both, "POST", "/"), Some(Reason::Request), "one that enforces is enough");
}

#[test]
fn endpoints_that_choose_by_path_lend_each_other_nothing() {
    let endpoints = "- { host: a.example, port: 443, protocol: rest, enforcement: enforce, access: read-only }\n\
                     - { host: a.example, port: 443, path: /v1/**, protocol: rest, enforcement: enforce, rules: \
                     [{allow: {method: POST, path: /v1/chat}}] }\n\
                     - { host: a.example, port: 443, path: /v1/admin/**, protocol: rest, enforcement: audit, access: \
                     read-only }";
    let grant = connect(&matcher(endpoints), "a.example:443").unwrap();
    for (method, path, expected) in [
        ("GET", "/x", None),
        ("POST", "/x", Some(Reason::Request)),
        ("POST", "/v1/chat", None),
        ("GET", "/v1/chat", Some(Reason::Request)),
        ("GET", "/v1", Some(Reason::Request)),
        ("GET", "/v10", None),
        ("GET", "/v1/admin/a", None),
        ("POST", "/v1/admin/a", Some(Reason::Request)),
    ] {
        assert_eq!(refused(&grant, method, path), expected, "{method} {path}");
    }
}

#[test]
fn this_host_is_reached_by_its_names_alone() {
    let endpoints =
        "- { host: host.openshell.internal, port: 11434 }\n- { host: \"**.example.com\", port: 11434 }";
    let matcher = matcher(endpoints);
    let own = connect(&matcher, "Host.OpenShell.Internal.:11434").unwrap();
    assert_eq!(own.destination(), Destination::HostLoopback);
    assert_eq!(own.addresses(&["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()]), Ok(()));
    assert!(own.address("10.0.0.1".parse().unwrap()).is_err());
    assert!(own.address("169.254.169.254".parse().unwrap()).is_err());
    assert_eq!(connect(&matcher, "host.openshell.internal:22").unwrap_err(), Reason::Port);
    assert_eq!(connect(&matcher, "host.docker.internal:11434").unwrap_err(), Reason::Host);
    let other = connect(&matcher, "localhost.example.com:11434").unwrap();
    assert_eq!(other.destination(), Destination::Resolve);
    assert_eq!(other.address("127.0.0.1".parse().unwrap()).unwrap_err().reason, Reason::SpecialAddress);
}

#[test]
fn rules_lend_each_other_no_addresses() {
    let endpoints = "- { host: a.example, port: 443, protocol: rest, enforcement: enforce, access: full }\n\
                     - { host: a.example, port: 443, protocol: rest, enforcement: enforce, access: read-only, \
                     allowed_ips: [10.0.0.0/8] }";
    let grant = connect(&matcher(endpoints), "a.example:443").unwrap();
    assert_eq!(grant.address("10.0.0.1".parse().unwrap()).unwrap_err().reason, Reason::InternalAddress);
    assert_eq!(grant.address("93.184.216.34".parse().unwrap()).unwrap_err().reason, Reason::UnlistedAddress);
}

#[test]
fn the_empty_policy_allows_nothing() {
    let nothing = Matcher::nothing();
    assert_eq!(connect(&nothing, "a.example:443").unwrap_err(), Reason::Host);
    assert!(!nothing.resolves("a.example"));
    assert!(!nothing.needs_caller(&target("a.example:443")));
}
