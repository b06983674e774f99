//! What this machine has, and what a model needs of it.
//!
//! Linux tells all of it; where a system does not, the answer is `None`, and nobody guesses.

use std::path::Path;
use std::sync::Arc;

use hublabio_engine::{Model, Shard};

use crate::ai::find_description;
use crate::error::Result;
use crate::moe::{ModelSource, open_source};

/// What the operating system and other programs keep of the memory, at least.
pub const RESERVED_BYTES: u64 = 512 << 20;

/// Memory of this machine, or of the container that this program is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Bytes that there are.
    pub total: u64,
    /// Bytes that could be had now without anything being moved to disk.
    pub available: u64,
}

impl Memory {
    /// As the system tells it.
    #[must_use]
    pub fn read() -> Option<Self> {
        let machine = parse_meminfo(&std::fs::read_to_string("/proc/meminfo").ok()?)?;
        let group = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let limit = |folder: &str| {
            let read = |name: &str| {
                let path = format!("/sys/fs/cgroup{}/{name}", folder.trim_end_matches('/'));
                std::fs::read_to_string(path).ok()?.trim().parse().ok()
            };
            Some((read("memory.max")?, read("memory.current").unwrap_or(0)))
        };
        Some(group_folders(&group).filter_map(limit).fold(machine, Self::limited))
    }

    /// Within a control group that may use `max` bytes and uses `current` of them.
    fn limited(self, (max, current): (u64, u64)) -> Self {
        Self { total: self.total.min(max), available: self.available.min(max.saturating_sub(current)) }
    }
}

fn parse_meminfo(text: &str) -> Option<Memory> {
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
    };
    Some(Memory { total: field("MemTotal")?, available: field("MemAvailable")? })
}

/// The control group of this program (version 2) and those that it is in.
fn group_folders(text: &str) -> impl Iterator<Item = &str> {
    let own = text.lines().find_map(|line| line.strip_prefix("0::")).filter(|path| path.starts_with('/'));
    std::iter::successors(own, |path| match path.rfind('/') {
        Some(0) if path.len() > 1 => Some("/"),
        Some(at) if at > 0 => Some(&path[..at]),
        _ => None,
    })
}

/// Bytes that this user may still write where `path` is or, if it is not there yet, will be.
#[cfg(unix)]
#[must_use]
pub fn disk_free(path: &Path) -> Option<u64> {
    let whole = std::path::absolute(path).ok()?;
    let there = whole.ancestors().find(|folder| folder.exists())?;
    let disk = rustix::fs::statvfs(there).ok()?;
    disk.f_bavail.checked_mul(disk.f_frsize)
}

/// Bytes that this user may still write where `path` is: not known on this system.
#[cfg(not(unix))]
#[must_use]
pub fn disk_free(_path: &Path) -> Option<u64> {
    None
}

/// What a model takes in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModelNeeds {
    /// Bytes of its file.
    pub weight_bytes: u64,
    /// Bytes of keys and values of one conversation of `context` positions.
    pub kv_bytes: u64,
    /// Positions that are counted with.
    pub context: usize,
}

impl ModelNeeds {
    /// Of a model, without reading its weights, for a conversation of `context_max` positions, or as many as it was trained for.
    ///
    /// # Errors
    /// When the file cannot be run.
    pub fn of(source: &ModelSource, context_max: usize) -> Result<Self> {
        let file = Arc::new(open_source(source)?);
        let model = Model::open_described(Arc::clone(&file), &Shard::whole(), find_description(&file)?)?;
        let context = context_max.min(model.hyperparameters().context_length);
        let kv_bytes = model.new_cache(context, model.default_kv()).bytes_of(context) as u64;
        Ok(Self { weight_bytes: file.total_bytes(), kv_bytes, context })
    }

    /// Both together.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.weight_bytes.saturating_add(self.kv_bytes)
    }

    /// Whether a machine can run it.
    #[must_use]
    pub fn fit(&self, memory: Memory) -> Fit {
        match self.bytes() {
            bytes if bytes > memory.total.saturating_sub(RESERVED_BYTES) => Fit::DoesNotFit,
            bytes if bytes > memory.available => Fit::Tight,
            _ => Fit::Fits,
        }
    }
}

/// How a model and a machine go together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// There is room now.
    Fits,
    /// There is room once other programs give some of theirs back.
    Tight,
    /// It would run from the disk, very slowly.
    DoesNotFit,
}

impl Fit {
    /// In a word or three.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Fits => "fits",
            Self::Tight => "tight",
            Self::DoesNotFit => "does not fit",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_what_the_machine_and_its_groups_leave() {
        let text = "MemTotal:        8000 kB\nMemFree:          100 kB\nMemAvailable:    6000 kB\n";
        let machine = parse_meminfo(text).unwrap();
        assert_eq!(machine, Memory { total: 8000 * 1024, available: 6000 * 1024 });
        for wrong in ["", "MemTotal: 1 kB", "MemTotal: x kB\nMemAvailable: 1 kB", "MemTotal: 1\nMemAvailable: 1"] {
            assert_eq!(parse_meminfo(wrong), None, "{wrong}");
        }
        assert_eq!(machine.limited((4000, 1000)), Memory { total: 4000, available: 3000 });
        assert_eq!(machine.limited((4000, 9000)).available, 0);
        assert_eq!(machine.limited((1 << 40, 1 << 30)), machine);
        let folders = |text| group_folders(text).collect::<Vec<_>>();
        assert_eq!(folders("1:cpu:/x\n0::/a/b\n"), ["/a/b", "/a", "/"]);
        assert_eq!(folders("0::/"), ["/"]);
        assert!(folders("0::../x").is_empty() && folders("").is_empty());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_machine_has_memory_and_a_disk() {
        let memory = Memory::read().unwrap();
        assert!(memory.total > 0 && memory.available <= memory.total, "{memory:?}");
        assert!(disk_free(Path::new("/no/such/folder")).is_some());
    }

    #[test]
    fn a_model_fits_or_does_not() {
        let needs = ModelNeeds::of(&ModelSource::Builtin("default"), 4096).unwrap();
        assert_eq!(needs.weight_bytes, crate::ai::DEFAULT_MODEL.len() as u64);
        assert!(needs.kv_bytes > 0 && needs.context > 0 && needs.context <= 4096, "{needs:?}");
        let half = ModelNeeds::of(&ModelSource::Builtin("default"), needs.context / 2).unwrap();
        assert!(half.kv_bytes < needs.kv_bytes);
        let bytes = needs.bytes();
        let fit = |total: u64, available| needs.fit(Memory { total: total + RESERVED_BYTES, available });
        assert_eq!(fit(bytes, bytes), Fit::Fits);
        assert_eq!(fit(bytes, bytes - 1), Fit::Tight);
        assert_eq!(fit(bytes - 1, bytes), Fit::DoesNotFit);
        assert!(ModelNeeds::of(&ModelSource::File("/no/such.gguf".into()), 1).is_err());
    }
}
