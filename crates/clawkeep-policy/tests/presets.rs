//! The presets: what they say, and that they come and go.

use clawkeep_policy::{Caller, Matcher, Policy, RequestPath, Target, preset, presets, tier, tiers};

fn target(text: &str) -> Target {
    Target::parse(text.as_bytes(), None).unwrap()
}

#[test]
fn every_preset_reads_without_a_word_and_writes_itself() {
    for preset in presets() {
        let reading = Policy::read(preset.yaml).unwrap();
        assert_eq!(reading.notes, [], "{}", preset.name);
        let again = Policy::read(&reading.policy.to_yaml()).unwrap();
        assert_eq!(again.policy, reading.policy, "{}", preset.name);
    }
}

#[test]
fn the_list_of_presets() {
    let list: String =
        presets().iter().map(|preset| format!("{:16} {}\n", preset.name, preset.description)).collect();
    insta::assert_snapshot!(list);
}

#[test]
fn tiers_name_presets_and_each_holds_the_one_before() {
    for pair in tiers().windows(2) {
        assert!(pair[0].presets.iter().all(|name| pair[1].presets.contains(name)));
    }
    for tier in tiers() {
        assert!(tier.presets.iter().all(|name| preset(name).is_some()), "{}", tier.name);
    }
    assert!(tier("restricted").unwrap().presets.is_empty());
    assert_eq!(tier("open").unwrap().presets.len(), presets().len());
    assert!(tier("wide").is_none());
}

#[test]
fn all_presets_go_together_come_and_go() {
    let mut policy = Policy::default();
    for preset in presets() {
        assert_eq!(policy.add(&preset.policy), Ok(true), "{}", preset.name);
        assert_eq!(policy.add(&preset.policy), Ok(false), "{}", preset.name);
        assert!(policy.includes(&preset.policy));
    }
    assert_eq!(Policy::read(&policy.to_yaml()).unwrap().policy, policy);
    for preset in presets() {
        assert!(policy.remove(&preset.policy));
        assert!(!policy.remove(&preset.policy));
        assert!(!policy.includes(&preset.policy));
    }
    assert_eq!(policy, Policy::default());
}

#[test]
fn a_rule_of_ones_own_is_not_overwritten() {
    let text = "version: 1\nnetwork_policies:\n  npm_yarn:\n    endpoints: [{host: a.example, port: 443}]\n    \
                binaries: [{path: /usr/bin/curl}]\n";
    let mut policy = Policy::read(text).unwrap().policy;
    let before = policy.clone();
    let error = policy.add(&preset("npm").unwrap().policy).unwrap_err();
    assert_eq!(error.to_string(), "the policy has a rule `npm_yarn` of its own that says something else");
    assert_eq!(policy, before);
}

/// What each preset is for works, and what it is not for does not.
#[test]
fn presets_open_what_they_are_for() {
    for (name, at, method, path, allowed) in [
        ("npm", "registry.npmjs.org:443", "GET", "/left-pad", true),
        ("npm", "registry.npmjs.org:443", "GET", "/@types%2fnode", true),
        ("npm", "registry.npmjs.org:443", "POST", "/-/npm/v1/security/advisories/bulk", true),
        ("npm", "registry.npmjs.org:443", "PUT", "/left-pad", false),
        ("pypi", "pypi.org:443", "GET", "/simple/requests/", true),
        ("pypi", "files.pythonhosted.org:443", "GET", "/packages/a/b.whl", true),
        ("pypi", "pypi.org:443", "POST", "/legacy/", false),
        ("crates", "index.crates.io:443", "GET", "/se/rd/serde", true),
        ("crates", "static.crates.io:443", "GET", "/crates/serde/serde-1.0.0.crate", true),
        ("apt", "deb.debian.org:80", "GET", "/debian/dists/stable/InRelease", true),
        ("brew", "ghcr.io:443", "GET", "/v2/homebrew/core/jq/manifests/1.7", true),
        ("brew", "ghcr.io:443", "GET", "/v2/somebody/else/manifests/1", false),
        ("github", "github.com:443", "POST", "/a/b.git/git-receive-pack", true),
        ("github", "api.github.com:443", "POST", "/repos/a/b/issues", true),
        ("github", "api.github.com:443", "DELETE", "/repos/a/b", false),
        ("huggingface", "huggingface.co:443", "GET", "/gpt2/resolve/main/config.json", true),
        ("huggingface", "cas-bridge.xethub.hf.co:443", "GET", "/xet-bridge-us/a", true),
        ("huggingface", "huggingface.co:443", "POST", "/api/repos/create", false),
        ("local-inference", "host.openshell.internal:11434", "POST", "/api/chat", true),
        ("local-inference", "host.docker.internal:8000", "POST", "/v1/chat/completions", true),
        ("local-inference", "host.openshell.internal:11434", "DELETE", "/api/delete", false),
        ("local-inference", "host.openshell.internal:11434", "POST", "/api/pull", false),
        ("telegram", "api.telegram.org:443", "POST", "/bot1:x/sendMessage", true),
        ("telegram", "api.telegram.org:443", "GET", "/file/bot1:x/photos/a.jpg", true),
        ("telegram", "api.telegram.org:443", "POST", "/other", false),
        ("discord", "discord.com:443", "POST", "/api/v10/channels/1/messages", true),
        ("discord", "discord.com:443", "GET", "/login", false),
        ("discord", "gateway.discord.gg:443", "GET", "/", true),
        ("slack", "slack.com:443", "POST", "/api/chat.postMessage", true),
        ("slack", "wss-primary.slack.com:443", "GET", "/", true),
        ("slack", "hooks.slack.com:443", "GET", "/services/a", false),
        ("whatsapp", "media-fra3-1.cdn.whatsapp.net:443", "POST", "/mms/image/a", true),
        ("outlook", "graph.microsoft.com:443", "POST", "/v1.0/me/sendMail", true),
        ("jira", "mine.atlassian.net:443", "POST", "/rest/api/3/issue", true),
        ("brave", "api.search.brave.com:443", "GET", "/res/v1/web/search?q=a", true),
        ("duckduckgo", "html.duckduckgo.com:443", "POST", "/html/", true),
        ("weather", "wttr.in:443", "GET", "/Berlin?format=3", true),
        ("weather", "api.open-meteo.com:443", "GET", "/v1/forecast?latitude=1", true),
    ] {
        let matcher = Matcher::new(&preset(name).unwrap().policy);
        let path = RequestPath::parse(path).unwrap();
        let grant = matcher.connect(&target(at), Caller::Unknown).unwrap();
        assert_eq!(grant.request(method, &path, false).is_ok(), allowed, "{name}: {method} {at} {path}");
    }
}
