//! The model of a disk: what is on it for sure, and what may be.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::parse::Effect;
use crate::Rng;

/// A disk writes at least this many bytes at once.
const SECTOR: usize = 512;

/// What becomes of that which was not synced when the power went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// It was written all the same: as after a kill.
    Nothing,
    /// It is gone.
    Everything,
    /// New names are there, the bytes of the files are not (delayed allocation).
    Bytes,
    /// New names are there, and in place of the bytes as many zeros.
    Zeros,
    /// The bytes are there, the names are not.
    Names,
    /// Of every directory the first few changes, of every file some of the writes, some of them torn.
    Some,
}

impl Loss {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Nothing, Self::Everything, Self::Bytes, Self::Zeros, Self::Names, Self::Some];
}

/// Files and directories with their modes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Disk {
    /// `None` is a directory. In order, so that a directory comes before what is in it.
    entries: BTreeMap<PathBuf, (u32, Option<Vec<u8>>)>,
}

impl Disk {
    /// Make it so in this directory, which is there and empty.
    ///
    /// # Panics
    /// When the files cannot be written.
    pub fn write_to(&self, root: &Path) {
        for (path, (_, content)) in &self.entries {
            match content {
                Some(bytes) => std::fs::write(root.join(path), bytes),
                None => std::fs::create_dir(root.join(path)),
            }
            .expect("a state can be written");
        }
        // What is below first: a directory may forbid changes.
        for (path, (mode, _)) in self.entries.iter().rev() {
            let mode = std::fs::Permissions::from_mode(*mode);
            std::fs::set_permissions(root.join(path), mode).expect("a mode can be set");
        }
    }

    /// The same for the same disks.
    pub fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        hasher.finish()
    }

    /// A file's bytes.
    pub fn file(&self, path: &str) -> Option<&[u8]> {
        self.entries.get(Path::new(path))?.1.as_deref()
    }
}

type Id = usize;

#[derive(Debug, Clone)]
enum Change {
    Write(u64, Vec<u8>),
    Truncate(u64),
    Chmod(u32),
}

#[derive(Debug, Clone, Default)]
struct Content {
    bytes: Vec<u8>,
    mode: u32,
}

impl Content {
    fn apply(&mut self, change: &Change) {
        match change {
            Change::Write(at, bytes) => {
                let (at, end) = (*at as usize, *at as usize + bytes.len());
                self.bytes.resize(self.bytes.len().max(end), 0);
                self.bytes[at..end].copy_from_slice(bytes);
            }
            Change::Truncate(size) => self.bytes.resize(*size as usize, 0),
            Change::Chmod(mode) => self.mode = *mode,
        }
    }
}

#[derive(Debug, Default)]
struct Node {
    directory: bool,
    synced: Content,
    pending: Vec<Change>,
}

/// A change of names, in one directory or two.
#[derive(Debug)]
struct Naming {
    what: What,
    /// Directories that were not synced since.
    unsynced: BTreeSet<Id>,
}

#[derive(Debug)]
enum What {
    Add(Id, String, Id),
    Remove(Id, String),
    Rename((Id, String), (Id, String)),
    Exchange((Id, String), (Id, String)),
}

/// The names in every directory.
type Names = HashMap<Id, BTreeMap<String, Id>>;

fn name(names: &mut Names, what: &What) {
    let mut take = |(dir, name): &(Id, String)| names.entry(*dir).or_default().remove(name);
    match what {
        What::Add(dir, name, node) => drop(names.entry(*dir).or_default().insert(name.clone(), *node)),
        What::Remove(dir, name) => drop(take(&(*dir, name.clone()))),
        What::Rename(from, to) => {
            if let Some(node) = take(from) {
                names.entry(to.0).or_default().insert(to.1.clone(), node);
            }
        }
        What::Exchange(one, other) => {
            let (first, second) = (take(one), take(other));
            for (node, (dir, name)) in [(first, other), (second, one)] {
                if let Some(node) = node {
                    names.entry(*dir).or_default().insert(name.clone(), node);
                }
            }
        }
    }
}

#[derive(Default)]
struct Model {
    nodes: Vec<Node>,
    namings: Vec<Naming>,
    now: Names,
}

const ROOT: Id = 0;

impl Model {
    fn find(&self, path: &Path) -> Id {
        path.iter().fold(ROOT, |dir, part| {
            let names = self.now.get(&dir);
            let found = names.and_then(|names| names.get(part.to_str().expect("a plain name")));
            *found.unwrap_or_else(|| panic!("{} was never made", path.display()))
        })
    }

    fn place(&self, path: &Path) -> (Id, String) {
        let parent = path.parent().expect("below the root");
        let name = path.file_name().and_then(|name| name.to_str()).expect("a plain name");
        (self.find(parent), name.to_owned())
    }

    fn naming(&mut self, what: What) {
        let unsynced = match &what {
            What::Add(dir, ..) | What::Remove(dir, _) => [*dir].into(),
            What::Rename(from, to) | What::Exchange(from, to) => [from.0, to.0].into(),
        };
        name(&mut self.now, &what);
        self.namings.push(Naming { what, unsynced });
    }

    fn add(&mut self, path: &Path, mode: u32, directory: bool) {
        let (dir, name) = self.place(path);
        self.nodes.push(Node { directory, synced: Content { bytes: Vec::new(), mode }, pending: Vec::new() });
        self.naming(What::Add(dir, name, self.nodes.len() - 1));
    }

    fn apply(&mut self, effect: &Effect) {
        let change = |model: &mut Self, path: &Path, change| {
            let node = model.find(path);
            model.nodes[node].pending.push(change);
        };
        match effect {
            Effect::Create(path, mode) => self.add(path, *mode, false),
            Effect::Mkdir(path, mode) => self.add(path, *mode, true),
            Effect::Write(path, at, bytes) => change(self, path, Change::Write(*at, bytes.clone())),
            Effect::Truncate(path, size) => change(self, path, Change::Truncate(*size)),
            Effect::Chmod(path, mode) => change(self, path, Change::Chmod(*mode)),
            Effect::Remove(path) => {
                let (dir, name) = self.place(path);
                self.naming(What::Remove(dir, name));
            }
            Effect::Rename(from, to) => self.naming(What::Rename(self.place(from), self.place(to))),
            Effect::Exchange(one, other) => self.naming(What::Exchange(self.place(one), self.place(other))),
            Effect::Sync(path) => {
                let node = self.find(path);
                let Node { synced, pending, .. } = &mut self.nodes[node];
                pending.drain(..).for_each(|change| synced.apply(&change));
                for naming in &mut self.namings {
                    naming.unsynced.remove(&node);
                }
            }
        }
    }

    fn names(&self, loss: Loss, rng: &mut Rng) -> Names {
        let mut names = Names::new();
        // How many changes of each directory got to the disk before the power went: its journal is in order.
        let mut left: HashMap<Id, u64> = HashMap::new();
        if loss == Loss::Some {
            let mut pending: BTreeMap<Id, u64> = BTreeMap::new();
            for dir in self.namings.iter().flat_map(|naming| &naming.unsynced) {
                *pending.entry(*dir).or_default() += 1;
            }
            left.extend(pending.into_iter().map(|(dir, count)| (dir, rng.within(0..count + 1))));
        }
        for Naming { what, unsynced } in &self.namings {
            let mut there = match loss {
                Loss::Nothing | Loss::Bytes | Loss::Zeros => true,
                Loss::Everything | Loss::Names => unsynced.is_empty(),
                Loss::Some => true,
            };
            if loss == Loss::Some {
                for dir in unsynced {
                    let left = left.entry(*dir).or_default();
                    there &= *left > 0;
                    *left = left.saturating_sub(1);
                }
            }
            if there {
                name(&mut names, what);
            }
        }
        names
    }

    fn content(&self, node: Id, loss: Loss, rng: &mut Rng) -> Content {
        let Node { synced, pending, .. } = &self.nodes[node];
        let mut content = synced.clone();
        for change in pending {
            match (loss, change) {
                (Loss::Everything, _) | (Loss::Bytes, Change::Write(..) | Change::Truncate(_)) => {}
                (Loss::Zeros, Change::Write(at, bytes)) => {
                    let size = content.bytes.len().max(*at as usize + bytes.len());
                    content.apply(&Change::Truncate(size as u64));
                }
                (Loss::Some, Change::Write(at, bytes)) => match rng.within(0..3) {
                    0 => {}
                    1 => content.apply(change),
                    _ => {
                        let sectors = bytes.len().div_ceil(SECTOR) as u64;
                        let torn = (rng.within(0..sectors + 1) as usize * SECTOR).min(bytes.len());
                        content.apply(&Change::Write(*at, bytes[..torn].to_vec()));
                    }
                },
                (Loss::Some, _) if rng.within(0..2) == 0 => {}
                _ => content.apply(change),
            }
        }
        content
    }
}

/// What is on the disk after these effects and this loss.
pub(super) fn after(effects: &[Effect], loss: Loss, rng: &mut Rng) -> Disk {
    let mut model = Model { nodes: vec![Node { directory: true, ..Node::default() }], ..Model::default() };
    effects.iter().for_each(|effect| model.apply(effect));
    let names = model.names(loss, rng);
    let mut disk = Disk::default();
    let mut open = vec![(ROOT, PathBuf::new())];
    while let Some((dir, path)) = open.pop() {
        for (name, node) in names.get(&dir).into_iter().flatten() {
            let path = path.join(name);
            let content = model.content(*node, loss, rng);
            if model.nodes[*node].directory {
                disk.entries.insert(path.clone(), (content.mode, None));
                open.push((*node, path));
            } else {
                disk.entries.insert(path, (content.mode, Some(content.bytes)));
            }
        }
    }
    disk
}
