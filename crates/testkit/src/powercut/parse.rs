//! The lines of strace(1), read: `PID call(arguments) = result`, strings and paths in hexadecimal.

use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};

use super::Point;

/// The calls that change files, or say what a descriptor is.
pub const CALLS: [&str; 24] = [
    "open",
    "openat",
    "creat",
    "write",
    "pwrite64",
    "ftruncate",
    "fallocate",
    "fsync",
    "fdatasync",
    "rename",
    "renameat",
    "renameat2",
    "unlink",
    "unlinkat",
    "rmdir",
    "mkdir",
    "mkdirat",
    "chmod",
    "fchmod",
    "fchmodat",
    "lseek",
    "link",
    "linkat",
    "close",
];

/// One change, or one wait for the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// A new file, empty.
    Create(PathBuf, u32),
    /// A new directory.
    Mkdir(PathBuf, u32),
    Write(PathBuf, u64, Vec<u8>),
    Truncate(PathBuf, u64),
    Chmod(PathBuf, u32),
    Rename(PathBuf, PathBuf),
    Exchange(PathBuf, PathBuf),
    Remove(PathBuf),
    /// Content and mode of a file, or the names in a directory.
    Sync(PathBuf),
}

/// What a line tells.
#[derive(Debug, PartialEq, Eq)]
pub enum Call {
    /// The program said `done` this often.
    Said(usize),
    /// A call that concerns the root, and its effects, none when it failed.
    Did(Point, Vec<Effect>),
}

/// Knows what the lines before have told.
pub struct Parser {
    root: PathBuf,
    counts: HashMap<(String, String), usize>,
    unfinished: HashMap<String, String>,
    offsets: HashMap<String, u64>,
    /// Files that are there, and their sizes.
    sizes: HashMap<PathBuf, u64>,
    said: String,
}

impl Parser {
    pub fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            counts: HashMap::new(),
            unfinished: HashMap::new(),
            offsets: HashMap::new(),
            sizes: HashMap::new(),
            said: String::from("\n"),
        }
    }

    pub fn line(&mut self, line: &str) -> Option<Call> {
        let (pid, rest) = line.split_once(' ')?;
        let rest = rest.trim_start();
        if let Some(begun) = rest.strip_suffix(" <unfinished ...>") {
            self.unfinished.insert(pid.to_owned(), begun.to_owned());
            return None;
        }
        let whole = match rest.strip_prefix("<... ") {
            Some(resumed) => {
                let end = resumed.split_once(" resumed>")?.1;
                self.unfinished.remove(pid)? + end
            }
            None => rest.to_owned(),
        };
        let (call, rest) = whole.split_once('(')?;
        // Neither strings nor paths contain a bracket: they are in hexadecimal.
        let (arguments, result) = rest.rsplit_once(") ")?;
        let result = result.trim_start().strip_prefix("= ")?;
        let count = self.counts.entry((pid.to_owned(), call.to_owned())).or_default();
        *count += 1;
        let point = Point { call: call.to_owned(), when: *count };
        let arguments: Vec<&str> = arguments.split(", ").collect();
        self.call(point, &arguments, result)
    }

    fn call(&mut self, point: Point, a: &[&str], result: &str) -> Option<Call> {
        let failed = result.starts_with('-');
        let number = |text: &str| text.split('<').next().unwrap_or(text).parse::<u64>().unwrap_or(0);
        let mode = |at: usize| a.get(at).and_then(|m| u32::from_str_radix(m, 8).ok()).unwrap_or(0);
        if point.call == "write" && a[0].starts_with("1<") {
            self.said += &String::from_utf8_lossy(&string(a[1]));
            let times = self.said.matches("\ndone").count();
            self.said = self.said.rsplit_once('\n').map_or(String::new(), |(_, last)| format!("\n{last}"));
            if self.said.starts_with("\ndone") {
                self.said.clear();
            }
            return (times > 0).then_some(Call::Said(times));
        }
        let two =
            |from: usize| [self.path(a[from], Some(a[from + 1])), self.path(a[from + 2], Some(a[from + 3]))];
        let [one, other] = match point.call.as_str() {
            "open" | "creat" | "unlink" | "rmdir" | "mkdir" | "chmod" => [self.path("", Some(a[0])), None],
            "openat" | "unlinkat" | "mkdirat" | "fchmodat" => [self.path(a[0], Some(a[1])), None],
            "rename" | "link" => [self.path("", Some(a[0])), self.path("", Some(a[1]))],
            "renameat" | "renameat2" | "linkat" => two(0),
            _ => [self.path(a[0], None), None],
        };
        let one = one?;
        if failed {
            return Some(Call::Did(point, Vec::new()));
        }
        let size = self.sizes.get(&one).copied();
        let effects = match point.call.as_str() {
            "open" | "openat" | "creat" => {
                let at = usize::from(point.call == "openat");
                let flags = if point.call == "creat" { "O_CREAT|O_TRUNC" } else { a[at + 1] };
                let mut effects = Vec::new();
                if flags.contains("O_CREAT") && size.is_none() {
                    effects.push(Effect::Create(one.clone(), mode(at + 2) & !0o022));
                    self.sizes.insert(one.clone(), 0);
                }
                if flags.contains("O_TRUNC") && size.is_some_and(|size| size > 0) {
                    effects.push(Effect::Truncate(one.clone(), 0));
                    self.sizes.insert(one.clone(), 0);
                }
                let fd = result.split('<').next().unwrap_or_default().to_owned();
                self.offsets.insert(fd, 0);
                effects
            }
            "lseek" => {
                self.offsets.insert(fd(a[0]), number(result));
                return None;
            }
            "close" => return None,
            "write" | "pwrite64" => {
                // A file that has no name any more is no part of what is left.
                let size = size.filter(|_| !a[0].ends_with("(deleted)"))?;
                let bytes = string(a[1])[..number(result) as usize].to_vec();
                let at = match point.call.as_str() {
                    "write" => self.offsets.get(&fd(a[0])).copied().unwrap_or(size),
                    _ => number(a[3]),
                };
                let end = at + bytes.len() as u64;
                if point.call == "write" {
                    self.offsets.insert(fd(a[0]), end);
                }
                self.sizes.insert(one.clone(), size.max(end));
                vec![Effect::Write(one, at, bytes)]
            }
            "ftruncate" => {
                self.sizes.insert(one.clone(), number(a[1]));
                vec![Effect::Truncate(one, number(a[1]))]
            }
            "fsync" | "fdatasync" => vec![Effect::Sync(one)],
            "mkdir" => vec![Effect::Mkdir(one, mode(1) & !0o022)],
            "mkdirat" => vec![Effect::Mkdir(one, mode(2) & !0o022)],
            "chmod" | "fchmod" => vec![Effect::Chmod(one, mode(1))],
            "fchmodat" => vec![Effect::Chmod(one, mode(2))],
            "unlink" | "unlinkat" | "rmdir" => {
                self.sizes.remove(&one);
                vec![Effect::Remove(one)]
            }
            "rename" | "renameat" | "renameat2" => {
                let to = other.expect("nothing is moved out of the root");
                let exchange = a.last().is_some_and(|flags| flags.contains("RENAME_EXCHANGE"));
                self.moved(&one, &to, exchange);
                vec![if exchange { Effect::Exchange(one, to) } else { Effect::Rename(one, to) }]
            }
            other => panic!("{other} below the root is more than this model knows"),
        };
        Some(Call::Did(point, effects))
    }

    /// The sizes go with the names, those below a directory too.
    fn moved(&mut self, from: &Path, to: &Path, exchange: bool) {
        let old = std::mem::take(&mut self.sizes);
        for (path, size) in old {
            let path = match (path.strip_prefix(from), path.strip_prefix(to)) {
                (Ok(below), _) => join(to, below),
                (_, Ok(below)) if exchange => join(from, below),
                (_, Ok(_)) => continue,
                _ => path,
            };
            self.sizes.insert(path, size);
        }
    }

    /// The path that a descriptor and a name mean, relative to the root; `None` outside of it.
    fn path(&self, descriptor: &str, name: Option<&str>) -> Option<PathBuf> {
        let mut path = PathBuf::new();
        if let Some((_, rest)) = descriptor.split_once('<') {
            path.push(text(&decode(rest.split('>').next()?)));
        }
        if let Some(name) = name {
            path.push(text(&string(name)));
        }
        let mut clean = PathBuf::new();
        for part in path.components() {
            match part {
                Component::CurDir => {}
                Component::ParentDir => drop(clean.pop()),
                part => clean.push(part),
            }
        }
        clean.strip_prefix(&self.root).ok().map(Path::to_owned)
    }
}

fn fd(descriptor: &str) -> String {
    descriptor.split('<').next().unwrap_or_default().to_owned()
}

fn join(base: &Path, below: &Path) -> PathBuf {
    if below.as_os_str().is_empty() { base.to_owned() } else { base.join(below) }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn string(argument: &str) -> Vec<u8> {
    let inner = argument.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    decode(inner.unwrap_or_else(|| panic!("{argument:.80} was cut")))
}

/// `\x68\x69`.
fn decode(hex: &str) -> Vec<u8> {
    let byte = |digits: &str| u8::from_str_radix(digits, 16).expect("strace writes hexadecimal");
    hex.split("\\x").skip(1).map(byte).collect()
}
