//! The one file with `unsafe` in this crate: read-only memory maps, of a whole file or of nothing.
#![allow(unsafe_code)]

use std::fs::File;
use std::path::Path;

use memmap2::{Mmap, MmapOptions};

use crate::error::Error;

/// Maps the file at `path`, which must be a regular one.
///
/// Nobody can promise that another process leaves the file alone: one that truncates a mapped model makes the
/// next read of the lost pages end this process (SIGBUS on Unix). Every program that maps models lives with
/// that; copying gigabytes into memory would be the price of avoiding it. A file that is *rewritten* in place
/// changes weights, never metadata: names, shapes and offsets are copied out of the map while it is checked.
pub(crate) fn map_file(path: &Path) -> Result<Mmap, Error> {
    let io = |action| move |cause| Error::Io { action, path: path.to_path_buf(), cause };
    // Checked before opening: opening a named pipe would wait for a writer.
    if !std::fs::metadata(path).map_err(io("open"))?.is_file() {
        return Err(Error::NotAFile { path: path.to_path_buf() });
    }
    let file = File::open(path).map_err(io("open"))?;
    // SAFETY: the map is read-only and private to this value, and the file was just checked to be a regular
    // one. The remaining condition, that nobody shrinks the file while it is mapped, is the caller's and is
    // documented above and at `GgufFile::open`.
    unsafe { Mmap::map(&file) }.map_err(io("map"))
}

/// So many zeros, which take addresses and, as long as nobody writes, no memory.
pub(crate) fn map_nothing(bytes: u64) -> Result<Mmap, Error> {
    let mapped = usize::try_from(bytes).map_err(std::io::Error::other).and_then(|bytes| {
        // Reserving nothing: the whole may be larger than this machine's memory.
        MmapOptions::new().len(bytes.max(1)).no_reserve_swap().map_anon()?.make_read_only()
    });
    mapped.map_err(|cause| Error::NoRoom { bytes, cause })
}
