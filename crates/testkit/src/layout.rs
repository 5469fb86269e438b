//! OCI image layouts, as a test wants them, and a small system for one.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use clawkeep_plan::Digest;
use serde_json::{Value, json};

/// A layout that is being written.
#[derive(Debug)]
pub struct Layout(PathBuf);

impl Layout {
    /// An empty one in this directory, which is made.
    ///
    /// # Panics
    /// When it cannot be made; likewise the others.
    pub fn new(dir: &Path) -> Self {
        std::fs::create_dir_all(dir.join("blobs/sha256")).expect("make the layout");
        std::fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion": "1.0.0"}"#)
            .expect("mark the layout");
        Self(dir.to_owned())
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// A blob; its descriptor.
    pub fn blob(&self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = Digest::of(bytes);
        std::fs::write(self.0.join(format!("blobs/sha256/{digest}")), bytes).expect("write a blob");
        json!({"mediaType": media_type, "digest": format!("sha256:{digest}"), "size": bytes.len()})
    }

    /// An image for an architecture, of these layers, each with what its media type ends with; its descriptor.
    pub fn image(&self, architecture: &str, layers: &[(&str, Vec<u8>)]) -> Value {
        self.image_started(architecture, layers, &Value::Null)
    }

    /// The same, which says how it is started (`config` of its configuration).
    pub fn image_started(&self, architecture: &str, layers: &[(&str, Vec<u8>)], started: &Value) -> Value {
        let config = json!({
            "architecture": architecture, "os": "linux", "rootfs": {"type": "layers"}, "config": started,
        });
        let config = self.blob("application/vnd.oci.image.config.v1+json", config.to_string().as_bytes());
        let layer = |(how, bytes): &(&str, Vec<u8>)| {
            self.blob(&format!("application/vnd.oci.image.layer.v1.tar{how}"), bytes)
        };
        let layers: Vec<_> = layers.iter().map(layer).collect();
        let manifest = json!({"schemaVersion": 2, "config": config, "layers": layers}).to_string();
        self.blob("application/vnd.oci.image.manifest.v1+json", manifest.as_bytes())
    }

    /// What is in it.
    pub fn index(&self, manifests: &[Value]) {
        let index = json!({"schemaVersion": 2, "manifests": manifests}).to_string();
        std::fs::write(self.0.join("index.json"), index).expect("write the index");
    }
}

/// A layer of this host's programs of these names, with what they need and what `agent` needs, and a merged `/usr`.
///
/// # Panics
/// When the host does not have them.
pub fn system(programs: &[&str], agent: &Path) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    builder.follow_symlinks(true);
    let mut libraries = needs(agent);
    for program in programs {
        let path = Path::new("/usr/bin").join(program);
        libraries.extend(needs(&path));
        builder.append_path_with_name(&path, format!("usr/bin/{program}")).expect("a program");
    }
    for library in libraries {
        // By either of its two names: /lib is a link here.
        let name = library.trim_start_matches("/usr").trim_start_matches('/');
        builder.append_path_with_name(&library, format!("usr/{name}")).expect("a library");
    }
    for top in ["bin", "lib", "lib64"] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        header.set_mode(0o777);
        builder.append_link(&mut header, top, format!("usr/{top}")).expect("a link");
    }
    builder.into_inner().expect("the archive")
}

/// The libraries of a program, by their paths.
fn needs(program: &Path) -> BTreeSet<String> {
    let listed = Command::new("ldd").arg(program).output().expect("run ldd");
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    listed.split_whitespace().filter(|word| word.starts_with('/')).map(str::to_owned).collect()
}

/// A layer of these files.
///
/// # Panics
/// When a name is not one.
pub fn files(files: &[(&str, &str)]) -> Vec<u8> {
    archive(files, 0o644)
}

/// A layer of these programs.
///
/// # Panics
/// When a name is not one.
pub fn programs(programs: &[(&str, &str)]) -> Vec<u8> {
    archive(programs, 0o755)
}

fn archive(files: &[(&str, &str)], mode: u32) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(mode);
        builder.append_data(&mut header, name, content.as_bytes()).expect("a file");
    }
    builder.into_inner().expect("the archive")
}
