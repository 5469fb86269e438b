//! What `/proc/self` says of a process, read as plain text (proc_pid_status(5), namespaces(7),
//! user_namespaces(7)).

use std::io;

use clawkeep_plan::{Capabilities, IdRange};

/// The text of `/proc/self/status`.
pub struct Status<'a>(pub &'a str);

impl Status<'_> {
    /// What stands behind `name:`, which is matched whole.
    fn text(&self, name: &str) -> io::Result<&str> {
        let value = self.0.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        value.map(str::trim).ok_or_else(|| unreadable(name))
    }

    /// The decimal number behind this name.
    ///
    /// # Errors
    /// When it is not there, or no number.
    pub fn number(&self, name: &str) -> io::Result<u32> {
        self.text(name)?.parse().map_err(|_| unreadable(name))
    }

    /// The decimal numbers there, of which there may be none.
    ///
    /// # Errors
    /// When it is not there, or something else stands there.
    pub fn numbers(&self, name: &str) -> io::Result<Vec<u32>> {
        let numbers = self.text(name)?.split_ascii_whitespace().map(str::parse).collect::<Result<_, _>>();
        numbers.map_err(|_| unreadable(name))
    }

    /// The four ids of `Uid` and `Gid`: real, effective, saved, file system.
    ///
    /// # Errors
    /// When they are not there.
    pub fn ids(&self, name: &str) -> io::Result<[u32; 4]> {
        self.numbers(name)?.try_into().map_err(|_| unreadable(name))
    }

    /// The capability sets.
    ///
    /// # Errors
    /// When one is not there.
    pub fn capabilities(&self) -> io::Result<Capabilities> {
        let set = |name| u64::from_str_radix(self.text(name)?, 16).map_err(|_| unreadable(name));
        Ok(Capabilities {
            inheritable: set("CapInh")?,
            permitted: set("CapPrm")?,
            effective: set("CapEff")?,
            bounding: set("CapBnd")?,
            ambient: set("CapAmb")?,
        })
    }
}

/// The lines of `uid_map` or `gid_map`.
///
/// # Errors
/// When one of them is no such line.
pub fn id_map(text: &str) -> io::Result<Vec<IdRange>> {
    let line = |line: &str| {
        let numbers: Vec<u32> =
            line.split_ascii_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
        let [inside, outside, count] = numbers[..] else { return None };
        Some(IdRange { inside, outside, count })
    };
    text.lines().map(line).collect::<Option<_>>().ok_or_else(|| unreadable("an id map"))
}

/// The inode in a link of `/proc/self/ns`: `net:[4026531840]`.
pub fn namespace(link: &str, kind: &str) -> Option<u64> {
    link.strip_prefix(kind)?.strip_prefix(":[")?.strip_suffix(']')?.parse().ok()
}

fn unreadable(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("/proc/self does not tell {what}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn fields_are_matched_by_their_whole_name() {
        let status =
            Status("Seccomp:\t2\nSeccomp_filters:\t5\nCapEff:\t000001ff\nGroups:\t \nUid:\t1\t2\t3\t4\n");
        assert_eq!(status.number("Seccomp").unwrap(), 2);
        assert_eq!(status.number("Seccomp_filters").unwrap(), 5);
        assert_eq!(status.numbers("Groups").unwrap(), Vec::<u32>::new());
        assert_eq!(status.ids("Uid").unwrap(), [1, 2, 3, 4]);
        assert!(status.number("Sec").is_err() && status.ids("Groups").is_err());
        assert!(status.capabilities().is_err(), "four sets are missing");
    }

    #[test]
    fn maps_and_links_are_read_whole_or_not_at_all() {
        let map = id_map("         0 1900000000      65536\n  70000 1 2\n").unwrap();
        assert_eq!(map[0], IdRange { inside: 0, outside: 1_900_000_000, count: 65_536 });
        assert_eq!(map.len(), 2);
        assert_eq!(id_map("").unwrap(), vec![]);
        for bad in ["0 1", "0 1 2 3", "0 1 x", "0 1 4294967296", "0 1 2\n-1 0 0"] {
            assert!(id_map(bad).is_err(), "{bad}");
        }
        assert_eq!(namespace("net:[4026531840]", "net"), Some(4_026_531_840));
        for bad in ["net:[]", "net:[1", "ne:[1]", "net:[-1]", "pid:[1]"] {
            assert_eq!(namespace(bad, "net"), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn an_id_map_is_read_as_it_was_written(
            ranges in proptest::collection::vec((any::<u32>(), any::<u32>(), any::<u32>()), 0..8),
        ) {
            let ranges = ranges.into_iter().map(|(inside, outside, count)| IdRange { inside, outside, count });
            let ranges: Vec<_> = ranges.collect();
            // The format of the kernel (kernel/user_namespace.c, uid_m_show).
            let line = |r: &IdRange| format!("{:>10} {:>10} {:>10}\n", r.inside, r.outside, r.count);
            let text: String = ranges.iter().map(line).collect();
            prop_assert_eq!(id_map(&text).unwrap(), ranges);
        }

        #[test]
        fn any_text_is_read_without_a_panic(text in "[A-Za-z0-9:_\t \n\\[\\]-]{0,200}") {
            let status = Status(&text);
            let _ = (status.ids("Uid"), status.numbers("Groups"), status.capabilities(), id_map(&text));
            let _ = namespace(&text, "net");
        }
    }
}
