//! Names in archives, as ways down from an image's root.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// Longest way, in bytes.
const MAX_BYTES: usize = 2048;

/// Deepest way, in steps: each is a descriptor while a tree is removed.
const MAX_STEPS: usize = 128;

/// Longest step, in bytes (NAME_MAX of every file system).
const MAX_STEP: usize = 255;

/// A way from the root of an image to something in it: plain names, at least one, never up.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Way(Vec<u8>);

impl Way {
    /// Read a name from an archive. `None` is the root itself.
    ///
    /// # Errors
    /// What is wrong with it, to be put behind the name.
    pub fn parse(name: &[u8]) -> Result<Option<Self>, &'static str> {
        if name.is_empty() {
            return Err("has no name");
        }
        if name[0] == b'/' {
            return Err("is an absolute path");
        }
        if name.len() > MAX_BYTES {
            return Err("has too long a path");
        }
        if name.iter().any(u8::is_ascii_control) {
            return Err("has a control character in its name");
        }
        let mut way = Vec::with_capacity(name.len());
        let mut steps = 0;
        for step in name.split(|byte| *byte == b'/').filter(|step| !matches!(*step, b"" | b".")) {
            if step == b".." {
                return Err("leads up out of the image");
            }
            if step.len() > MAX_STEP {
                return Err("has too long a name");
            }
            steps += 1;
            if !way.is_empty() {
                way.push(b'/');
            }
            way.extend_from_slice(step);
        }
        if steps > MAX_STEPS {
            return Err("lies too deep");
        }
        Ok((!way.is_empty()).then_some(Self(way)))
    }

    /// The directory that it is in (empty: the root), and its name there.
    pub fn split(&self) -> (&OsStr, &OsStr) {
        let (above, name) = match self.0.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => (&self.0[..slash], &self.0[slash + 1..]),
            None => (&self.0[..0], &self.0[..]),
        };
        (OsStr::from_bytes(above), OsStr::from_bytes(name))
    }

    /// The way to something in this directory.
    pub fn join(&self, name: &OsStr) -> Self {
        Self([&self.0, &b"/"[..], name.as_bytes()].concat())
    }

    /// The way to something in the same directory.
    pub fn beside(&self, name: &[u8]) -> Self {
        let (above, _) = self.split();
        if above.is_empty() { Self(name.to_owned()) } else { Self([above.as_bytes(), b"/", name].concat()) }
    }

    /// The directory that it is in; `None` is the root.
    pub fn above(&self) -> Option<Self> {
        let (above, _) = self.split();
        (!above.is_empty()).then(|| Self(above.as_bytes().to_owned()))
    }

    /// For a message.
    pub fn shown(&self) -> String {
        String::from_utf8_lossy(&self.0).into_owned()
    }

    /// Its length in bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn plain_names_are_taken_and_the_rest_is_refused_with_its_reason() {
        let read = |name: &str| Way::parse(name.as_bytes()).map(|way| way.map(|way| way.shown()));
        assert_eq!(read("./usr//bin/./sh/"), Ok(Some("usr/bin/sh".to_owned())));
        assert_eq!((read("./"), read(".")), (Ok(None), Ok(None)));
        for (name, why) in [
            ("", "has no name"),
            ("/etc/passwd", "is an absolute path"),
            ("a/../../b", "leads up out of the image"),
            ("..", "leads up out of the image"),
            ("a\nb", "has a control character in its name"),
            ("a\0b", "has a control character in its name"),
            (&"a/".repeat(MAX_STEPS + 1), "lies too deep"),
            (&"a".repeat(MAX_STEP + 1), "has too long a name"),
            (&"a".repeat(MAX_BYTES + 1), "has too long a path"),
        ] {
            assert_eq!(read(name), Err(why), "{name:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_taken_leads_down(name in proptest::collection::vec(prop_oneof![Just(b'/'), Just(b'.'), any::<u8>()], 0..40)) {
            if let Ok(Some(way)) = Way::parse(&name) {
                let path = std::path::Path::new(OsStr::from_bytes(&way.0));
                prop_assert!(path.components().all(|part| matches!(part, std::path::Component::Normal(_))));
                prop_assert_eq!(way.beside(way.split().1.as_bytes()), way.clone());
                prop_assert_eq!(way.above().map(|above| above.join(way.split().1)), way.above().map(|_| way.clone()));
            }
        }
    }
}
