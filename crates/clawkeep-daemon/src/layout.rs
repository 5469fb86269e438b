//! Where in the lower tier lies what a plan names by its path inside: nothing is mounted there, so the agent finds its
//! home, its `/tmp`, the guards and its bundle at their own places on the host.

use std::collections::BTreeMap;
use std::path::Path;

use clawkeep_guards::ENV_FILE_NAME;
use clawkeep_isolation::SandboxSpec;
use clawkeep_plan::{LaunchPlan, Tier};

/// What a path may stand behind in a value: an option's name, another path of a list, a quote.
const BEFORE: [char; 5] = [' ', ':', '=', '"', '\''];

/// Paths inside, each with its place on the host; the longest first, so that the innermost is found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Layout(Vec<(String, String)>);

impl Layout {
    /// That of a sandbox of this specification; empty where everything is where the plan says. The system is
    /// at its place in any case.
    pub fn of(spec: &SandboxSpec) -> Self {
        if spec.tier == Tier::Namespaces {
            return Self::default();
        }
        let place = |mount: &clawkeep_isolation::Mount| {
            // Of the system, what lies behind a link is found by that link.
            let ours = ["/sandbox", "/tmp", "/run", "/opt"]
                .iter()
                .any(|dir| Path::new(&mount.target).starts_with(dir));
            ours.then(|| (mount.target.clone(), mount.source.to_string_lossy().into_owned()))
        };
        let mut places: Vec<_> = spec.mounts.iter().filter_map(place).collect();
        places.sort_by_key(|(inside, _)| std::cmp::Reverse(inside.len()));
        Self(places)
    }

    /// A place that no mount of the specification names yet.
    pub fn add(&mut self, inside: &str, outside: &Path) {
        self.0.insert(0, (inside.to_owned(), outside.to_string_lossy().into_owned()));
        self.0.sort_by_key(|(inside, _)| std::cmp::Reverse(inside.len()));
    }

    /// Every path in this text that begins a value or a part of one, as it is on the host.
    pub fn relocate(&self, text: &str) -> String {
        let mut done = String::with_capacity(text.len());
        let mut rest = text;
        while !rest.is_empty() {
            let begins =
                done.chars().next_back().is_none_or(|before| BEFORE.contains(&before) || before == '\n');
            let place = self.0.iter().filter(|_| begins).find_map(|(inside, outside)| {
                let after = rest.strip_prefix(inside.as_str())?;
                let whole = after.chars().next().is_none_or(|c| c == '/' || BEFORE.contains(&c) || c == '\n');
                whole.then_some((outside, after))
            });
            if let Some((outside, after)) = place {
                done += outside;
                rest = after;
            } else if let Some(next) = rest.chars().next() {
                done.push(next);
                rest = &rest[next.len_utf8()..];
            }
        }
        done
    }

    /// The same in everything of a plan that names a path.
    pub fn relocate_plan(&self, plan: &mut LaunchPlan) {
        plan.argv.iter_mut().for_each(|argument| *argument = self.relocate(argument));
        plan.cwd = self.relocate(&plan.cwd);
        self.relocate_env(&mut plan.env);
        plan.guards.iter_mut().for_each(|guard| guard.path = self.relocate(&guard.path));
        plan.files.iter_mut().for_each(|file| file.path = self.relocate(&file.path));
    }

    /// The same in an environment.
    pub fn relocate_env(&self, env: &mut BTreeMap<String, String>) {
        env.values_mut().for_each(|value| *value = self.relocate(value));
    }

    /// The same in what is published: in the file for shells. A guard is its bytes.
    pub fn relocate_published(&self, published: &mut [(String, Vec<u8>)]) {
        for (_, bytes) in published.iter_mut().filter(|(name, _)| name == ENV_FILE_NAME) {
            *bytes = self.relocate(&String::from_utf8_lossy(bytes)).into_bytes();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn layout() -> Layout {
        let places =
            [("/opt/clawkeep/guards", "/h/guards/1"), ("/sandbox", "/h/box/home"), ("/tmp", "/h/box/tmp")];
        Layout(places.map(|(inside, outside)| (inside.to_owned(), outside.to_owned())).into())
    }

    #[test]
    fn paths_are_led_to_their_places_and_what_only_looks_like_one_is_left() {
        for (text, wanted) in [
            ("/sandbox", "/h/box/home"),
            ("/sandbox/.agent/x", "/h/box/home/.agent/x"),
            (
                "--require /opt/clawkeep/guards/a.js --require /tmp/b.js",
                "--require /h/guards/1/a.js --require /h/box/tmp/b.js",
            ),
            ("/sandbox/bin:/usr/bin:/tmp", "/h/box/home/bin:/usr/bin:/h/box/tmp"),
            (
                "export HOME=\"/sandbox\"\nexport X='/tmp'",
                "export HOME=\"/h/box/home\"\nexport X='/h/box/tmp'",
            ),
            ("--config=/sandbox/c", "--config=/h/box/home/c"),
            ("/sandboxes /tmpfile /var/tmp x/tmp", "/sandboxes /tmpfile /var/tmp x/tmp"),
            ("http://127.0.0.1:3128", "http://127.0.0.1:3128"),
            ("", ""),
        ] {
            assert_eq!(layout().relocate(text), wanted);
            assert_eq!(Layout::default().relocate(text), text);
        }
    }

    proptest! {
        #[test]
        fn what_has_no_such_path_stays(text in "[a-z\u{e4} :=/\"]{0,40}") {
            prop_assume!(!text.contains("/sandbox") && !text.contains("/tmp"));
            prop_assert_eq!(layout().relocate(&text), text);
        }
    }
}
