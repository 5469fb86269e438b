//! From [`Policy`] to text that reads back as the same policy.

use std::fmt::Write as _;

use crate::glob::Glob;
use crate::model::{
    Allow, Endpoint, Enforcement, Inspection, Landlock, NetworkRule, Policy, Protocol, RequestRule,
};

impl Policy {
    /// The policy as YAML, every default said. Read again it is equal; comments of the file it came from are gone.
    pub fn to_yaml(&self) -> String {
        let mut out = Out(String::from("version: 1\n"));
        if let Some(preset) = &self.preset {
            out.line(0, "preset:");
            out.pair(1, "name", &preset.name);
            out.pair(1, "description", &preset.description);
        }
        if let Some(filesystem) = &self.filesystem {
            out.map(0, "filesystem_policy", *filesystem == Default::default());
            if let Some(include) = filesystem.include_workdir {
                out.line(1, &format!("include_workdir: {include}"));
            }
            out.list(1, "read_only", &filesystem.read_only);
            out.list(1, "read_write", &filesystem.read_write);
        }
        if let Some(landlock) = self.landlock {
            out.map(0, "landlock", landlock == Landlock::Unsaid);
            match landlock {
                Landlock::Unsaid => {}
                Landlock::BestEffort => out.pair(1, "compatibility", "best_effort"),
                Landlock::HardRequirement => out.pair(1, "compatibility", "hard_requirement"),
            }
        }
        if let Some(process) = &self.process {
            out.map(0, "process", *process == Default::default());
            for (key, value) in
                [("run_as_user", &process.run_as_user), ("run_as_group", &process.run_as_group)]
            {
                if let Some(value) = value {
                    out.pair(1, key, value);
                }
            }
        }
        out.map(0, "network_policies", self.network.is_empty());
        for rule in &self.network {
            out.rule(rule);
        }
        out.0
    }
}

struct Out(String);

impl Out {
    fn line(&mut self, depth: usize, text: &str) {
        // Writing to a string does not fail.
        let _ = writeln!(self.0, "{:1$}{text}", "", depth * 2);
    }

    fn pair(&mut self, depth: usize, key: &str, value: &str) {
        self.line(depth, &format!("{key}: {}", scalar(value)));
    }

    fn map(&mut self, depth: usize, key: &str, empty: bool) {
        self.line(depth, &format!("{}:{}", scalar(key), if empty { " {}" } else { "" }));
    }

    fn list(&mut self, depth: usize, key: &str, items: &[String]) {
        if items.is_empty() {
            return;
        }
        self.line(depth, &format!("{key}:"));
        for item in items {
            self.line(depth + 1, &format!("- {}", scalar(item)));
        }
    }

    fn rule(&mut self, rule: &NetworkRule) {
        self.map(1, &rule.key, false);
        if let Some(name) = &rule.name {
            self.pair(2, "name", name);
        }
        self.line(2, "endpoints:");
        for endpoint in &rule.endpoints {
            self.endpoint(endpoint);
        }
        self.line(2, "binaries:");
        for binary in &rule.binaries {
            self.line(3, &format!("- path: {}", scalar(binary.as_str())));
        }
    }

    fn endpoint(&mut self, endpoint: &Endpoint) {
        self.line(3, &format!("- host: {}", scalar(&endpoint.host.to_string())));
        match endpoint.ports.as_slice() {
            [port] => self.line(4, &format!("port: {port}")),
            ports => {
                let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
                self.line(4, &format!("ports: [{}]", ports.join(", ")));
            }
        }
        if endpoint.tls_skip {
            self.line(4, "tls: skip");
        }
        if endpoint.allow_encoded_slash {
            self.line(4, "allow_encoded_slash: true");
        }
        let ranges: Vec<String> = endpoint.allowed_ips.iter().map(ToString::to_string).collect();
        self.list(4, "allowed_ips", &ranges);
        match &endpoint.inspection {
            Some(inspection) => self.inspection(inspection),
            None => self.line(4, "access: full"),
        }
    }

    fn inspection(&mut self, inspection: &Inspection) {
        if let Some(selector) = &inspection.selector {
            self.pair(4, "path", selector.as_str());
        }
        self.line(
            4,
            match inspection.protocol {
                Protocol::Rest => "protocol: rest",
                Protocol::WebSocket => "protocol: websocket",
            },
        );
        self.line(
            4,
            match inspection.enforcement {
                Enforcement::Enforce => "enforcement: enforce",
                Enforcement::Audit => "enforcement: audit",
            },
        );
        match &inspection.allow {
            Allow::Access(access) => self.pair(4, "access", access.as_str()),
            Allow::Rules(rules) => {
                self.line(4, "rules:");
                for rule in rules {
                    self.line(5, "- allow:");
                    self.request(rule, 7, 7);
                }
            }
        }
        if !inspection.deny.is_empty() {
            self.line(4, "deny_rules:");
            for rule in &inspection.deny {
                self.request(rule, 5, 6);
            }
        }
    }

    fn request(&mut self, rule: &RequestRule, first: usize, depth: usize) {
        let dash = if first == depth { "" } else { "- " };
        self.line(first, &format!("{dash}method: {}", scalar(&rule.method.to_string())));
        self.pair(depth, "path", rule.path.as_str());
        if rule.query.is_empty() {
            return;
        }
        self.line(depth, "query:");
        for (name, patterns) in &rule.query {
            match patterns.as_slice() {
                [one] => self.pair(depth + 1, &scalar(name), one.as_str()),
                several => {
                    self.map(depth + 1, name, false);
                    let texts: Vec<String> = several.iter().map(Glob::as_str).map(str::to_owned).collect();
                    self.list(depth + 2, "any", &texts);
                }
            }
        }
    }
}

/// A text as a YAML scalar: plain where nobody can take it for anything else, else in double quotes.
fn scalar(text: &str) -> String {
    let words = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    let plain = text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '/')
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte))
        && !words.iter().any(|word| word.eq_ignore_ascii_case(text));
    if plain {
        return text.to_owned();
    }
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            ' '..='~' => quoted.push(character),
            // YAML 1.2, section 5.7.
            other => {
                let _ = write!(quoted, "\\U{:08x}", u32::from(other));
            }
        }
    }
    quoted.push('"');
    quoted
}
