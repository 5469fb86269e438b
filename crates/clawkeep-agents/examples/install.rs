//! Installs a release of OpenClaw into a directory and says what it does:
//! `cargo run --release -p clawkeep-agents --example install -- DIR [VERSION]`.

use std::path::PathBuf;

use clawkeep_agents::{Cancel, Npm, Release, install};

fn main() {
    let mut args = std::env::args_os().skip(1);
    let root = PathBuf::from(args.next().expect("usage: install DIR [VERSION]"));
    let version = args.next().and_then(|v| v.into_string().ok());
    let release = version.map_or(Some(Release::pinned()), |v| Release::find(&v)).expect("a known version");
    let result = Npm::on_path()
        .and_then(|npm| install(&root, release, &npm, &Cancel::default(), &mut |step| println!("{step:?}")));
    match result {
        Ok(bundle) => {
            println!("{} {} bytes, intact: {:?}", bundle.name(), bundle.bytes(), bundle.verify_full())
        }
        Err(error) => println!("{}: {error}\nnext: {}", error.code(), error.next_step()),
    }
}
