//! Files that appear whole or not at all.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};

use hublabio_gguf::{GgufFile, split_file_name};

use crate::{Error, Result};

/// Files under other names beside their places. Dropping it removes those that did not get their names.
pub(super) struct Pending {
    files: Vec<PendingFile>,
    overwrite: bool,
}

struct PendingFile {
    partial: PathBuf,
    place: PathBuf,
    renamed: bool,
}

impl Pending {
    /// Places for `count` files: `output` itself, or the parts named after it.
    ///
    /// # Errors
    /// When one is a part of `input`, exists without leave to replace it, or is a folder or a device.
    pub(super) fn new(output: &Path, count: usize, input: &GgufFile, overwrite: bool) -> Result<Self> {
        let places = places(output, count);
        for place in &places {
            if input.parts().iter().filter_map(|part| part.path()).any(|part| same_file(part, place)) {
                return Err(Error::OutputIsInput { path: place.clone() });
            }
            check_free(place, overwrite)?;
        }
        Ok(Self { files: Vec::with_capacity(places.len()), overwrite }.with(places))
    }

    fn with(mut self, places: Vec<PathBuf>) -> Self {
        self.files.extend(places.into_iter().map(|place| PendingFile {
            partial: partial_name(&place),
            place,
            renamed: false,
        }));
        self
    }

    /// Creates the file for part `part` under its other name.
    pub(super) fn create(&self, part: usize) -> Result<File> {
        let PendingFile { partial, place, .. } = &self.files[part];
        // One that a crash left behind under our process id is nobody's.
        let opened = OpenOptions::new().write(true).create(true).truncate(true).open(partial);
        opened.map_err(|cause| io("create", place, cause))
    }

    /// Where part `part` will be.
    pub(super) fn place(&self, part: usize) -> &Path {
        &self.files[part].place
    }

    /// Gives all files their names and returns them.
    ///
    /// # Errors
    /// When one exists by now, or the system refuses. Those that have their names by then lose them again.
    pub(super) fn finish(mut self) -> Result<Vec<PathBuf>> {
        let mut renamed = Vec::new();
        let result = self.rename_all(&mut renamed);
        if let Err(error) = result {
            for path in renamed {
                // The error that led here is the one to tell.
                let _ = fs::remove_file(path);
            }
            return Err(error);
        }
        if let Some(folder) = renamed[0].parent() {
            // The names are safe when the folder is; where folders cannot be flushed, nothing is lost but that.
            let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
            let _ = File::open(folder).and_then(|folder| folder.sync_all());
        }
        Ok(renamed)
    }

    fn rename_all(&mut self, renamed: &mut Vec<PathBuf>) -> Result<()> {
        for file in &mut self.files {
            check_free(&file.place, self.overwrite)?;
            fs::rename(&file.partial, &file.place).map_err(|cause| io("create", &file.place, cause))?;
            file.renamed = true;
            renamed.push(file.place.clone());
        }
        Ok(())
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        for file in self.files.iter().filter(|file| !file.renamed) {
            // It may never have been created.
            let _ = fs::remove_file(&file.partial);
        }
    }
}

pub(super) fn io(action: &'static str, path: &Path, cause: std::io::Error) -> Error {
    hublabio_gguf::Error::Io { action, path: path.to_owned(), cause }.into()
}

fn places(output: &Path, count: usize) -> Vec<PathBuf> {
    if count == 1 {
        return vec![output.to_owned()];
    }
    let name = output.file_name().unwrap_or_default().to_string_lossy();
    let stem = name.strip_suffix(".gguf").unwrap_or(&name);
    (0..count).map(|part| output.with_file_name(split_file_name(stem, part, count))).collect()
}

/// Refuses a place that is taken. A device is never replaced: whoever names one expects it to be written to.
fn check_free(place: &Path, overwrite: bool) -> Result<()> {
    if place.exists() && !place.is_file() {
        return Err(Error::OutputIsNoFile { path: place.to_owned() });
    }
    // A link counts wherever it leads.
    if !overwrite && place.symlink_metadata().is_ok() {
        return Err(Error::OutputExists { path: place.to_owned() });
    }
    Ok(())
}

fn same_file(a: &Path, b: &Path) -> bool {
    match (a.canonicalize(), b.canonicalize()) {
        (Ok(a), Ok(b)) => a == b,
        // What does not exist is nobody's input.
        _ => false,
    }
}

/// Where a file lies until it is whole: beside its place, hidden, and not shared with another process.
pub(in crate::ai) fn partial_name(place: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(place.file_name().unwrap_or_default());
    name.push(format!(".{}.partial", std::process::id()));
    place.with_file_name(name)
}
