//! Whether a model fits: the disk that it goes to, the memory that runs it.

use std::path::Path;

use super::super::error::StoreError;
use crate::machine::{Memory, RESERVED_BYTES, disk_free};

/// What must be left on the disk.
const DISK_ROOM: u64 = 64 << 20;

/// What the machine has. `None`: as the system says, the control group of a container or service included.
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
    /// so the memory must hold all of it, and the keys and values as far as they are known, and leave the system its part.
    pub(super) fn check_memory(&self, name: &str, bytes: u64) -> Result<(), StoreError> {
        let needed = bytes.saturating_add(RESERVED_BYTES);
        match self.memory_total.or_else(|| Memory::read().map(|memory| memory.total)) {
            Some(total) if needed > total => Err(StoreError::MemoryTooSmall { name: name.into(), needed, total }),
            _ => Ok(()),
        }
    }
}
