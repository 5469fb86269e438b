use std::io::{self, Read};

use clawkeep_plan::SandboxName;
use rustix::fs::{Mode, OFlags, openat};
use serde::{Deserialize, Serialize};

use crate::store::SCHEMA;
use crate::{Home, SandboxRecord, StoreError, atomic, home};

const NAME: &str = "record.json";

/// A record file may be at most this long, in bytes.
const MAX: u64 = 4 * 1024 * 1024;

/// The content of a record file: what the registry says about one sandbox.
#[derive(Debug, Serialize, Deserialize)]
struct File {
    schema: u32,
    record: SandboxRecord,
}

pub(crate) fn write(home: &Home, record: &SandboxRecord) -> Result<(), StoreError> {
    let root = home.sandbox(&record.name).root().to_owned();
    home::own_dir(&root)?;
    let file = File { schema: SCHEMA, record: record.clone() };
    let bytes = serde_json::to_vec_pretty(&file).expect("a record is JSON");
    atomic::open_dir(&root)
        .and_then(|dir| atomic::write(&dir, NAME, &bytes, Mode::RUSR | Mode::WUSR))
        .map_err(|error| StoreError::io(&root.join(NAME), error))
}

pub(crate) fn remove(home: &Home, name: &SandboxName) -> Result<(), StoreError> {
    let root = home.sandbox(name).root().to_owned();
    let removed = atomic::open_dir(&root).and_then(|dir| atomic::remove(&dir, NAME));
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map(|_| ()).map_err(|error| StoreError::io(&root.join(NAME), error)),
    }
}

/// The record in a sandbox's directory, `None` when there is none. `InvalidData` when it is no record of this
/// sandbox; [`StoreError::Newer`] when a later version wrote it.
pub(crate) fn read(home: &Home, name: &SandboxName) -> Result<Option<SandboxRecord>, StoreError> {
    #[derive(Deserialize)]
    struct Version {
        schema: u32,
    }
    let root = home.sandbox(name).root().to_owned();
    let path = root.join(NAME);
    let failed = |error| StoreError::io(&path, error);
    let no_record = |why: &str| failed(io::Error::new(io::ErrorKind::InvalidData, why));
    let bytes = match read_bytes(&root) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let version: Version = serde_json::from_slice(&bytes).map_err(|_| no_record("not a record"))?;
    if version.schema > SCHEMA {
        return Err(StoreError::Newer { path, found: version.schema, supported: SCHEMA });
    }
    let file: File = serde_json::from_slice(&bytes).map_err(|_| no_record("not a record"))?;
    if file.record.name != *name {
        return Err(no_record("the record of another sandbox"));
    }
    Ok(Some(file.record))
}

fn read_bytes(root: &std::path::Path) -> io::Result<Vec<u8>> {
    let dir = atomic::open_dir(root)?;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = std::fs::File::from(openat(&dir, NAME, flags, Mode::empty())?);
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "too large for a record"));
    }
    Ok(bytes)
}
