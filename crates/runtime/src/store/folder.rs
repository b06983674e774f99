//! The model files of one folder, by name.
//!
//! Looks at names, sizes and dates only. Linked files are followed, wherever they lead: only who may write to the folder can make
//! such a link, and large files are often kept elsewhere. Linked folders are not: a name would then lead out of the store.

use std::collections::BTreeMap;
use std::fs::{self, DirEntry};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use hublabio_gguf::parse_split_name;

use super::name;

/// Folders below folders.
const DEPTH_MAX: usize = 8;
/// Entries looked at in one store's folder.
const ENTRIES_MAX: usize = 50_000;
/// How an unfinished download ends.
pub(super) const PART_SUFFIX: &str = ".gguf.part";

/// What lies in a folder under one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub name: String,
    pub state: State,
    /// The files in order; of an unfinished model, those that there are.
    pub files: Vec<PathBuf>,
    pub bytes: u64,
    pub modified: Option<SystemTime>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// All files are there.
    Whole,
    /// A download that was not finished.
    Unfinished,
    /// It cannot be used, for this reason.
    Broken(String),
}

/// All that is in a folder, by name, and what could not be looked at. A folder that is not there is empty.
pub(super) fn scan(root: &Path) -> (Vec<Found>, Vec<String>) {
    let mut scan = Scan { root, found: Vec::new(), notices: Vec::new(), entries: 0 };
    if root.exists() {
        scan.folder(root, 0);
    }
    scan.found.sort_by(|a, b| a.name.cmp(&b.name));
    (scan.found, scan.notices)
}

struct Scan<'a> {
    root: &'a Path,
    found: Vec<Found>,
    notices: Vec<String>,
    entries: usize,
}

impl Scan<'_> {
    fn folder(&mut self, folder: &Path, depth: usize) {
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(cause) => return self.notices.push(format!("cannot read {}: {cause}", folder.display())),
        };
        let mut files = Vec::new();
        for entry in entries.flatten() {
            self.entries += 1;
            if self.entries > ENTRIES_MAX {
                if self.entries == ENTRIES_MAX + 1 {
                    let root = self.root.display();
                    self.notices.push(format!("{root} has more than {ENTRIES_MAX} entries: the rest is left out"));
                }
                break;
            }
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                continue;
            }
            match entry.file_type() {
                Ok(kind) if kind.is_dir() && depth < DEPTH_MAX => self.folder(&entry.path(), depth + 1),
                Ok(kind) if !kind.is_dir() => files.push(entry),
                Ok(_) => self.notices.push(format!("{} lies too deep: it is left out", entry.path().display())),
                Err(cause) => self.notices.push(format!("cannot read {}: {cause}", entry.path().display())),
            }
        }
        self.files(folder, &files);
    }

    /// The model files among those of one folder.
    fn files(&mut self, folder: &Path, entries: &[DirEntry]) {
        let below = folder.strip_prefix(self.root).unwrap_or(Path::new(""));
        let mut names: Vec<&str> = Vec::new();
        let owned: Vec<_> = entries.iter().map(DirEntry::file_name).collect();
        for name in &owned {
            let extension = Path::new(name).extension();
            match name.to_str() {
                Some(text) if text.ends_with(".gguf") || text.ends_with(PART_SUFFIX) => names.push(text),
                _ if extension.is_some_and(|extension| extension.eq_ignore_ascii_case("gguf")) => {
                    let problem = if name.to_str().is_some() {
                        "its name must end in `.gguf`, in small letters: rename it"
                    } else {
                        "its name is not UTF-8: rename it"
                    };
                    let shown = below.join(name).with_extension("").display().to_string();
                    self.push(shown, State::Broken(problem.into()), vec![folder.join(name)]);
                }
                _ => {}
            }
        }
        names.sort_unstable();
        for (stem, kind) in models(&names) {
            let name = match below.to_str() {
                // Names have `/` on every system.
                Some("") => stem.to_owned(),
                Some(below) => format!("{}/{stem}", below.replace(std::path::MAIN_SEPARATOR, "/")),
                None => format!("{}/{stem}", below.display()),
            };
            let broken = name::check(&name).err().map(|error| State::Broken(error.to_string()));
            let (state, files) = match kind {
                Kind::Files(files) => (State::Whole, files),
                Kind::Unfinished(files) => (State::Unfinished, files),
                Kind::Incomplete { files, problem } => (State::Broken(problem), files),
            };
            let files = files.iter().map(|file| folder.join(file)).collect();
            self.push(name, broken.unwrap_or(state), files);
        }
    }

    fn push(&mut self, name: String, mut state: State, files: Vec<PathBuf>) {
        let (mut bytes, mut modified) = (0, None);
        for file in &files {
            match fs::metadata(file) {
                Ok(found) if found.is_file() => {
                    bytes += found.len();
                    modified = modified.max(found.modified().ok());
                }
                Ok(_) => state = State::Broken(format!("{} is no regular file", file.display())),
                Err(cause) => state = State::Broken(format!("cannot open {}: {cause}", file.display())),
            }
        }
        self.found.push(Found { name, state, files, bytes, modified });
    }
}

/// The files of a model, by their names in one folder.
#[derive(Debug, PartialEq, Eq)]
enum Kind {
    Files(Vec<String>),
    Unfinished(Vec<String>),
    Incomplete { files: Vec<String>, problem: String },
}

/// The models among the sorted names of one folder, with what each is called there.
fn models<'a>(names: &[&'a str]) -> Vec<(&'a str, Kind)> {
    let mut models: Vec<(&str, Kind)> = Vec::new();
    let mut split: BTreeMap<(&str, usize), Vec<String>> = BTreeMap::new();
    let mut unfinished: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for &name in names {
        if let Some((stem, _, count)) = parse_split_name(name) {
            split.entry((stem, count)).or_default().push(name.to_owned());
        } else if let Some(stem) = name.strip_suffix(".gguf") {
            models.push((stem, Kind::Files(vec![name.to_owned()])));
        } else if let Some(file) = name.strip_suffix(".part") {
            let stem = parse_split_name(file).map_or_else(|| file.trim_end_matches(".gguf"), |(stem, ..)| stem);
            unfinished.entry(stem).or_default().push(name.to_owned());
        }
    }
    for ((stem, count), files) in split {
        let missing = count - files.len();
        if missing == 0 {
            models.push((stem, Kind::Files(files)));
        } else if !unfinished.contains_key(stem) {
            let problem = format!("{missing} of {count} parts are missing: pull it again");
            models.push((stem, Kind::Incomplete { files, problem }));
        }
    }
    models.extend(unfinished.into_iter().map(|(stem, files)| (stem, Kind::Unfinished(files))));
    models.sort_by(|a, b| a.0.cmp(b.0));
    models
}

/// The files of the model of this name, if they are all there. The name has been checked; letter case counts, whatever the file
/// system thinks of it.
pub(super) fn locate(root: &Path, name: &str) -> Option<Vec<PathBuf>> {
    let mut folder = root.to_path_buf();
    let mut pieces = name.split('/').peekable();
    let mut stem = "";
    while let Some(piece) = pieces.next() {
        if pieces.peek().is_none() {
            stem = piece;
            break;
        }
        folder.push(piece);
        // The folder itself, not what a link leads to.
        if !fs::symlink_metadata(&folder).is_ok_and(|found| found.is_dir()) {
            return None;
        }
    }
    let whole = format!("{stem}.gguf");
    let mut parts: Vec<String> = Vec::new();
    for entry in fs::read_dir(&folder).ok()?.flatten().take(ENTRIES_MAX) {
        let Ok(file) = entry.file_name().into_string() else { continue };
        if file == whole {
            return is_file(&folder.join(&whole)).then(|| vec![folder.join(&whole)]);
        }
        if parse_split_name(&file).is_some_and(|(found, ..)| found == stem) {
            parts.push(file);
        }
    }
    parts.sort_unstable();
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    match models(&parts).into_iter().next()?.1 {
        Kind::Files(files) => {
            let files: Vec<PathBuf> = files.iter().map(|file| folder.join(file)).collect();
            files.iter().all(|file| is_file(file)).then_some(files)
        }
        _ => None,
    }
}

fn is_file(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_one_model_are_one() {
        let names = [
            "a-00001-of-00002.gguf",
            "a-00002-of-00002.gguf",
            "a.gguf.part",
            "b-00001-of-00003.gguf.part",
            "b-00002-of-00003.gguf.part",
            "c-00002-of-00002.gguf",
            "d.gguf",
        ];
        let files = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let expected = vec![
            ("a", Kind::Files(files(&names[..2]))),
            ("a", Kind::Unfinished(files(&names[2..3]))),
            ("b", Kind::Unfinished(files(&names[3..5]))),
            (
                "c",
                Kind::Incomplete {
                    files: files(&names[5..6]),
                    problem: "1 of 2 parts are missing: pull it again".into(),
                },
            ),
            ("d", Kind::Files(files(&names[6..]))),
        ];
        assert_eq!(models(&names), expected);
    }
}
