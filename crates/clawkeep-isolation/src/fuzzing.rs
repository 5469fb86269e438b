//! Parsers of what the kernel tells, in which names are anybody's, for the fuzzer in `fuzz/`.

use std::path::Component;

use clawkeep_plan::IdRange;

use crate::cgroup::mounts::{hierarchies, own_dir, own_path};
use crate::procself::{Status, id_map, namespace};

/// The mounted hierarchies, and our own group in them.
///
/// # Panics
/// When a group leads out of its hierarchy.
pub fn mountinfo(text: &str) {
    let _ = (crate::mounts::brief(text), crate::mountinfo::points(text));
    for hierarchy in hierarchies(text) {
        for own in [own_path(text, None), own_path(text, Some("memory"))].into_iter().flatten() {
            if let Some(dir) = own_dir(&hierarchy, own) {
                let below = dir.strip_prefix(&hierarchy.mount).expect("below its mount");
                assert!(below.components().all(|part| matches!(part, Component::Normal(_))), "{dir:?}");
            }
        }
    }
}

/// `stat`, `status` and the id maps of a process, and the link of a namespace.
pub fn proc(bytes: &[u8]) {
    let _ = (crate::start_time_in(bytes), crate::init::session_in(bytes));
    let text = String::from_utf8_lossy(bytes);
    let status = Status(&text);
    let _ = (status.ids("Uid"), status.numbers("Groups"), status.capabilities(), namespace(&text, "net"));
    if let Ok(ranges) = id_map(&text) {
        let line = |range: &IdRange| format!("{} {} {}\n", range.inside, range.outside, range.count);
        let again: String = ranges.iter().map(line).collect();
        assert_eq!(id_map(&again).ok(), Some(ranges), "a map is read as it was written");
    }
}
