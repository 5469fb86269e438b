//! A table of mounts as the kernel tells it (proc_pid_mountinfo(5)), read as plain text.

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mounted {
    /// What of its file system is mounted, as a path in it.
    pub root: String,
    /// Where, from the root of the process.
    pub point: String,
    /// Its own options: `ro`, `nosuid`, ...
    pub options: Vec<String>,
    /// The type of the file system.
    pub kind: String,
    /// The options of the file system.
    pub super_options: Vec<String>,
}

impl Mounted {
    /// `31 23 0:28 / /sys/fs/cgroup rw,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate`
    fn parse(line: &str) -> Option<Self> {
        let (front, back) = line.split_once(" - ")?;
        let mut front = front.split(' ');
        let _id: u64 = front.next()?.parse().ok()?;
        let _parent: u64 = front.next()?.parse().ok()?;
        let _device = front.next()?;
        let (root, point, options) = (front.next()?, front.next()?, front.next()?);
        let mut back = back.split(' ');
        let (kind, _source) = (back.next()?, back.next()?);
        let list = |text: &str| text.split(',').map(str::to_owned).collect();
        Some(Self {
            root: unescape(root),
            point: unescape(point),
            options: list(options),
            kind: kind.to_owned(),
            super_options: list(back.next().unwrap_or_default()),
        })
    }

    /// Whether it has this option of its own.
    pub fn is(&self, option: &str) -> bool {
        self.options.iter().any(|have| have == option)
    }
}

/// All of them, in the order of the file; each that cannot be read as its line.
pub fn table(text: &str) -> impl Iterator<Item = Result<Mounted, &str>> {
    text.lines().map(|line| Mounted::parse(line).ok_or(line))
}

/// The places of all of them, from a text of that form; lines that cannot be read are left out.
pub fn points(mountinfo: &str) -> Vec<String> {
    table(mountinfo).filter_map(|mount| Some(mount.ok()?.point)).collect()
}

/// Blanks and the like are written as `\040`.
fn unescape(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let octal = after.get(..3).filter(|_| first == b'\\').and_then(|digits| {
            u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok().filter(|_| digits[0] != b'+')
        });
        match octal {
            Some(byte) => {
                out.push(byte);
                rest = &after[3..];
            }
            None => {
                out.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As the kernel writes it (seq_escape of blank, tab, newline, backslash and number sign).
    fn escape(text: &str) -> String {
        text.chars()
            .map(|c| match c {
                ' ' | '\t' | '\n' | '\\' | '#' => format!("\\{:03o}", u32::from(c)),
                c => c.to_string(),
            })
            .collect()
    }

    #[test]
    fn reads_a_line_with_and_without_tags_and_options() {
        let line =
            "41 31 0:38 /a\\040b /c\\011d ro,nosuid shared:9 master:2 - ext4 /dev/x rw,errors=remount-ro";
        let found: Vec<_> = table(line).collect();
        let [Ok(mount)] = &found[..] else { panic!("{found:?}") };
        assert_eq!(
            (mount.root.as_str(), mount.point.as_str(), mount.kind.as_str()),
            ("/a b", "/c\td", "ext4")
        );
        assert!(mount.is("ro") && mount.is("nosuid") && !mount.is("rw") && !mount.is("no"));
        assert_eq!(mount.super_options, ["rw", "errors=remount-ro"]);
        for bad in [
            "",
            "x",
            "1 2 0:3 / /p rw",
            "1 2 0:3 / /p - t s r",
            "a 2 0:3 / /p rw - t s r",
            "1 2 0:3 / /p rw - t",
        ] {
            assert!(table(bad).all(|mount| mount == Err(bad)), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_the_kernel_escapes_is_read_back(root in "/\\PC{0,20}", point in "/[\\PC\n\t ]{0,30}") {
            let line = format!("7 1 0:5 {} {} rw - tmpfs none rw", escape(&root), escape(&point));
            let mount = table(&line).next().unwrap().unwrap();
            prop_assert_eq!(mount.root, root);
            prop_assert_eq!(mount.point, point);
        }

        #[test]
        fn any_text_is_read_without_a_panic(text in "[a-z0-9 \\\\:,/=\n-]{0,300}") {
            let _ = table(&text).count();
        }
    }
}
