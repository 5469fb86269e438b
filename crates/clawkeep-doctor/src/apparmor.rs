//! The AppArmor profile that lets this program make user namespaces where ordinary users' programs may not
//! (apparmor.d(5), `userns`; Ubuntu 24.04 and later ship such profiles for browsers).

use std::path::Path;

/// Where profiles of the administrator are.
const FILE: &str = "/etc/apparmor.d/clawkeep";

/// Where a program goes whose own path a profile cannot name.
const PLAIN: &str = "/usr/local/bin/clawkeep";

/// The lines of the profile. It confines nothing; it is there to give the one right.
fn profile(program: &str) -> [String; 6] {
    [
        "abi <abi/4.0>,",
        "include <tunables/global>",
        &format!("profile clawkeep \"{program}\" flags=(unconfined) {{"),
        "  userns,",
        "  include if exists <local/clawkeep>",
        "}",
    ]
    .map(str::to_owned)
}

/// The command that installs it, for good.
pub fn fix(program: &Path) -> String {
    // What a shell, a quoted string of a profile or its patterns (apparmor.d(5), Globbing) read as their own.
    let special = |c: char| c.is_control() || "'\"\\$`!*?[]{}^,@".contains(c);
    let (program, copy) = match program.to_str().filter(|path| !path.contains(special)) {
        Some(path) => (path, String::new()),
        None => (PLAIN, format!("sudo install \"$(command -v clawkeep)\" {PLAIN} && ")),
    };
    let lines = profile(program).map(|line| format!("'{line}'")).join(" ");
    format!("{copy}printf '%s\\n' {lines} | sudo tee {FILE} && sudo apparmor_parser -r {FILE}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_writes_a_profile_of_this_program_and_loads_it() {
        insta::assert_snapshot!(fix(Path::new("/opt/a b/clawkeep")), @r#"printf '%s\n' 'abi <abi/4.0>,' 'include <tunables/global>' 'profile clawkeep "/opt/a b/clawkeep" flags=(unconfined) {' '  userns,' '  include if exists <local/clawkeep>' '}' | sudo tee /etc/apparmor.d/clawkeep && sudo apparmor_parser -r /etc/apparmor.d/clawkeep"#);
        insta::assert_snapshot!(fix(Path::new("/opt/{a}/clawkeep")), @r#"sudo install "$(command -v clawkeep)" /usr/local/bin/clawkeep && printf '%s\n' 'abi <abi/4.0>,' 'include <tunables/global>' 'profile clawkeep "/usr/local/bin/clawkeep" flags=(unconfined) {' '  userns,' '  include if exists <local/clawkeep>' '}' | sudo tee /etc/apparmor.d/clawkeep && sudo apparmor_parser -r /etc/apparmor.d/clawkeep"#);
    }

    #[test]
    fn a_shell_writes_what_was_meant() {
        let command = fix(Path::new("/opt/a b/clawkeep"));
        let (print, _) = command.split_once(" | ").unwrap();
        let output = std::process::Command::new("sh").args(["-c", print]).output().unwrap();
        let want = profile("/opt/a b/clawkeep").map(|line| line + "\n").concat();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), want);
    }
}
