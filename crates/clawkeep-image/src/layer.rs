//! A layer laid over what is there: its entries, and its whiteouts (`layer.md`).

use std::collections::HashSet;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::archive;
use crate::entry::{Budget, each};
use crate::error::ImageError;
use crate::tree::{Refused, Tree};
use crate::way::Way;

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// What was made of a layer, or of several.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sum {
    pub entries: u64,
    pub bytes: u64,
    /// Devices and the like, which were not made.
    pub left_out: u64,
}

/// Unpack an archive over the tree. `label` names it and `at` the tree, for errors; `tick` is called after every
/// entry and may end it.
pub fn apply(
    tree: &Tree,
    content: impl Read,
    (label, at): (&str, &Path),
    budget: &mut Budget,
    sum: &mut Sum,
    tick: &mut dyn FnMut(&Sum) -> Result<(), ImageError>,
) -> Result<(), ImageError> {
    // A whiteout hides what lower layers have, never what its own layer brings, in whatever order.
    let mut new = HashSet::new();
    let broken = |error| archive::problem(label, error);
    each(content, budget, &broken, &mut |entry, content| {
        let way = &entry.way;
        let refused = |refused| match refused {
            Refused::Unsafe(why) => ImageError::UnsafeEntry { entry: way.shown(), why },
            Refused::Content(error) => broken(error),
            Refused::Io(error) => ImageError::io("unpack into", &at.join(way.shown()), error),
        };
        match whiteout(way) {
            Some(Whiteout::All) => {
                tree.white_out_all(way.above().as_ref(), &|way| new.contains(way)).map_err(refused)?;
            }
            Some(Whiteout::One(hidden)) => {
                tree.white_out(&hidden, &|way| new.contains(way)).map_err(refused)?;
            }
            Some(Whiteout::Unknown) => sum.left_out += 1,
            None => {
                let made = tree.make(&entry, content).map_err(refused)?;
                sum.entries += u64::from(made);
                sum.left_out += u64::from(!made);
                if let crate::entry::Kind::File(size) = entry.kind {
                    sum.bytes += size;
                }
                // With the directories above, which it may have been the first to need.
                let mut next = Some(entry.way);
                while let Some(way) = next.filter(|way| !new.contains(way)) {
                    next = way.above();
                    new.insert(way);
                }
            }
        }
        tick(sum)
    })
}

enum Whiteout {
    /// Everything in its directory.
    All,
    One(Way),
    /// Bookkeeping of a storage driver.
    Unknown,
}

fn whiteout(way: &Way) -> Option<Whiteout> {
    let name = way.split().1.as_bytes();
    let hidden = name.strip_prefix(WHITEOUT)?;
    Some(match hidden {
        _ if name == OPAQUE => Whiteout::All,
        b"" | b"." | b".." => Whiteout::Unknown,
        hidden if hidden.starts_with(WHITEOUT) => Whiteout::Unknown,
        hidden => Whiteout::One(way.beside(hidden)),
    })
}
