//! `--mount SRC[:DST][:rw]`.

use std::path::PathBuf;

use clawkeep_daemon::api::HostMount;

use crate::problem::Problem;

/// What of the host is to be seen inside. The daemon decides whether it may be.
///
/// # Errors
/// What is no such thing, or is not there.
pub fn parse(text: &str) -> Result<HostMount, Problem> {
    let bad =
        |why: &str| Problem::usage("bad-mount", format!("--mount {text}: {why}"), "clawkeep onboard --help");
    let (rest, writable) = match text.strip_suffix(":rw") {
        Some(rest) => (rest, true),
        None => (text.strip_suffix(":ro").unwrap_or(text), false),
    };
    let (source, target) = match rest.split_once(':') {
        Some((_, target)) if target.contains(':') => return Err(bad("it has too many colons")),
        Some((source, target)) => (source, Some(target)),
        None => (rest, None),
    };
    if source.is_empty() {
        return Err(bad("it names nothing"));
    }
    // Links are followed once, here: from now on it is what it leads to.
    let real: PathBuf = std::fs::canonicalize(source).map_err(|error| bad(&error.to_string()))?;
    let target = match (target, real.to_str()) {
        (Some(target), _) => target.to_owned(),
        (None, Some(same)) => same.to_owned(),
        (None, None) => return Err(bad("its name is no text: say where it is to be seen, as SRC:DST")),
    };
    Ok(HostMount { source: real, target, writable })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn source_place_and_writing_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().canonicalize().unwrap();
        let text = real.to_str().unwrap();
        for (wanted, target, writable) in [
            (text.to_owned(), text, false),
            (format!("{text}:/data"), "/data", false),
            (format!("{text}:/data:ro"), "/data", false),
            (format!("{text}:/data:rw"), "/data", true),
            (format!("{text}:rw"), text, true),
        ] {
            let mount = parse(&wanted).unwrap();
            assert_eq!((mount.target.as_str(), mount.writable, &mount.source), (target, writable, &real));
        }
        std::os::unix::fs::symlink(&real, real.join("link")).unwrap();
        assert_eq!(parse(&format!("{text}/link:/data")).unwrap().source, real);
        for wrong in ["", ":/data", ":rw", "/no/such:/data", &format!("{text}:/a:/b")] {
            assert_eq!(parse(wrong).unwrap_err().failure.code, "bad-mount", "{wrong:?}");
        }
    }
}
