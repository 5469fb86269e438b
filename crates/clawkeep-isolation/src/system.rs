//! What a sandbox sees of the host by default: the system's programs and libraries, and just enough of /etc.

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

/// Directories that are links into /usr on merged systems and directories elsewhere.
const TOP: &[&str] = &["/bin", "/sbin", "/lib", "/lib64", "/lib32", "/libx32"];

/// The default view of the host's system: mounts and symbolic links.
#[derive(Debug)]
pub struct System {
    /// Read-only mounts.
    pub mounts: Vec<Mount>,
    /// Path and target.
    pub symlinks: Vec<(String, String)>,
}

impl System {
    /// Look at this host. What it does not have is left out.
    pub fn of_this_host() -> Self {
        let mut system = Self { mounts: Vec::new(), symlinks: Vec::new() };
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

    fn mount(&mut self, path: &str) {
        // Links are followed here once, on the host's side: inside, the target may not be visible.
        let Ok(source) = Path::new(path).canonicalize() else { return };
        self.mounts.push(Mount { source, target: path.to_owned(), access: MountAccess::ReadOnly });
    }
}

/// A read-only mount.
pub fn read_only(source: impl Into<PathBuf>, target: impl Into<String>) -> Mount {
    Mount { source: source.into(), target: target.into(), access: MountAccess::ReadOnly }
}

/// The small files of /etc that every sandbox has: who is who, and that names resolve nowhere.
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
            "# Nothing is routable from here; the proxy on port 3128 resolves names.\n".into(),
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
}
