//! The system that a sandbox sees: the host's programs and libraries and just enough of /etc, or an unpacked image.

use std::io;
use std::path::{Path, PathBuf};

use crate::spec::{AGENT_ID, Mount, MountAccess};

/// Parts of /etc that programs need to run at all and that hold nothing private.
const ETC: &[&str] = &[
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/alternatives",
    "/etc/localtime",
    "/etc/mime.types",
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
    "/etc/ca-certificates",
    "/etc/pki/tls/certs",
    "/etc/pki/ca-trust/extracted",
    "/etc/terminfo",
    "/etc/inputrc",
];

/// What is left to be read of the host's where nothing can be put in its place: who is who, and which names there are.
const ETC_BESIDE: &[&str] = &[
    "/etc/passwd",
    "/etc/group",
    "/etc/hostname",
    "/etc/hosts",
    "/etc/nsswitch.conf",
    "/etc/resolv.conf",
    "/etc/host.conf",
    "/etc/protocols",
    "/etc/services",
    "/etc/profile",
    "/etc/bash.bashrc",
];

/// Directories of an image that are not all its own inside: the rest of each is shown by links.
const MERGED: &[&str] = &["etc", "home", "media", "mnt", "opt", "srv", "var"];

/// What an image has no say in.
const OURS: &[&str] = &["dev", "proc", "run", "sandbox", "sys", "tmp"];

/// Links that show an image at most: each is an inode of the root, and a line in the specification.
const MAX_LINKS: usize = 1000;

/// Directories that are links into /usr on merged systems and directories elsewhere.
const TOP: &[&str] = &["/bin", "/sbin", "/lib", "/lib64", "/lib32", "/libx32"];

/// A system: mounts and symbolic links.
#[derive(Debug, Default)]
pub struct System {
    /// Read-only mounts.
    pub mounts: Vec<Mount>,
    /// Path and target.
    pub symlinks: Vec<(String, String)>,
}

impl System {
    /// Look at this host. What it does not have is left out.
    pub fn of_this_host() -> Self {
        let mut system = Self::default();
        system.mount("/usr");
        for path in TOP {
            match std::fs::read_link(path) {
                Ok(target) => {
                    system.symlinks.push(((*path).to_owned(), target.to_string_lossy().into_owned()))
                }
                Err(_) => system.mount(path),
            }
        }
        for path in ETC {
            system.mount(path);
        }
        system
    }

    /// The same for the lower tier, in which the agent sees the host's own files or none: with those in the place of
    /// which [`etc_files`] puts others elsewhere.
    pub fn beside_this_host() -> Self {
        let mut system = Self::of_this_host();
        system.symlinks.clear();
        for path in ETC_BESIDE {
            system.mount(path);
        }
        system
    }

    /// The system of the image that is unpacked in `tree`, but for the files that we write ourselves. Its parts are
    /// mounted one by one below a root of ours, where they are its own; of `/etc` and the like, each is
    /// mounted once beside its place, at the same depth, so that what is in it still leads where it did.
    ///
    /// # Errors
    /// What the system said; a directory with too many entries.
    pub fn of_image(tree: &Path, ours: &[(String, String)]) -> io::Result<Self> {
        let mut system = Self::default();
        for (name, kind) in entries(tree)? {
            let (source, target) = (tree.join(&name), format!("/{name}"));
            if OURS.contains(&name.as_str()) || name.starts_with('.') {
                continue;
            }
            if kind.is_dir() && MERGED.contains(&name.as_str()) {
                system.merge(&source, &name, ours)?;
            } else if kind.is_symlink() {
                let link = std::fs::read_link(&source)?;
                system.symlinks.push((target, link.to_string_lossy().into_owned()));
            } else {
                system.mounts.push(read_only(source, target));
            }
        }
        Ok(system)
    }

    fn merge(&mut self, source: &Path, name: &str, ours: &[(String, String)]) -> io::Result<()> {
        for (entry, _) in entries(source)? {
            let path = format!("/{name}/{entry}");
            let taken = ["/opt/clawkeep", "/var/run", "/var/tmp"].contains(&path.as_str())
                || ours.iter().any(|(file, _)| file == &path || file.starts_with(&format!("{path}/")));
            if !taken {
                self.symlinks.push((path, format!("/.{name}/{entry}")));
            }
        }
        if self.symlinks.len() > MAX_LINKS {
            let merged = MERGED.join(", ");
            return Err(io::Error::other(format!("there are more than {MAX_LINKS} entries in its {merged}")));
        }
        self.mounts.push(read_only(source, format!("/.{name}")));
        Ok(())
    }

    fn mount(&mut self, path: &str) {
        // Links are followed here once, on the host's side: inside, the target may not be visible.
        let Ok(source) = Path::new(path).canonicalize() else { return };
        self.mounts.push(Mount { source, target: path.to_owned(), access: MountAccess::ReadOnly });
    }
}

/// What is in a directory, in order. Names that are no text are nobody's to ask for.
fn entries(dir: &Path) -> io::Result<Vec<(String, std::fs::FileType)>> {
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if let Ok(name) = entry.file_name().into_string() {
            entries.push((name, entry.file_type()?));
        }
    }
    entries.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(entries)
}

/// A read-only mount.
pub fn read_only(source: impl Into<PathBuf>, target: impl Into<String>) -> Mount {
    Mount { source: source.into(), target: target.into(), access: MountAccess::ReadOnly }
}

/// The small files of /etc that every sandbox has: who is who, and where names resolve.
pub fn etc_files(host_name: &str) -> Vec<(String, String)> {
    let shell = "[ -r /tmp/nemoclaw-proxy-env.sh ] && . /tmp/nemoclaw-proxy-env.sh\n";
    let files: [(&str, String); 8] = [
        (
            "/etc/passwd",
            format!(
                "root:x:0:0:root:/root:/usr/sbin/nologin\n\
                 sandbox:x:{AGENT_ID}:{AGENT_ID}:sandbox:/sandbox:/bin/bash\n\
                 nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
            ),
        ),
        ("/etc/group", format!("root:x:0:\nsandbox:x:{AGENT_ID}:\nnogroup:x:65534:\n")),
        ("/etc/hostname", format!("{host_name}\n")),
        ("/etc/hosts", format!("127.0.0.1 localhost {host_name}\n::1 localhost\n")),
        ("/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n".into()),
        (
            "/etc/resolv.conf",
            "# Nothing is routable from here. Names that the policy allows are answered; the proxy reaches them.\n\
             nameserver 127.0.0.1\noptions timeout:2 attempts:2\n"
                .into(),
        ),
        ("/etc/profile", format!("PS1='\\u@\\h:\\w\\$ '\n{shell}")),
        ("/etc/bash.bashrc", format!("PS1='\\u@\\h:\\w\\$ '\n{shell}")),
    ];
    files.into_iter().map(|(path, content)| (path.to_owned(), content)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_the_system_and_nothing_private() {
        let system = System::of_this_host();
        assert_eq!(system.mounts[0].target, "/usr");
        let private = ["/etc/shadow", "/etc/ssl/private", "/root", "/home", "/var", "/etc"];
        for mount in &system.mounts {
            assert!(!private.contains(&mount.target.as_str()), "{}", mount.target);
            assert_eq!(mount.access, MountAccess::ReadOnly);
        }
        let shell = system.symlinks.iter().any(|(path, _)| path == "/bin")
            || system.mounts.iter().any(|mount| mount.target == "/bin");
        assert!(shell, "a sandbox without /bin");
    }

    #[test]
    fn an_image_shows_all_of_itself_but_what_is_ours() {
        let tree = tempfile::tempdir().unwrap();
        let at = |path: &str| tree.path().join(path);
        for dir in
            ["usr/bin", "etc/ssl", "opt/tool", "opt/clawkeep", "var/lib", "var/run", "proc", "app", ".etc"]
        {
            std::fs::create_dir_all(at(dir)).unwrap();
        }
        for file in ["etc/passwd", "etc/os-release", "init", ".dockerenv"] {
            std::fs::write(at(file), "").unwrap();
        }
        std::os::unix::fs::symlink("usr/bin", at("bin")).unwrap();
        std::os::unix::fs::symlink("/etc", at("tmp")).unwrap();
        let system = System::of_image(tree.path(), &etc_files("box")).unwrap();
        let mounts: Vec<_> = system.mounts.iter().map(|mount| mount.target.as_str()).collect();
        assert_eq!(mounts, ["/app", "/.etc", "/init", "/.opt", "/usr", "/.var"]);
        let links: Vec<_> = system.symlinks.iter().map(|(at, to)| format!("{at} {to}")).collect();
        assert_eq!(
            links,
            [
                "/bin usr/bin",
                "/etc/os-release /.etc/os-release",
                "/etc/ssl /.etc/ssl",
                "/opt/tool /.opt/tool",
                "/var/lib /.var/lib"
            ]
        );
        for number in 0..=MAX_LINKS {
            std::fs::write(at(&format!("opt/{number}")), "").unwrap();
        }
        assert!(System::of_image(tree.path(), &[]).is_err());
    }
}
