use std::fs::{self, File, Permissions};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use clawkeep_plan::{Digest, to_canonical_json};
use clawkeep_store::staging;
use serde_json::{Value, json};

use super::bundle::{ENTRY, MANIFEST, NODE, RECORD, Record};
use super::manifest::{self, Sum, write_synced};
use super::npm::Run;
use super::{Bundle, InstallError, NodePin, Npm, Release, installed};
use crate::Cancel;

/// What an installation is doing. Times are since its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// The bundle was already there.
    Cached,
    /// Another installer is at work; this one waits for it.
    Waiting,
    /// npm fetches the runtime.
    Runtime {
        /// Since the start.
        elapsed: Duration,
        /// About how many bytes were written so far: what the file system has less than at the start.
        bytes: u64,
    },
    /// npm fetches the agent.
    Agent {
        /// Since the start.
        elapsed: Duration,
        /// As for the runtime.
        bytes: u64,
    },
    /// Everything is read, hashed and listed.
    Verifying {
        /// Since the start.
        elapsed: Duration,
        /// Hashed so far.
        bytes: u64,
    },
    /// The disk takes it in.
    Syncing {
        /// Since the start.
        elapsed: Duration,
    },
    /// The bundle has its name.
    Done {
        /// Since the start.
        elapsed: Duration,
        /// The bundle's size.
        bytes: u64,
    },
}

/// The command `openclaw` inside the sandbox, for people and for the agent's tools.
///
/// Beside it, wherever the bundle is shown. OpenClaw takes `NODE_OPTIONS` from its tools; where it cannot do without
/// (the lower tier), the launch names it a second time.
const WRAPPER: &str = "#!/bin/sh\n\
    export NODE_OPTIONS=\"${NODE_OPTIONS:-$CLAWKEEP_NODE_OPTIONS}\"\n\
    here=\"${0%/*}\"\n\
    exec \"$here/node\" \"$here/../app/node_modules/openclaw/openclaw.mjs\" \"$@\"\n";

/// The bundle of this release below `root`, installed from npm if it is not there. Blocks; `progress` is called
/// on this thread. Killed at any moment it leaves no bundle under a final name but a whole one; a second
/// installer waits for the first.
///
/// The runtime always comes along, also where the host has a Node.js that fits: the host's changes under a
/// running sandbox with the next upgrade, and a launch is pinned to the bytes of its runtime.
///
/// # Errors
/// Why it failed; nothing but npm's cache (`root/.npm-cache`) is left then, which makes the next try fast.
pub fn install(
    root: &Path,
    release: &Release,
    npm: &Npm,
    cancel: &Cancel,
    progress: &mut dyn FnMut(Progress),
) -> Result<Bundle, InstallError> {
    install_where(root, release, npm, cancel, progress, &|_| true)
}

/// As [`install()`], but a bundle of which a file is missing or altered is no bundle: it is installed anew in its
/// place. Sandboxes that have the old one mounted see the new one when they are made anew.
///
/// # Errors
/// As [`install()`].
pub fn repair(
    root: &Path,
    release: &Release,
    npm: &Npm,
    cancel: &Cancel,
    progress: &mut dyn FnMut(Progress),
) -> Result<Bundle, InstallError> {
    install_where(root, release, npm, cancel, progress, &|bundle| bundle.verify_full().is_ok())
}

fn install_where(
    root: &Path,
    release: &Release,
    npm: &Npm,
    cancel: &Cancel,
    progress: &mut dyn FnMut(Progress),
    good: &dyn Fn(&Bundle) -> bool,
) -> Result<Bundle, InstallError> {
    let (arch, version) = (std::env::consts::ARCH, release.version);
    let node = release.node_here().ok_or(InstallError::UnsupportedMachine { arch, version })?;
    if let Some(bundle) = Bundle::find(root, release).filter(good) {
        progress(Progress::Cached);
        return Ok(bundle);
    }
    let made = fs::DirBuilder::new().recursive(true).mode(0o755).create(root);
    // Absolute from here on: npm runs in other directories.
    let root = &made.and_then(|()| root.canonicalize()).map_err(|e| InstallError::io("make", root, e))?;
    let lock = staging::lock(root, &|time| cancel.wait(time), &mut || progress(Progress::Waiting))?
        .ok_or(InstallError::Cancelled)?;
    if let Some(bundle) = Bundle::find(root, release).filter(good) {
        progress(Progress::Cached);
        return Ok(bundle);
    }
    staging::sweep(root)?;
    let start = Instant::now();
    let free = room(root, release)?;
    let staged = staging::Staging::new(root, version)?;
    let (tmp, cache) = (staged.dir(".tmp")?, root.join(".npm-cache"));
    let run = |cwd| Run { root, cwd, tmp: &tmp, cache: &cache, lock: &lock, cancel };
    let written = || free.saturating_sub(available(root).unwrap_or(free));

    // The runtime, alone.
    let fetch = staged.dir(".runtime")?;
    write_project(&fetch, &node_lock(node).to_string(), json!({ node.package: node.version }))?;
    ci(npm, &run(&fetch), false, &mut || {
        progress(Progress::Runtime { elapsed: start.elapsed(), bytes: written() });
    })?;
    installed::check(&fetch, &node_lock(node), false)?;
    let bin = staged.dir("bin")?;
    let (from, to) =
        (fetch.join("node_modules").join(node.package).join("bin/node"), staged.path().join(NODE));
    fs::rename(&from, &to).map_err(|e| InstallError::io("move", &from, e))?;
    check_node(&to, node)?;

    // The agent, with npm run by that runtime.
    let app = staged.dir("app")?;
    let npm = npm.with_node_in(&bin, &run(&app))?;
    write_project(&app, release.lock, json!({ "openclaw": version }))?;
    let lock_value: Value = serde_json::from_str(release.lock)
        .map_err(|error| InstallError::BadTree(format!("the lock of openclaw {version}: {error}")))?;
    let mut fetch_agent = || {
        ci(&npm, &run(&app), release.omit_optional, &mut || {
            progress(Progress::Agent { elapsed: start.elapsed(), bytes: written() });
        })?;
        installed::check(&app, &lock_value, release.omit_optional)
    };
    match fetch_agent() {
        // npm says nothing when it could not fetch an optional package; the rest is in its cache by now.
        Err(InstallError::WrongVersion { found, .. }) if found == "none" => fetch_agent()?,
        other => other?,
    }
    let package = app.join("node_modules/openclaw");
    installed::check_version(&package, "openclaw", version)?;
    for name in release.remove {
        remove_if_there(&package.join(name))?;
    }

    // What is left of the work goes; what stays is listed, hashed, synced and named.
    for dir in [&fetch, &tmp] {
        fs::remove_dir_all(dir).map_err(|e| InstallError::io("remove", dir, e))?;
    }
    let wrapper = bin.join("openclaw");
    write_synced(&wrapper, WRAPPER.as_bytes())?;
    set_mode(&wrapper)?;
    set_mode(staged.path())?;
    let mut told = Instant::now();
    let (entries, sum) = manifest::walk(staged.path(), &[], true, cancel, &mut |sum: Sum| {
        if told.elapsed() > Duration::from_millis(200) {
            told = Instant::now();
            progress(Progress::Verifying { elapsed: start.elapsed(), bytes: sum.bytes });
        }
    })?;
    let manifest = manifest::render(&entries);
    let record = Record {
        schema: 1,
        agent: "openclaw".into(),
        version: version.into(),
        node_version: node.version.into(),
        arch: arch.into(),
        digest: Digest::of(&manifest),
        files: sum.files,
        bytes: sum.bytes,
        node: digest_of(&entries, NODE)?,
        entry: digest_of(&entries, ENTRY)?,
    };
    write_synced(&staged.path().join(MANIFEST), &manifest)?;
    write_synced(&staged.path().join(RECORD), to_canonical_json(&record).as_bytes())?;
    progress(Progress::Syncing { elapsed: start.elapsed() });
    sync(staged.path())?;
    let dir = staged.publish(root, &Bundle::name_for(&record))?;
    progress(Progress::Done { elapsed: start.elapsed(), bytes: sum.bytes });
    Bundle::open(&dir).map_err(|error| InstallError::BadTree(error.to_string()))
}

/// `npm ci`: exactly the lock, no script of any package. Settings that a user's configuration may turn are
/// said outright.
fn ci(npm: &Npm, run: &Run<'_>, omit_optional: bool, tick: &mut dyn FnMut()) -> Result<(), InstallError> {
    let optional = if omit_optional { "--omit=optional" } else { "--include=optional" };
    let args = [
        "ci",
        "--ignore-scripts",
        optional,
        "--no-bin-links",
        "--global=false",
        "--install-strategy=hoisted",
        "--prefer-offline",
        // More tries and shorter waits than npm's own, which says after 70 s that there is no network.
        "--fetch-retries=4",
        "--fetch-retry-mintimeout=1000",
        "--fetch-retry-maxtimeout=5000",
        "--no-audit",
        "--no-fund",
        "--no-update-notifier",
        "--loglevel=error",
    ];
    npm.run(&args, run, tick)
}

fn write_project(dir: &Path, lock: &str, dependencies: Value) -> Result<(), InstallError> {
    let package = json!({
        "name": "clawkeep-bundle", "version": "0.0.0", "private": true, "dependencies": dependencies,
    });
    for (name, text) in [("package.json", package.to_string()), ("package-lock.json", lock.to_owned())] {
        let path = dir.join(name);
        fs::write(&path, text).map_err(|e| InstallError::io("write", &path, e))?;
    }
    Ok(())
}

fn node_lock(node: &NodePin) -> Value {
    json!({
        "name": "clawkeep-bundle", "version": "0.0.0", "lockfileVersion": 3, "requires": true,
        "packages": {
            "": { "name": "clawkeep-bundle", "version": "0.0.0", "dependencies": { node.package: node.version } },
            format!("node_modules/{}", node.package): {
                "version": node.version, "integrity": node.integrity, "os": ["linux"],
            },
        },
    })
}

/// Does the runtime start here, and is it the one that was asked for?
fn check_node(path: &Path, node: &NodePin) -> Result<(), InstallError> {
    let unfit = |problem: String| InstallError::NodeUnfit { version: node.version.into(), problem };
    set_mode(path)?;
    let output = Command::new(path)
        .arg("--version")
        .env_clear()
        .stdin(Stdio::null())
        .output()
        .map_err(|error| unfit(error.to_string()))?;
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr);
        return Err(unfit(error.lines().next().unwrap_or("it said nothing").chars().take(300).collect()));
    }
    if said != format!("v{}", node.version) {
        let (found, wanted) = (said.chars().take(40).collect(), node.version.into());
        return Err(InstallError::WrongVersion { package: node.package.into(), found, wanted });
    }
    Ok(())
}

fn set_mode(path: &Path) -> Result<(), InstallError> {
    let set = fs::set_permissions(path, Permissions::from_mode(0o755));
    set.map_err(|e| InstallError::io("set the mode of", path, e))
}

fn remove_if_there(path: &Path) -> Result<(), InstallError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(InstallError::io("remove", path, error))
        }
        _ => Ok(()),
    }
}

fn digest_of(entries: &[manifest::Entry], path: &str) -> Result<Digest, InstallError> {
    entries
        .iter()
        .find_map(|entry| match (&entry.is, entry.path == path) {
            (manifest::Is::File { sha256, .. }, true) => Some(*sha256),
            _ => None,
        })
        .ok_or_else(|| InstallError::BadTree(format!("{path} is missing")))
}

/// Bytes that may still be written below `root`, which must be enough to begin.
fn room(root: &Path, release: &Release) -> Result<u64, InstallError> {
    let free = available(root).map_err(|e| InstallError::io("look at the file system of", root, e))?;
    match release.needs_bytes.checked_sub(free).filter(|missing| *missing > 0) {
        Some(missing) => Err(InstallError::DiskFull { at: root.to_owned(), missing: Some(missing) }),
        None => Ok(free),
    }
}

fn available(root: &Path) -> std::io::Result<u64> {
    let stat = rustix::fs::statvfs(root)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Bring the whole tree to the disk. One call for its file system: tens of thousands of fsyncs take minutes.
fn sync(dir: &Path) -> Result<(), InstallError> {
    let synced = File::open(dir).and_then(|file| Ok(rustix::fs::syncfs(&file)?));
    synced.map_err(|e| InstallError::io("sync", dir, e))
}
