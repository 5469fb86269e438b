use std::fs;
use std::path::Path;

use serde_json::Value;

use super::InstallError;

/// Compare what npm says it installed below `app` (its hidden lock file) with the lock that we gave it: every
/// package that this machine needs is there, and none is there with another version or other bytes.
pub(super) fn check(app: &Path, lock: &Value, omit_optional: bool) -> Result<(), InstallError> {
    let installed = read(&app.join("node_modules/.package-lock.json"))?;
    let empty = serde_json::Map::new();
    let have = installed["packages"].as_object().unwrap_or(&empty);
    let want = lock["packages"].as_object().unwrap_or(&empty);
    for (path, package) in want.iter().filter(|(path, _)| !path.is_empty()) {
        match have.get(path) {
            Some(found) => same(path, package, found)?,
            None if needed(package, omit_optional) => return Err(wrong(path, package, "none")),
            None => {}
        }
    }
    match have.iter().find(|(path, _)| !want.contains_key(*path)) {
        Some((path, _)) => Err(InstallError::BadTree(format!("{path} is not in the lock"))),
        None => Ok(()),
    }
}

/// The package's own word about its version, read from its directory.
pub(super) fn check_version(package_dir: &Path, name: &str, wanted: &str) -> Result<(), InstallError> {
    let found = read(&package_dir.join("package.json"))?;
    match found["version"].as_str() {
        Some(found) if found == wanted => Ok(()),
        found => Err(InstallError::WrongVersion {
            package: name.to_owned(),
            found: found.unwrap_or("none").to_owned(),
            wanted: wanted.to_owned(),
        }),
    }
}

fn same(path: &str, want: &Value, have: &Value) -> Result<(), InstallError> {
    if have["version"] != want["version"] {
        return Err(wrong(path, want, have["version"].as_str().unwrap_or("none")));
    }
    if have["integrity"] != want["integrity"] {
        return Err(InstallError::IntegrityMismatch { package: path.to_owned() });
    }
    Ok(())
}

fn wrong(path: &str, want: &Value, found: &str) -> InstallError {
    InstallError::WrongVersion {
        package: path.to_owned(),
        found: found.to_owned(),
        wanted: want["version"].as_str().unwrap_or("none").to_owned(),
    }
}

/// Must this package be there on this machine? npm's own rules: `os`, `cpu` and `libc` are lists, an entry
/// with `!` excludes.
fn needed(package: &Value, omit_optional: bool) -> bool {
    let cpu = match std::env::consts::ARCH {
        "x86_64" => "x64",
        "aarch64" => "arm64",
        other => other,
    };
    let omitted = omit_optional && package["optional"] == true;
    !omitted
        && package["peer"] != true
        && [("os", "linux"), ("cpu", cpu), ("libc", "glibc")].iter().all(|(key, here)| {
            let Some(list) = package[*key].as_array() else { return true };
            let named = |name: &str| list.iter().any(|entry| entry == name);
            let only_excludes = list.iter().all(|e| e.as_str().is_some_and(|e| e.starts_with('!')));
            !named(&format!("!{here}")) && (named(here) || only_excludes)
        })
}

fn read(path: &Path) -> Result<Value, InstallError> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map_err(|error| InstallError::BadTree(format!("{} is not JSON: {error}", path.display()))),
        // Nothing there: the caller sees a package without a version.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Value::Null),
        Err(error) => Err(InstallError::io("read", path, error)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn checked(have: &Value, omit_optional: bool) -> Result<(), InstallError> {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("node_modules")).unwrap();
        fs::write(dir.path().join("node_modules/.package-lock.json"), have.to_string()).unwrap();
        let lock = json!({"packages": {
            "": {"dependencies": {"a": "1"}},
            "a": {"version": "1", "integrity": "sha512-a"},
            "win": {"version": "1", "integrity": "sha512-w", "optional": true, "os": ["win32"]},
            "musl": {"version": "1", "integrity": "sha512-m", "optional": true, "os": ["linux"], "libc": ["musl"]},
            "native": {"version": "2", "integrity": "sha512-n", "optional": true, "os": ["!win32"]},
        }});
        check(dir.path(), &lock, omit_optional)
    }

    #[test]
    fn a_tree_as_the_lock_says_passes_and_each_deviation_is_named() {
        let full = json!({"packages": {
            "a": {"version": "1", "integrity": "sha512-a"},
            "native": {"version": "2", "integrity": "sha512-n"},
        }});
        checked(&full, false).unwrap();

        let mut other = full.clone();
        other["packages"]["a"]["version"] = json!("2");
        assert_eq!(checked(&other, false).unwrap_err().code(), "wrong-version");
        other["packages"]["a"] = json!({"version": "1", "integrity": "sha512-evil"});
        assert_eq!(checked(&other, false).unwrap_err().code(), "integrity-mismatch");

        let mut extra = full.clone();
        extra["packages"]["b"] = json!({"version": "1"});
        assert_eq!(checked(&extra, false).unwrap_err().code(), "bad-tree");

        // An optional package that npm dropped silently, as it does when its own Node does not fit.
        let mut dropped = full.clone();
        dropped["packages"].as_object_mut().unwrap().remove("native");
        let error = checked(&dropped, false).unwrap_err();
        assert_eq!(error.to_string(), "native: version none was installed where 2 is pinned");
        checked(&dropped, true).unwrap();
        assert_eq!(checked(&Value::Null, true).unwrap_err().code(), "wrong-version");
    }
}
