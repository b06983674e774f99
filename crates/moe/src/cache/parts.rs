//! What is in memory: parts, their bytes, who holds them, and which of them goes first when room is needed.
//!
//! Knows no request, only how many run with a part and which parts are spoken for.

use std::collections::{BTreeMap, BTreeSet};

use super::estimate::Estimate;
use super::event::{BaseWeights, ExpertWeights, HalfLife, Part};
use crate::ExpertId;

/// More than any machine has: larger sizes count as this, so that sums cannot overflow.
const BYTES_LIMIT: u64 = 1 << 50;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PartState {
    Absent,
    Loading { since_ms: u64 },
    Resident,
}

#[derive(Debug)]
pub(super) struct PartEntry {
    pub(super) state: PartState,
    /// Bytes that it takes now; 0 while absent.
    pub(super) bytes_held: u64,
    /// Bytes that it takes once loaded (anew).
    pub(super) bytes: u64,
    pub(super) reload: Estimate,
    /// What is in memory is outdated: nothing new starts with it, and it goes as soon as it is idle.
    pub(super) stale: bool,
    /// The base that what is in memory was loaded onto.
    pub(super) base: Option<Part>,
    /// Parts in memory, or on their way, that were loaded onto this one.
    pub(super) dependents: usize,
    /// Running requests that use it.
    pub(super) running: usize,
    /// Experts that it belongs to.
    pub(super) named: usize,
    /// Pinned experts among them.
    pub(super) pins: usize,
    /// The last load failed: it is not tried again before a request asks.
    pub(super) failed: bool,
    /// Decayed count of uses, as of `used_at`.
    uses: f64,
    /// Clock of the last use: starts of requests, or milliseconds.
    used_at: f64,
    /// Counts uses of all parts; 0 for never.
    use_number: u64,
    /// What the router said, as of `hinted_at`.
    hint: f64,
    hinted_at: f64,
}

impl PartEntry {
    fn new(bytes: u64, reload_ms: u64) -> Self {
        Self {
            state: PartState::Absent,
            bytes_held: 0,
            bytes,
            reload: Estimate::guess(reload_ms),
            stale: false,
            base: None,
            dependents: 0,
            running: 0,
            named: 0,
            pins: 0,
            failed: false,
            uses: 0.0,
            used_at: 0.0,
            use_number: 0,
            hint: 0.0,
            hinted_at: 0.0,
        }
    }

    /// Whether requests can start with it.
    pub(super) fn ready(&self) -> bool {
        self.state == PartState::Resident && !self.stale
    }

    fn idle(&self) -> bool {
        self.state == PartState::Resident && self.running == 0
    }
}

/// All parts of all known experts, and those in memory that belong to none any more.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) entries: BTreeMap<Part, PartEntry>,
    pub(super) bytes_max: u64,
    pub(super) bytes_held: u64,
    half_life: HalfLife,
    /// Starts of requests so far.
    starts: u64,
    now_ms: u64,
    /// When the first event came.
    first_ms: Option<u64>,
    uses: u64,
}

impl Parts {
    pub(super) fn new(bytes_max: u64, half_life: HalfLife) -> Self {
        Self {
            entries: BTreeMap::new(),
            bytes_max,
            bytes_held: 0,
            half_life,
            starts: 0,
            now_ms: 0,
            first_ms: None,
            uses: 0,
        }
    }

    pub(super) fn set_now(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
        self.first_ms.get_or_insert(now_ms);
    }

    pub(super) fn ready(&self, part: Part) -> bool {
        self.entries.get(&part).is_some_and(PartEntry::ready)
    }

    pub(super) fn loading(&self) -> usize {
        self.entries.values().filter(|entry| matches!(entry.state, PartState::Loading { .. })).count()
    }

    /// Takes an expert's parts in, those it had before given up with [`Parts::forget`].
    pub(super) fn name(&mut self, expert: &ExpertWeights, changed: bool) {
        if let Some(BaseWeights { id, bytes, reload_ms }) = expert.base {
            self.name_part(Part::Base(id), bytes, reload_ms, false, expert.pinned);
        }
        let part = Part::Expert(expert.id);
        let base = expert.base.map(|base| Part::Base(base.id));
        let moved = self.entries.get(&part).is_some_and(|entry| entry.state != PartState::Absent && entry.base != base);
        self.name_part(part, expert.bytes, expert.reload_ms, changed || moved, expert.pinned);
    }

    fn name_part(&mut self, part: Part, bytes: u64, reload_ms: u64, changed: bool, pinned: bool) {
        let bytes = bytes.min(BYTES_LIMIT);
        let entry = self.entries.entry(part).or_insert_with(|| PartEntry::new(bytes, reload_ms));
        if entry.state != PartState::Absent {
            entry.stale |= changed;
        }
        // Of what is in memory and stays, the size is known.
        if entry.stale || entry.state == PartState::Absent {
            // What was seen of the same weights is better than what is said of them.
            if entry.stale || changed || entry.bytes != bytes || !entry.reload.observed() {
                entry.reload = Estimate::guess(reload_ms);
            }
            entry.bytes = bytes;
        }
        entry.failed = false;
        entry.named += 1;
        entry.pins += usize::from(pinned);
    }

    /// Gives an expert's parts up. What is in memory stays until [`Parts::useless`] names it.
    pub(super) fn forget(&mut self, expert: &ExpertWeights) {
        for part in parts_of(expert) {
            let entry = self.entries.get_mut(&part).expect("a known expert's parts have entries");
            entry.named -= 1;
            entry.pins -= usize::from(expert.pinned);
            if entry.named == 0 {
                // Whoever comes back under this number may be another.
                entry.stale |= entry.state != PartState::Absent;
                entry.hint = 0.0;
                entry.uses = 0.0;
                entry.use_number = 0;
            }
        }
        self.sweep();
    }

    /// Takes an expert's pin off.
    pub(super) fn unpin(&mut self, expert: &mut ExpertWeights) {
        if std::mem::take(&mut expert.pinned) {
            for part in parts_of(expert) {
                self.entries.get_mut(&part).expect("a known expert's parts have entries").pins -= 1;
            }
        }
    }

    /// Drops entries that stand for nothing.
    fn sweep(&mut self) {
        self.entries.retain(|_, entry| entry.named > 0 || entry.state != PartState::Absent);
    }

    /// Bytes of these parts once in memory, and of pinned parts that are not among them.
    pub(super) fn bytes_needed(&self, parts: &[Part]) -> (u64, u64) {
        let bytes = |part: &Part| self.entries.get(part).map_or(0, |entry| entry.bytes);
        let needed = parts.iter().map(bytes).fold(0, u64::saturating_add);
        let pinned = self
            .entries
            .iter()
            .filter(|(part, entry)| entry.pins > 0 && !parts.contains(part))
            .map(|(_, entry)| entry.bytes)
            .fold(0, u64::saturating_add);
        (needed, pinned)
    }

    /// A request starts with these parts.
    pub(super) fn start(&mut self, parts: &[Part]) {
        self.starts += 1;
        let clock = self.clock();
        let half_life = self.half_life();
        for part in parts {
            self.uses += 1;
            let entry = self.entries.get_mut(part).expect("a request starts with parts that are in memory");
            debug_assert!(entry.ready(), "{part} is not in memory");
            entry.running += 1;
            entry.uses = 1.0 + entry.uses * fade(clock - entry.used_at, half_life);
            entry.used_at = clock;
            entry.use_number = self.uses;
            // The prediction came true; the next one is another.
            entry.hint = 0.0;
        }
    }

    /// A request that ran with these parts has ended.
    pub(super) fn end(&mut self, parts: &[Part]) {
        for part in parts {
            let entry = self.entries.get_mut(part).expect("parts stay while a request runs with them");
            entry.running -= 1;
        }
    }

    /// What was said before of a part of its own counts no more; a base is as probable as the likeliest expert on it.
    pub(super) fn hint(&mut self, part: Part, probability: f64) {
        let clock = self.clock();
        let before = match part {
            Part::Base(_) => self.hinted(part),
            Part::Expert(_) => 0.0,
        };
        let probability = probability.max(before);
        if let Some(entry) = self.entries.get_mut(&part) {
            entry.hint = probability;
            entry.hinted_at = clock;
        }
    }

    /// Begins to load a part for which there is room.
    pub(super) fn load(&mut self, part: Part, base: Option<Part>) {
        let entry = self.entries.get_mut(&part).expect("parts that are loaded have entries");
        debug_assert_eq!(entry.state, PartState::Absent, "{part}");
        entry.state = PartState::Loading { since_ms: self.now_ms };
        entry.bytes_held = entry.bytes;
        entry.base = base;
        entry.stale = false;
        entry.failed = false;
        self.bytes_held += entry.bytes;
        if let Some(base) = base {
            self.entries.get_mut(&base).expect("a base is in memory before what depends on it").dependents += 1;
        }
    }

    /// A load is done. Returns whether one was under way.
    pub(super) fn loaded(&mut self, part: Part, bytes: u64, took_ms: u64) -> bool {
        let Some(entry) = self.entries.get_mut(&part) else { return false };
        if !matches!(entry.state, PartState::Loading { .. }) {
            return false;
        }
        let bytes = bytes.min(BYTES_LIMIT);
        entry.state = PartState::Resident;
        self.bytes_held = self.bytes_held - entry.bytes_held + bytes;
        entry.bytes_held = bytes;
        if !entry.stale {
            entry.bytes = bytes;
            entry.reload.observe(took_ms);
        }
        true
    }

    /// A load failed, or a part was freed. Returns whether there was one.
    pub(super) fn release(&mut self, part: Part) -> bool {
        let Some(entry) = self.entries.get_mut(&part) else { return false };
        if entry.state == PartState::Absent {
            return false;
        }
        debug_assert!(entry.running == 0 && entry.dependents == 0, "{part} is in use");
        self.bytes_held -= entry.bytes_held;
        entry.state = PartState::Absent;
        entry.bytes_held = 0;
        entry.stale = false;
        if let Some(base) = entry.base.take() {
            self.entries.get_mut(&base).expect("a base stays while something depends on it").dependents -= 1;
        }
        self.sweep();
        true
    }

    /// Whether a load of this part is under way.
    pub(super) fn is_loading(&self, part: Part) -> bool {
        self.entries.get(&part).is_some_and(|entry| matches!(entry.state, PartState::Loading { .. }))
    }

    /// Pinned parts that are not in memory, but for those whose last load failed; bases first.
    pub(super) fn pinned_absent(&self) -> Vec<Part> {
        let absent = |entry: &PartEntry| entry.pins > 0 && entry.state == PartState::Absent && !entry.failed;
        self.entries.iter().filter(|(_, entry)| absent(entry)).map(|(&part, _)| part).collect()
    }

    /// An idle part that is outdated or belongs to nobody, those that depend on it first.
    pub(super) fn useless(&self) -> Option<Part> {
        let mut idle = self.entries.iter().filter(|(_, entry)| entry.idle() && (entry.stale || entry.named == 0));
        idle.find(|(_, entry)| entry.dependents == 0).map(|(&part, _)| part)
    }

    /// The probability, 0 to 1, that the next request needs this part, as far as uses and hints tell.
    ///
    /// Uses: the decayed count over that of all uses, one imagined use included.
    fn probability(&self, entry: &PartEntry) -> f64 {
        let (clock, half_life) = (self.clock(), self.half_life());
        let uses = entry.uses * fade(clock - entry.used_at, half_life);
        let all = if self.starts == 0 { 0.0 } else { 1.0 / (1.0 - fade(1.0, self.half_life_starts())) };
        let hint = entry.hint * fade(clock - entry.hinted_at, half_life);
        (uses / (1.0 + all)).max(hint).min(1.0)
    }

    /// What is lost by evicting this part, in expected milliseconds: reload cost × probability of use, which is 1 for
    /// parts that a waiting request needs.
    pub(super) fn value(&self, part: Part, wanted: bool) -> f64 {
        let entry = &self.entries[&part];
        entry.reload.mean_ms * if wanted { 1.0 } else { self.probability(entry) }
    }

    /// What loading this part ahead of a request is worth, in expected milliseconds.
    pub(super) fn hinted_value(&self, part: Part) -> f64 {
        self.entries[&part].reload.mean_ms * self.hinted(part)
    }

    /// The probability, 0 to 1, that is left of what the router said of this part.
    pub(super) fn hinted(&self, part: Part) -> f64 {
        let entry = &self.entries[&part];
        entry.hint * fade(self.clock() - entry.hinted_at, self.half_life())
    }

    /// Parts to evict so that `bytes` more fit, in the order of eviction, or `None` while that is impossible.
    ///
    /// Never busy, pinned or protected ones, never a base before what depends on it; the least valuable first, and of
    /// equal ones that which is wanted last (`next_use`: position among the waiting), then the one not used for
    /// longest. At the end those that turn out not to be needed stay.
    pub(super) fn victims(
        &self,
        bytes: u64,
        protected: &BTreeSet<Part>,
        next_use: &BTreeMap<Part, usize>,
    ) -> Option<Vec<Part>> {
        let target = self.bytes_max.checked_sub(bytes)?;
        let mut held = self.bytes_held;
        let mut dependents: BTreeMap<Part, usize> = BTreeMap::new();
        let mut candidates: Vec<(f64, usize, u64, Part)> = self
            .entries
            .iter()
            .filter(|(part, entry)| entry.idle() && entry.pins == 0 && !protected.contains(part))
            .map(|(&part, entry)| {
                let next = next_use.get(&part);
                let soon = next.map_or(0, |&position| usize::MAX - position);
                (self.value(part, next.is_some()), soon, entry.use_number, part)
            })
            .collect();
        candidates.sort_by(|a, b| a.0.total_cmp(&b.0).then((a.1, a.2, a.3).cmp(&(b.1, b.2, b.3))));
        let mut victims: Vec<Part> = Vec::new();
        while held > target {
            let free = |part: &Part| {
                let entry = &self.entries[part];
                entry.dependents == dependents.get(part).copied().unwrap_or(0)
            };
            let at = candidates.iter().position(|(.., part)| free(part))?;
            let (.., part) = candidates.remove(at);
            let entry = &self.entries[&part];
            held -= entry.bytes_held;
            if let Some(base) = entry.base {
                *dependents.entry(base).or_insert(0) += 1;
            }
            victims.push(part);
        }
        self.spare(&mut victims, held, target);
        Some(victims)
    }

    /// Everything that could be evicted, in an order in which it can.
    pub(super) fn evictable(&self) -> Vec<Part> {
        let free = |part: &Part, entry: &PartEntry, going: &[Part]| {
            let on_it = going.iter().filter(|other| self.entries[other].base == Some(*part)).count();
            entry.idle() && entry.pins == 0 && entry.dependents == on_it
        };
        let mut going = Vec::new();
        // Experts come after bases in the map, and go before them.
        for (&part, entry) in self.entries.iter().rev() {
            if free(&part, entry, &going) {
                going.push(part);
            }
        }
        going
    }

    /// Panics where counts contradict each other.
    pub(super) fn check(&self) {
        let mut held = 0;
        let mut on_base: BTreeMap<Part, usize> = BTreeMap::new();
        let in_memory = self.entries.values().filter(|entry| entry.state != PartState::Absent);
        for base in in_memory.filter_map(|entry| entry.base) {
            *on_base.entry(base).or_insert(0) += 1;
        }
        for (part, entry) in &self.entries {
            held += entry.bytes_held;
            assert!(entry.named > 0 || entry.state != PartState::Absent, "{part} stands for nothing");
            assert!(entry.pins <= entry.named, "pins of {part}");
            assert_eq!(on_base.get(part).copied().unwrap_or(0), entry.dependents, "dependents of {part}");
            let needed = entry.dependents > 0 || entry.running > 0;
            assert!(!needed || entry.state == PartState::Resident, "{part} is needed and not in memory");
        }
        assert_eq!(held, self.bytes_held, "bytes in memory");
    }

    /// Takes those from the victims without which there is room enough too, the most valuable first.
    fn spare(&self, victims: &mut Vec<Part>, mut held: u64, target: u64) {
        let mut at = victims.len();
        while at > 0 {
            at -= 1;
            let entry = &self.entries[&victims[at]];
            let base_goes = entry.base.is_some_and(|base| victims.contains(&base));
            if !base_goes && held.saturating_add(entry.bytes_held) <= target {
                held += entry.bytes_held;
                victims.remove(at);
            }
        }
    }

    /// Starts of requests, or milliseconds.
    fn clock(&self) -> f64 {
        match self.half_life {
            HalfLife::Requests(_) => self.starts as f64,
            HalfLife::Ms(_) => self.now_ms as f64,
        }
    }

    fn half_life(&self) -> f64 {
        let (HalfLife::Requests(half_life) | HalfLife::Ms(half_life)) = self.half_life;
        half_life
    }

    /// The half-life in starts of requests, by the rate of starts so far.
    fn half_life_starts(&self) -> f64 {
        match self.half_life {
            HalfLife::Requests(half_life) => half_life,
            HalfLife::Ms(half_life) => {
                let elapsed_ms = self.now_ms - self.first_ms.unwrap_or(self.now_ms);
                (half_life * self.starts as f64 / elapsed_ms.max(1) as f64).max(0.1)
            }
        }
    }
}

/// An expert's parts, the base first.
pub(super) fn parts_of(expert: &ExpertWeights) -> impl Iterator<Item = Part> + use<> {
    let own = Part::Expert(expert.id);
    expert.base.map(|base| Part::Base(base.id)).into_iter().chain([own])
}

/// The parts of a set of experts, each once, bases first.
pub(super) fn parts_of_set(experts: &[ExpertId], weights: impl Fn(ExpertId) -> ExpertWeights) -> Vec<Part> {
    let mut parts: Vec<Part> = experts.iter().flat_map(|&id| parts_of(&weights(id))).collect();
    parts.sort_unstable();
    parts.dedup();
    parts
}

/// What is left after `elapsed` of something that halves every `half_life`.
fn fade(elapsed: f64, half_life: f64) -> f64 {
    (-elapsed.max(0.0) / half_life).exp2()
}
