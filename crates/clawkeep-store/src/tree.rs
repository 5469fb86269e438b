//! Removing what an agent could write to.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// As `remove_dir_all`, which follows no link; and where that fails because the agent took its own rights to
/// a directory away, they are given back first. Nothing that could write there may run any more.
///
/// # Errors
/// What the system said.
pub fn remove_tree(path: &Path) -> std::io::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            give_back(path)?;
            std::fs::remove_dir_all(path)
        }
        result => result,
    }
}

fn give_back(dir: &Path) -> std::io::Result<()> {
    // Nothing runs in the sandbox any more: nobody can swap a directory for a link between these steps.
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700))?;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            give_back(&entry.path())?;
        }
    }
    Ok(())
}
