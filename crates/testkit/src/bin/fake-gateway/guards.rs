use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use clawkeep_plan::{Digest, LoadedGuard};

use crate::sys;

/// What was loaded before the gateway's own code.
pub struct Loaded {
    /// In order.
    pub guards: Vec<LoadedGuard>,
    /// Whether each was written to the receipt pipe.
    pub receipt: bool,
}

/// Do what Node does with `NODE_OPTIONS` and what our guards then do: read each `--require`d file, write its
/// line to `CLAWKEEP_RECEIPT_FD`, close that after `CLAWKEEP_RECEIPT_GUARDS` lines. Err: the path that could
/// not be loaded, on which Node exits at once.
pub fn load(env: &BTreeMap<String, String>) -> Result<Loaded, String> {
    let number = |name: &str| env.get(name).and_then(|value| value.parse::<i32>().ok());
    let mut pipe = number("CLAWKEEP_RECEIPT_FD").and_then(sys::take_fd);
    let mut awaited = number("CLAWKEEP_RECEIPT_GUARDS").unwrap_or(0);
    let paths = required(env.get("NODE_OPTIONS").map_or("", String::as_str));
    let mut loaded = Loaded { guards: Vec::new(), receipt: pipe.is_some() && !paths.is_empty() };
    for path in paths {
        let bytes = std::fs::read(&path).map_err(|_| path.clone())?;
        let guard = LoadedGuard { name: name_of(&path), digest: Digest::of(&bytes) };
        let written = pipe.as_mut().is_some_and(|pipe| pipe.write_all(guard.to_line().as_bytes()).is_ok());
        loaded.receipt &= written;
        loaded.guards.push(guard);
        awaited -= 1;
        if awaited <= 0 {
            pipe = None;
        }
    }
    // Still awaited guards keep the pipe open for as long as the process lives, as in Node.
    std::mem::forget(pipe);
    Ok(loaded)
}

/// `/opt/clawkeep/guards/x.js` and `/tmp/nemoclaw-x.js` are both the guard `x`.
fn name_of(path: &str) -> String {
    let stem = Path::new(path).file_stem().unwrap_or_default().to_string_lossy();
    stem.strip_prefix("nemoclaw-").unwrap_or(&stem).to_owned()
}

/// The paths of `--require PATH`, `--require=PATH` and `-r PATH`, words split as Node splits NODE_OPTIONS:
/// at spaces, double quotes keep them, a backslash in quotes escapes.
fn required(options: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    let mut chars = options.chars();
    while let Some(char) = chars.next() {
        match char {
            '"' => quoted = !quoted,
            '\\' if quoted => words.last_mut().expect("one word").extend(chars.next()),
            ' ' if !quoted => words.push(String::new()),
            other => words.last_mut().expect("one word").push(other),
        }
    }
    let mut words = words.into_iter().filter(|word| !word.is_empty());
    let mut paths = Vec::new();
    while let Some(word) = words.next() {
        if word == "--require" || word == "-r" {
            paths.extend(words.next());
        } else if let Some(path) = word.strip_prefix("--require=") {
            paths.push(path.to_owned());
        }
    }
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_node_would_require() {
        assert_eq!(
            required(r#"--max-old-space-size=9 --require /a.js  -r "/b c\"d.js" --require=/e.js --no-x"#),
            ["/a.js", "/b c\"d.js", "/e.js"]
        );
        assert_eq!(required(""), Vec::<String>::new());
        assert_eq!(name_of("/opt/clawkeep/guards/ciao-network-guard.js"), "ciao-network-guard");
        assert_eq!(name_of("/tmp/nemoclaw-ciao-network-guard.js"), "ciao-network-guard");
    }
}
