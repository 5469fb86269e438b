//! What an archive says, entry by entry (tar(5); POSIX `pax`): nothing is made here. Headers that only describe
//! the next entry are bounded before they are read, which no library's own reading of them is.

use std::io::{self, Read};

use tar::EntryType;

use crate::error::ImageError;
use crate::way::Way;

/// Entries in all layers of an image at most, and bytes in their names.
const MAX_ENTRIES: u64 = 1_000_000;
const MAX_NAMES: u64 = 96 << 20;

/// Largest header that describes the next entry, in bytes: extended attributes are in there.
const MAX_EXTENSION: u64 = 1 << 20;

/// Longest target of a symbolic link (PATH_MAX).
const MAX_TARGET: usize = 4095;

/// An entry of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub way: Way,
    pub kind: Kind,
    /// Permissions, without set-id and sticky bits.
    pub mode: u32,
    /// When it was modified, in seconds since 1970.
    pub modified: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    Directory,
    /// Of so many bytes.
    File(u64),
    /// To a path as it is seen inside.
    Symlink(Vec<u8>),
    /// To a file of this or an earlier layer.
    HardLink(Way),
    /// A device, fifo or socket.
    Special,
}

/// What may still come, over all layers of an image.
#[derive(Debug)]
pub struct Budget {
    entries: u64,
    names: u64,
}

impl Default for Budget {
    fn default() -> Self {
        Self { entries: MAX_ENTRIES, names: MAX_NAMES }
    }
}

impl Budget {
    fn take(&mut self, way: &Way) -> Result<(), ImageError> {
        let entries = || ImageError::TooLarge(format!("{MAX_ENTRIES} entries"));
        self.entries = self.entries.checked_sub(1).ok_or_else(entries)?;
        let names = || ImageError::TooLarge(format!("{MAX_NAMES} bytes in names"));
        self.names = self.names.checked_sub(way.len() as u64).ok_or_else(names)?;
        Ok(())
    }
}

/// What headers before an entry say of it.
#[derive(Default)]
struct Said {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
}

/// Go through an archive; `visit` gets each entry with the reader of its content. `broken` makes an error of
/// what reading gave.
///
/// # Errors
/// The first thing that is wrong.
pub fn each(
    archive: impl Read,
    budget: &mut Budget,
    broken: &dyn Fn(io::Error) -> ImageError,
    visit: &mut dyn FnMut(Entry, &mut dyn Read) -> Result<(), ImageError>,
) -> Result<(), ImageError> {
    let mut archive = tar::Archive::new(archive);
    let mut said = Said::default();
    for entry in archive.entries().map_err(broken)?.raw(true) {
        let mut entry = entry.map_err(broken)?;
        let kind = entry.header().entry_type();
        match kind {
            EntryType::XGlobalHeader => continue,
            EntryType::XHeader => {
                pax(&extension(&mut entry, broken)?, &mut said)
                    .ok_or_else(|| broken(io::Error::other("a malformed pax header")))?;
                continue;
            }
            EntryType::GNULongName | EntryType::GNULongLink => {
                let mut name = extension(&mut entry, broken)?;
                name.truncate(name.iter().position(|byte| *byte == 0).unwrap_or(name.len()));
                let field = if kind == EntryType::GNULongName { &mut said.path } else { &mut said.link };
                *field = Some(name);
                continue;
            }
            _ => {}
        }
        let Said { path, link, size } = std::mem::take(&mut said);
        let path = path.unwrap_or_else(|| entry.path_bytes().into_owned());
        let link = link.or_else(|| entry.link_name_bytes().map(|link| link.into_owned()));
        let unsafe_entry = |why| ImageError::UnsafeEntry { entry: shown(&path), why };
        if size.is_some_and(|size| size != entry.size()) {
            // A reader that trusts the one and a reader that trusts the other would see two archives.
            return Err(unsafe_entry("has two sizes"));
        }
        let Some(way) = Way::parse(&path).map_err(unsafe_entry)? else { continue };
        budget.take(&way)?;
        let link = || link.ok_or_else(|| unsafe_entry("is a link to nothing"));
        let kind = match kind {
            EntryType::Regular | EntryType::Continuous => Kind::File(entry.size()),
            EntryType::Directory => Kind::Directory,
            EntryType::Symlink => Kind::Symlink(target(link()?).map_err(unsafe_entry)?),
            EntryType::Link => {
                let to = Way::parse(&link()?).map_err(|_| unsafe_entry("is a hard link out of the image"))?;
                Kind::HardLink(to.ok_or_else(|| unsafe_entry("is a hard link to a directory"))?)
            }
            EntryType::Char | EntryType::Block | EntryType::Fifo => Kind::Special,
            _ => return Err(unsafe_entry("is of a kind that this version does not know")),
        };
        let mode = entry.header().mode().map_err(broken)? & 0o777;
        let modified = entry.header().mtime().map_err(broken)?;
        visit(Entry { way, kind, mode, modified }, &mut entry)?;
    }
    Ok(())
}

fn target(link: Vec<u8>) -> Result<Vec<u8>, &'static str> {
    match link {
        link if link.is_empty() => Err("is a link to nothing"),
        link if link.len() > MAX_TARGET => Err("is a link with too long a target"),
        link if link.contains(&0) => Err("is a link with a zero byte in its target"),
        link => Ok(link),
    }
}

fn shown(name: &[u8]) -> String {
    String::from_utf8_lossy(&name[..name.len().min(200)]).into_owned()
}

fn extension<R: Read>(
    entry: &mut tar::Entry<'_, R>,
    broken: &dyn Fn(io::Error) -> ImageError,
) -> Result<Vec<u8>, ImageError> {
    if entry.size() > MAX_EXTENSION {
        return Err(ImageError::TooLarge(format!("{MAX_EXTENSION} bytes in a header")));
    }
    let mut bytes = Vec::new();
    entry.read_to_end(&mut bytes).map_err(broken)?;
    Ok(bytes)
}

/// Records `LENGTH KEY=VALUE\n`, whose value may hold anything. `None` for what is no such list.
fn pax(mut records: &[u8], said: &mut Said) -> Option<()> {
    while !records.is_empty() {
        let blank = records.iter().position(|byte| *byte == b' ')?;
        let length: usize = std::str::from_utf8(&records[..blank]).ok()?.parse().ok()?;
        let record = records.get(blank + 1..length)?.strip_suffix(b"\n")?;
        let equals = record.iter().position(|byte| *byte == b'=')?;
        let (key, value) = (&record[..equals], &record[equals + 1..]);
        match key {
            b"path" => said.path = Some(value.to_owned()),
            b"linkpath" => said.link = Some(value.to_owned()),
            b"size" => said.size = Some(std::str::from_utf8(value).ok()?.parse().ok()?),
            // A sparse file's content is not its bytes in the archive.
            key if key.starts_with(b"GNU.sparse.") => return None,
            _ => {}
        }
        records = &records[length..];
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(archive: &[u8]) -> Result<Vec<String>, ImageError> {
        let mut names = Vec::new();
        let broken =
            |error: io::Error| ImageError::Malformed { what: "layer".into(), problem: error.to_string() };
        each(archive, &mut Budget::default(), &broken, &mut |entry, _| {
            names.push(entry.way.shown());
            Ok(())
        })?;
        Ok(names)
    }

    fn raw(path: &[u8], kind: EntryType, content: &[u8]) -> Vec<u8> {
        let mut header = tar::Header::new_gnu();
        header.as_gnu_mut().unwrap().name[..path.len()].copy_from_slice(path);
        header.set_entry_type(kind);
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(0);
        header.set_cksum();
        let mut bytes = header.as_bytes().to_vec();
        bytes.extend_from_slice(content);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        bytes
    }

    #[test]
    fn long_names_of_both_kinds_are_read() {
        let long = "d/".repeat(60) + "file";
        let gnu = [raw(b"x", EntryType::GNULongName, long.as_bytes()), raw(b"cut", EntryType::Regular, b"")];
        assert_eq!(names(&gnu.concat()).unwrap(), [long]);
        // A value with a line break and bytes that are no text: an extended attribute.
        let records = b"12 path=p/q\n19 SCHILY.x=\n\xff\x00\n\n!\n";
        let pax = [raw(b"x", EntryType::XHeader, records), raw(b"cut", EntryType::Regular, b"")];
        assert_eq!(names(&pax.concat()).unwrap(), ["p/q"]);
    }

    #[test]
    fn an_archive_that_two_readers_would_read_in_two_ways_is_refused() {
        let two = [raw(b"x", EntryType::XHeader, b"11 size=99\n"), raw(b"f", EntryType::Regular, b"abc")];
        assert_eq!(names(&two.concat()).unwrap_err().code(), "image-unsafe-entry");
        for wrong in [&b"99 path=x\n"[..], b"9 path=xx", b"path", b"22 GNU.sparse.major=1\n", b"0 a=b\n"] {
            let archive = [raw(b"x", EntryType::XHeader, wrong), raw(b"f", EntryType::Regular, b"")];
            assert_eq!(names(&archive.concat()).unwrap_err().code(), "image-malformed", "{wrong:?}");
        }
    }

    #[test]
    fn what_would_take_all_memory_is_refused_before_it_is_read() {
        let mut archive = raw(b"x", EntryType::GNULongName, b"");
        let mut header = tar::Header::from_byte_slice(&archive).clone();
        header.set_size(1 << 40);
        header.set_cksum();
        archive[..512].copy_from_slice(header.as_bytes());
        assert_eq!(names(&archive).unwrap_err().code(), "image-too-large");
        let mut budget = Budget { entries: 1, names: MAX_NAMES };
        let both = [raw(b"a", EntryType::Regular, b""), raw(b"b", EntryType::Regular, b"")].concat();
        let broken = |_: io::Error| ImageError::Cancelled;
        let error = each(&both[..], &mut budget, &broken, &mut |_, _| Ok(())).unwrap_err();
        assert_eq!(error.code(), "image-too-large");
    }
}
