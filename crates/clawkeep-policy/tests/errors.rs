//! What people read about a policy that cannot be enforced as it is written.

use std::fmt::Write as _;

use clawkeep_policy::Policy;

/// A rule with this endpoint.
fn with_endpoint(endpoint: &str) -> String {
    format!(
        "version: 1\nnetwork_policies:\n  site:\n    endpoints:\n      - {}\n    binaries:\n      - path: /usr/bin/curl\n",
        endpoint.replace('\n', "\n        ")
    )
}

fn report(texts: &[String]) -> String {
    let mut report = String::new();
    for text in texts {
        match Policy::read(text) {
            Ok(reading) => panic!("this is accepted: {text}\n{:?}", reading.policy),
            Err(error) => {
                writeln!(report, "error[{}]: {error}\n  next: {}\n", error.code, error.next).unwrap()
            }
        }
    }
    report
}

#[test]
fn endpoints_that_cannot_be_enforced() {
    let texts = [
        "port: 443",
        "host: a.example",
        "host: a.example\nport: 443\nports: [80]",
        "host: a.example\nport: 0",
        "host: a.example\nport: \"443\"",
        "host: a.example\nports: []",
        "host: a.example\nports: [443, 443]",
        "host: a.example\nport: 6443",
        "host: \"*\"\nport: 443",
        "host: \"*.com\"\nport: 443",
        "host: \"a.**.example.com\"\nport: 443",
        "host: \"api*.eu*.example.com\"\nport: 443",
        "host: https://a.example\nport: 443",
        "host: b\u{fc}cher.example\nport: 443",
        "host: 127.1\nport: 443",
        "host: 169.254.169.254\nport: 80",
        "host: localhost\nport: 80",
        "host: \"::ffff:10.0.0.1\"\nport: 80",
        "host: localhost.example\nport: 80\nallowed_ips: [127.0.0.0/8]",
        "host: a.example\nport: 80\nallowed_ips: [0.0.0.0/0]",
        "host: a.example\nport: 80\nallowed_ips: [10.1.2.3/8]",
        "host: a.example\nport: 80\nallowed_ips: []",
        "host: a.example\nport: 443\nprotocol: rest",
        "host: a.example\nport: 443\nprotocol: rest\naccess: read-only\nrules: [{allow: {method: GET, path: /}}]",
        "host: a.example\nport: 443\nprotocol: rest\nrules: []",
        "host: a.example\nport: 443\nprotocol: rest\naccess: read-only\ndeny_rules: []",
        "host: a.example\nport: 443\ndeny_rules: [{method: GET, path: /}]",
        "host: a.example\nport: 443\nprotocol: rest\naccess: read-only\ntls: skip",
        "host: a.example\nport: 443\nprotocol: rest\naccess: everything",
        "host: a.example\nport: 443\nprotocol: graphql\naccess: read-only",
        "host: a.example\nport: 443\nprotocol: mcp\nmcp: {max_body_bytes: 1}",
        "host: a.example\nport: 443\nprotocol: websocket\naccess: read-only",
        "host: a.example\nport: 443\nprotocol: websocket\nrules: [{allow: {method: WEBSOCKET_TEXT, path: /}}]",
        "host: a.example\nport: 443\nwebsocket_credential_rewrite: true",
        "host: a.example\nport: 443\ncredential_signing: sigv4",
        "host: a.example\nport: 443\nenforcment: enforce",
        "host: a.example\nport: 443\nallow_encoded_slash: \"true\"",
        "host: a.example\nport: 443\npath: /v1/**",
        "host: a.example\nport: 443\nprotocol: rest\nrules: [{allow: {method: GET, path: \"/a b\"}}]",
        "host: a.example\nport: 443\nprotocol: rest\nrules: [{allow: {method: GET, path: /a/../b}}]",
        "host: a.example\nport: 443\nprotocol: rest\nrules: [{allow: {method: GET, path: \"/[a\"}}]",
        "host: a.example\nport: 443\nprotocol: rest\nrules: [{allow: {method: GET, path: /%61}}]",
        "host: a.example\nport: 443\nprotocol: rest\nrules: [{allow: {path: /}}]",
        "host: a.example\nport: 443\nprotocol: rest\nrules: [{method: GET, path: /}]",
        "host: a.example\nport: 443\nprotocol: rest\nrules: [{allow: {method: GET, path: /, query: {a: {all: [b]}}}}]",
        "host: a.example\nport: 443\nprotocol: rest\naccess: full\ndeny_rules: [{method: [GET], path: /}]",
    ]
    .map(with_endpoint);
    insta::assert_snapshot!(report(&texts));
}

#[test]
fn files_that_cannot_be_enforced() {
    let deep = format!("version: 1\nnetwork_policies: {}", "[".repeat(100_000));
    let bomb = "version: 1\na: &a [x, x]\nb: &b [*a, *a]\n";
    let texts = [
        "",
        "- a",
        "version: 2",
        "network_policies: {}",
        "version: 1\nnetwork_policy: {}",
        "version: 1\nnetwork_middlewares: {}",
        "version: 1\nversion: 1",
        "version: 1\nnetwork_policies:\n  a: {endpoints: [{host: a.example, port: 1}], binaries: [{path: /a}]}\n  a: {}",
        bomb,
        "version: 1\nnetwork_policies: {<<: {a: b}}",
        "version: !!int 1",
        "version: 1\n---\nversion: 1",
        "version: 1\nnetwork_policies:\n\t- a",
        "version: 1\nnetwork_policies: \"",
        &deep,
        "version: 1\nnetwork_policies: []",
        "version: 1\nnetwork_policies: {_provider_x: {endpoints: [{host: a.example, port: 1}], binaries: [{path: /a}]}}",
        "version: 1\nnetwork_policies: {a: {endpoints: [{host: a.example, port: 1}]}}",
        "version: 1\nnetwork_policies: {a: {endpoints: [{host: a.example, port: 1}], binaries: []}}",
        "version: 1\nnetwork_policies: {a: {endpoints: [], binaries: [{path: /a}]}}",
        "version: 1\nnetwork_policies: {a: {endpoints: [{host: a.example, port: 1}], binaries: [{path: curl}]}}",
        "version: 1\nnetwork_policies: {a: {endpoints: [{host: a.example, port: 1}], binaries: [/usr/bin/curl]}}",
        "version: 1\nfilesystem_policy: {read_write: [/etc]}",
        "version: 1\nfilesystem_policy: {read_write: [/sandbox/../etc]}",
        "version: 1\nfilesystem_policy: {read_only: [/sandbox/.openclaw]}",
        "version: 1\nfilesystem_policy: {read_only: /usr}",
        "version: 1\nlandlock: {compatibility: soft}",
        "version: 1\nprocess: {run_as_user: root}",
        "version: 1\nprocess: {run_as_user: sandbox, run_as_group: \"0\"}",
        "preset: {name: x}",
    ]
    .map(str::to_owned);
    insta::assert_snapshot!(report(&texts));
    let long = format!("version: 1\n# {}\n", "x".repeat(4 * 1024 * 1024));
    assert_eq!(Policy::read(&long).unwrap_err().code, "policy-too-long");
}

#[test]
fn what_is_said_about_a_file_that_relies_on_laxer_defaults() {
    let text = r#"
version: 1
filesystem_policy:
  include_workdir: true
  read_only: [/usr, /lib, /proc, /dev/urandom, /app, /etc, /var/log]
  read_write: [/sandbox, /tmp, /dev/null]
landlock:
  compatibility: best_effort
process:
  run_as_user: sandbox
  run_as_group: sandbox
network_policies:
  lax:
    name: lax
    endpoints:
      - host: a.example
        port: 443
        protocol: rest
        access: read-only
      - host: b.example
        port: 443
        protocol: rest
        enforcement: audit
        tls: terminate
        access: read-only
      - host: c.example
        port: 443
        rules:
          - allow: { method: GET, path: "/**" }
      - host: d.example
        port: 443
        enforcement: enforce
        rules:
          - allow: { method: "*", path: "/**" }
      - { host: 10.1.2.3, port: 443 }
      - { host: 10.1.2.3, port: 80, allowed_ips: [10.0.0.0/8] }
      - { host: host.openshell.internal, port: 11434, allowed_ips: [172.16.0.0/12] }
      - { host: inference.local, port: 443 }
    binaries:
      - { path: /usr/local/bin/node }
"#;
    let reading = Policy::read(text).unwrap();
    let notes: String = reading.notes.iter().map(|note| format!("[{}] {note}\n", note.code)).collect();
    insta::assert_snapshot!(format!("{notes}\n{}", reading.policy.to_yaml()));
    // Everything is said in what is written: reading it again says no more than the walls and the audit.
    let again = Policy::read(&reading.policy.to_yaml()).unwrap();
    assert_eq!(again.policy, reading.policy);
    assert!(again.notes.iter().all(|note| !note.code.ends_with("-default")));
}
