use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;

use crate::{Guard, guard::GUARDS_MOUNT};

/// The CA bundle inside a sandbox: the host's roots and the sandbox's own CA.
pub const CA_BUNDLE: &str = "/opt/clawkeep/ca.pem";

/// The name of the published env file below a sandbox's `/tmp`.
pub const ENV_FILE_NAME: &str = "nemoclaw-proxy-env.sh";

/// What the environment of a sandbox depends on.
#[derive(Debug, Clone, Copy)]
pub struct EnvFile<'a> {
    /// The proxy's address inside the sandbox.
    pub proxy: SocketAddr,
    /// The guards to load, in order.
    pub guards: &'a [&'static Guard],
}

/// The variables, without `NODE_OPTIONS`. No value needs quoting: they are addresses, paths and constants.
fn variables(env: &EnvFile<'_>) -> Vec<(&'static str, String)> {
    let proxy = format!("http://{}", env.proxy);
    // Never inference.local: it exists behind the proxy only.
    let direct = "localhost,127.0.0.1,::1";
    let mut variables = Vec::new();
    for (name, value) in [
        ("HTTP_PROXY", proxy.as_str()),
        ("http_proxy", &proxy),
        ("HTTPS_PROXY", &proxy),
        ("https_proxy", &proxy),
        ("NO_PROXY", direct),
        ("no_proxy", direct),
        ("NODE_EXTRA_CA_CERTS", CA_BUNDLE),
        ("SSL_CERT_FILE", CA_BUNDLE),
        ("REQUESTS_CA_BUNDLE", CA_BUNDLE),
        ("CURL_CA_BUNDLE", CA_BUNDLE),
        ("GIT_SSL_CAINFO", CA_BUNDLE),
        ("AWS_EC2_METADATA_DISABLED", "true"),
    ] {
        variables.push((name, value.to_owned()));
    }
    variables
}

/// The content of `/tmp/nemoclaw-proxy-env.sh`, for shells (POSIX sh). Nothing of ours ever sources it.
pub fn env_file(env: &EnvFile<'_>) -> String {
    let mut text = String::from("# A copy for shells, written by clawkeep. It comes back when changed.\n");
    for (name, value) in variables(env) {
        let _ = writeln!(text, "export {name}=\"{value}\"");
    }
    for guard in env.guards {
        let _ = writeln!(
            text,
            "export NODE_OPTIONS=\"${{NODE_OPTIONS:+$NODE_OPTIONS }}--require /tmp/{}\"",
            guard.published_name()
        );
    }
    text
}

/// The same variables for the environment that is composed for the gateway, `NODE_OPTIONS` on the read-only
/// mount. With a missing file in `NODE_OPTIONS` every Node process dies at once, so none of these paths may
/// lie where the agent can write.
pub fn environment(env: &EnvFile<'_>) -> BTreeMap<String, String> {
    let mut map: BTreeMap<_, _> =
        variables(env).into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    if !env.guards.is_empty() {
        let options: Vec<_> = env
            .guards
            .iter()
            .map(|guard| format!("--require {GUARDS_MOUNT}/{}", guard.file_name()))
            .collect();
        map.insert("NODE_OPTIONS".to_owned(), options.join(" "));
    }
    map
}

/// Everything that is published in a sandbox's `/tmp`: name and bytes. The guards first, because the env file
/// names them.
pub fn published_files(env: &EnvFile<'_>) -> Vec<(String, Vec<u8>)> {
    let guards = env.guards.iter().map(|guard| (guard.published_name(), guard.source.to_vec()));
    guards.chain([(ENV_FILE_NAME.to_owned(), env_file(env).into_bytes())]).collect()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::select;

    #[test]
    fn a_shell_that_sources_the_file_gets_what_the_gateway_gets() {
        let guards = select(24, Some("nemotron"));
        let env = EnvFile { proxy: "127.0.0.1:3128".parse().unwrap(), guards: &guards };
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(ENV_FILE_NAME);
        std::fs::write(&path, env_file(&env)).unwrap();
        let output = Command::new("sh")
            .args(["-uc", "unset NODE_OPTIONS PWD OLDPWD SHLVL _; . \"$0\"; command -p env"])
            .arg(&path)
            .env_clear()
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let sourced: BTreeMap<String, String> = String::from_utf8(output.stdout)
            .unwrap()
            .lines()
            .filter_map(|line| line.split_once('='))
            .filter(|(name, _)| !matches!(*name, "PWD" | "OLDPWD" | "SHLVL" | "_"))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let composed: BTreeMap<_, _> = environment(&env)
            .into_iter()
            .map(|(name, value)| (name, value.replace("/opt/clawkeep/guards/", "/tmp/nemoclaw-")))
            .collect();
        assert_eq!(sourced, composed);
        assert_eq!(composed["NO_PROXY"], "localhost,127.0.0.1,::1");
        assert_eq!(composed["https_proxy"], "http://127.0.0.1:3128");
        assert_eq!(composed["NODE_OPTIONS"].matches("--require ").count(), 4);
    }

    #[test]
    fn the_file_keeps_what_a_shell_already_has_in_node_options() {
        let guards = select(24, None);
        let text = env_file(&EnvFile { proxy: "127.0.0.1:3128".parse().unwrap(), guards: &guards });
        let line = "export NODE_OPTIONS=\"${NODE_OPTIONS:+$NODE_OPTIONS }--require /tmp/nemoclaw-sandbox-safety-net.js\"";
        assert!(text.lines().any(|have| have == line), "{text}");
        assert!(!text.contains("inference.local"));
    }

    #[test]
    fn every_published_file_is_named_by_the_env_file_or_is_it() {
        let guards = select(24, Some("nemotron"));
        let env = EnvFile { proxy: "127.0.0.1:3128".parse().unwrap(), guards: &guards };
        let files = published_files(&env);
        assert_eq!(files.len(), 5);
        let text = env_file(&env);
        for (name, bytes) in &files {
            assert!(name == ENV_FILE_NAME || text.contains(&format!("/tmp/{name}\"")), "{name}");
            assert!(!bytes.is_empty());
        }
    }
}
