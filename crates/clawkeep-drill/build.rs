//! Compiles the payload: a program of its own, static, because it must run in any file system.

use std::path::PathBuf;
use std::process::Command;

fn main() {
    let variable = |name: &str| std::env::var_os(name).unwrap_or_else(|| panic!("cargo sets {name}"));
    println!("cargo::rerun-if-changed=payload");
    let payload = PathBuf::from(variable("OUT_DIR")).join("payload");
    let mut rustc = Command::new(variable("RUSTC"));
    rustc.args(["--edition", "2024", "--crate-name", "payload", "--crate-type", "bin", "--target"]);
    rustc.arg(variable("TARGET"));
    // No libc crate here: rustc alone compiles it, and the C library's archive is all that it links.
    rustc.args(["-C", "target-feature=+crt-static", "-C", "relocation-model=static", "-C", "panic=abort"]);
    rustc.args(["-C", "opt-level=s", "-C", "strip=symbols"]);
    if let Some(linker) = std::env::var_os("RUSTC_LINKER") {
        let mut option = std::ffi::OsString::from("linker=");
        option.push(linker);
        rustc.arg("-C").arg(option);
    }
    let status = rustc.arg("-o").arg(&payload).arg("payload/main.rs").status().expect("start rustc");
    assert!(status.success(), "the payload does not compile; it needs libc.a: apt-get install libc6-dev");
    println!("cargo::rustc-env=DRILL_PAYLOAD={}", payload.display());
}
