//! What this machine has, and what a model needs of it.
//!
//! Linux tells all of it, and what the control groups of a container or a service leave of it; where a system does not, the answer is `None`, and nobody guesses.

use std::path::Path;
use std::sync::Arc;

use hublabio_engine::{Model, Shard};
use hublabio_gguf::GgufFile;

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
        Self::read_below(Path::new("/"))
    }

    /// As the files below `root` tell it, which has `proc` and `sys` as Linux has.
    fn read_below(root: &Path) -> Option<Self> {
        let text = |path: &Path| std::fs::read_to_string(root.join(path)).ok();
        let machine = parse_meminfo(&text(Path::new("proc/meminfo"))?)?;
        let groups = text(Path::new("proc/self/cgroup")).unwrap_or_default();
        let limits = [&GROUPS_V2, &GROUPS_V1].into_iter().flat_map(|files| {
            group_folders(&groups, files).filter_map(move |folder| {
                let folder = Path::new(files.root).join(folder.trim_start_matches('/'));
                files.limit(|name| text(&folder.join(name)))
            })
        });
        Some(limits.fold(machine, Self::limited))
    }

    /// Within a control group that may use `max` bytes and uses `used` of them.
    fn limited(self, (max, used): (u64, u64)) -> Self {
        Self { total: self.total.min(max), available: self.available.min(max.saturating_sub(used)) }
    }

    /// What models may take where nobody says it: `usual`, or as much as this memory has besides the system, if that is less.
    #[must_use]
    pub fn budget(self, usual: u64) -> u64 {
        // Of very little, half: what the system needs is then less than usual, too.
        usual.min(self.total.saturating_sub(RESERVED_BYTES).max(self.total / 2))
    }
}

/// How a version of control groups says what a group may have
/// (<https://docs.kernel.org/admin-guide/cgroup-v2.html>, <https://docs.kernel.org/admin-guide/cgroup-v1/memory.html>).
struct GroupFiles {
    /// Where the groups lie.
    root: &'static str,
    /// What the lines of `/proc/self/cgroup` call the controller.
    controller: &'static str,
    /// Above the last of these a program is slowed down or ended; the word `max` is no limit.
    limits: &'static [&'static str],
    used: &'static str,
    /// Pages of files, which are given up when memory is needed: models that are mapped are such.
    cached: [&'static str; 2],
}

const GROUPS_V2: GroupFiles = GroupFiles {
    root: "sys/fs/cgroup",
    controller: "",
    limits: &["memory.max", "memory.high"],
    used: "memory.current",
    cached: ["inactive_file", "active_file"],
};

const GROUPS_V1: GroupFiles = GroupFiles {
    root: "sys/fs/cgroup/memory",
    controller: "memory",
    limits: &["memory.limit_in_bytes"],
    used: "memory.usage_in_bytes",
    cached: ["total_inactive_file", "total_active_file"],
};

impl GroupFiles {
    /// The limit of a group and what is used of it for good, from its files.
    fn limit(&self, read: impl Fn(&str) -> Option<String>) -> Option<(u64, u64)> {
        let number = |name: &str| read(name)?.trim().parse::<u64>().ok();
        let max = self.limits.iter().filter_map(|name| number(name)).min()?;
        let statistics = read("memory.stat").unwrap_or_default();
        let fields = statistics.lines().filter_map(|line| line.split_once(' '));
        let cached = fields.filter(|(name, _)| self.cached.contains(name)).filter_map(|(_, n)| n.trim().parse().ok());
        let used = number(self.used).unwrap_or(0).saturating_sub(cached.fold(0, u64::saturating_add));
        Some((max, used))
    }
}

fn parse_meminfo(text: &str) -> Option<Memory> {
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
    };
    Some(Memory { total: field("MemTotal")?, available: field("MemAvailable")? })
}

/// The control group of this program and those that it is in, from the lines `NUMBER:CONTROLLERS:PATH` of `/proc/self/cgroup`.
fn group_folders<'t>(text: &'t str, files: &GroupFiles) -> impl Iterator<Item = &'t str> + use<'t> {
    let own = text.lines().find_map(|line| {
        let (_, line) = line.split_once(':')?;
        let (controllers, path) = line.split_once(':')?;
        controllers.split(',').any(|name| name == files.controller).then_some(path)
    });
    std::iter::successors(own.filter(|path| path.starts_with('/')), |path| match path.rfind('/') {
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
        Self::of_file(&Arc::new(open_source(source)?), context_max)
    }

    /// As [`of`](Self::of), of an open file, which need not have its weights.
    ///
    /// # Errors
    /// As [`of`](Self::of).
    pub fn of_file(file: &Arc<GgufFile>, context_max: usize) -> Result<Self> {
        let model = Model::open_described(Arc::clone(file), &Shard::whole(), find_description(file)?)?;
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
    use std::sync::atomic::{AtomicU32, Ordering};

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
        let folders = |text, files| group_folders(text, files).collect::<Vec<_>>();
        assert_eq!(folders("1:cpu:/x\n0::/a/b\n", &GROUPS_V2), ["/a/b", "/a", "/"]);
        assert_eq!(folders("0::/", &GROUPS_V2), ["/"]);
        assert!(folders("0::../x", &GROUPS_V2).is_empty() && folders("", &GROUPS_V2).is_empty());
        assert_eq!(folders("7:cpu,memory:/a\n0::/b\n", &GROUPS_V1), ["/a", "/"]);
        assert!(folders("7:cpu:/a\n0::/b", &GROUPS_V1).is_empty());
    }

    /// A machine of 8 GiB, 6 of them free, with these files of control groups.
    #[track_caller]
    fn check_groups(files: &[(&str, &str)], total_mib: u64, available_mib: u64) {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let root = std::env::temp_dir().join(format!("hublab-cgroup-{}-{number}", std::process::id()));
        let machine = ("proc/meminfo", "MemTotal: 8388608 kB\nMemAvailable: 6291456 kB\n");
        for (path, text) in files.iter().chain([&machine]) {
            let path = root.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let memory = Memory::read_below(&root);
        std::fs::remove_dir_all(&root).unwrap();
        assert_eq!(memory, Some(Memory { total: total_mib << 20, available: available_mib << 20 }), "{files:?}");
    }

    #[test]
    fn control_groups_limit_what_there_is() {
        let (own, v2, v1) = ("proc/self/cgroup", "sys/fs/cgroup", "sys/fs/cgroup/memory");
        let at = |folder: &str, file: &str| format!("{folder}/{file}");
        check_groups(&[], 8192, 6144);
        // A container sees its own group as the root.
        let inside = (own, "0::/\n");
        let (max, high) = (at(v2, "memory.max"), at(v2, "memory.high"));
        let (current, stat) = (at(v2, "memory.current"), at(v2, "memory.stat"));
        check_groups(&[inside, (&max, "max\n"), (&high, "max\n"), (&current, "1\n")], 8192, 6144);
        check_groups(&[inside, (&max, "2147483648\n"), (&current, "1073741824\n")], 2048, 1024);
        check_groups(&[inside, (&max, "2147483648\n"), (&high, "1073741824\n")], 1024, 1024);
        // Of 1 GiB in use, 768 MiB are pages of files.
        let pages = "anon 268435456\nfile 805306368\ninactive_file 536870912\nactive_file 268435456\n";
        check_groups(&[inside, (&max, "2147483648"), (&current, "1073741824"), (&stat, pages)], 2048, 1792);
        // The tightest of the groups around this one counts.
        let (outer, inner) = (at(v2, "a/memory.max"), at(v2, "a/b/memory.max"));
        let nested = (own, "1:name=systemd:/x\n0::/a/b\n");
        check_groups(&[nested, (&outer, "1073741824"), (&inner, "2147483648")], 1024, 1024);
        // Version 1, whose highest number means no limit; without a name space of its own the path is that outside.
        let (limit, usage) = (at(v1, "memory.limit_in_bytes"), at(v1, "memory.usage_in_bytes"));
        let old = (own, "9:cpu,cpuacct:/docker/x\n5:memory:/docker/x\n");
        check_groups(&[old, (&limit, "9223372036854771712\n"), (&usage, "1\n")], 8192, 6144);
        let kept = at(v1, "memory.stat");
        let pages = "inactive_file 7\ntotal_inactive_file 268435456\ntotal_active_file 268435456\n";
        check_groups(&[old, (&limit, "2147483648\n"), (&usage, "1073741824\n"), (&kept, pages)], 2048, 1536);
        check_groups(&[old, (&limit, "what?\n")], 8192, 6144);
    }

    #[test]
    fn the_usual_budget_is_for_machines_that_have_it() {
        let budget = |total_mib: u64| Memory { total: total_mib << 20, available: 0 }.budget(4 << 30) >> 20;
        for (total, expected) in [(16384, 4096), (4608, 4096), (4096, 3584), (2048, 1536), (1024, 512), (256, 128)] {
            assert_eq!(budget(total), expected, "of {total}");
        }
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
