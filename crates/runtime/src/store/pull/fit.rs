//! Whether a model fits: the disk that it goes to, the memory that runs it.

use std::path::Path;

use super::super::error::StoreError;

/// What must be left on the disk.
const DISK_ROOM: u64 = 64 << 20;
/// What running takes beside the weights: the program, and the keys and values of a short conversation.
const MEMORY_ROOM: u64 = 256 << 20;

/// What the machine has. `None`: as the system says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PullLimits {
    /// Free bytes where models go.
    pub disk_free: Option<u64>,
    /// Bytes of memory.
    pub memory_total: Option<u64>,
}

impl PullLimits {
    /// Refuses what the disk has no room for.
    pub(super) fn check_disk(&self, name: &str, folder: &Path, to_come: u64) -> Result<(), StoreError> {
        let needed = to_come.saturating_add(DISK_ROOM);
        match self.disk_free.or_else(|| disk_free(folder)) {
            Some(free) if needed > free => {
                Err(StoreError::DiskTooSmall { name: name.into(), needed, free, folder: folder.into() })
            }
            _ => Ok(()),
        }
    }

    /// Refuses what the machine cannot run without reading the file again for each token: weights are used as they lie in the file,
    /// so the memory must hold all of it.
    pub(super) fn check_memory(&self, name: &str, bytes: u64) -> Result<(), StoreError> {
        let needed = bytes.saturating_add(MEMORY_ROOM);
        match self.memory_total.or_else(memory_total) {
            Some(total) if needed > total => Err(StoreError::MemoryTooSmall { name: name.into(), needed, total }),
            _ => Ok(()),
        }
    }
}

#[cfg(unix)]
fn disk_free(folder: &Path) -> Option<u64> {
    let found = rustix::fs::statvfs(folder).ok()?;
    Some(found.f_bavail.saturating_mul(found.f_frsize))
}

#[cfg(not(unix))]
fn disk_free(_: &Path) -> Option<u64> {
    None
}

fn memory_total() -> Option<u64> {
    parse_meminfo(&std::fs::read_to_string("/proc/meminfo").ok()?)
}

/// `MemTotal:       16384 kB`.
fn parse_meminfo(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kilobytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_as_linux_writes_it() {
        assert_eq!(parse_meminfo("MemTotal:       16384 kB\nMemFree: 1 kB\n"), Some(16384 * 1024));
        for other in ["", "MemFree: 1 kB", "MemTotal: x kB", "MemTotal: 99999999999999999999 kB"] {
            assert_eq!(parse_meminfo(other), None);
        }
        #[cfg(target_os = "linux")]
        assert!(memory_total().unwrap() > 1 << 20);
    }

    #[cfg(unix)]
    #[test]
    fn a_disk_says_what_is_free() {
        assert!(disk_free(&std::env::temp_dir()).is_some());
        assert_eq!(disk_free(Path::new("/no/such/folder")), None);
    }
}
