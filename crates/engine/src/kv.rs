//! The key-value cache: pages with reference counts, and sequences that are lists of pages.
//!
//! A page holds [`PAGE_POSITIONS`] positions of every layer of a *group*: the layers that see everything are one, those
//! that see only a window another. Sequences that began alike share pages; a page is copied when one of several owners
//! appends to it. Pages are allocated when they are first needed, up to a limit, and kept for reuse. Of layers with a
//! window, pages that no later token can see are given back, so that their memory does not grow with the sequence.

use std::collections::VecDeque;

use hublabio_kernels::{AttentionShape, KvType, PAGE_POSITIONS, page_len};

use crate::error::{Error, Result};

/// How far a sequence can be cut back although its window has moved on, in positions.
const WINDOW_SLACK: usize = 256;

/// A sequence of tokens in a [`KvCache`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct SequenceId {
    slot: u32,
    /// Counts the sequences that the slot has held: an id never comes to mean another sequence.
    generation: u32,
}

type PageIndex = usize;

struct Page {
    /// `[layers of the group][page_len]` words.
    data: Box<[u16]>,
    owners: u32,
}

/// Layers that see equally far, and their pages.
struct Group {
    /// Positions that its layers see; `None` for all.
    window: Option<usize>,
    layers: usize,
    pages: Vec<Page>,
    free: Vec<PageIndex>,
    pages_max: usize,
}

/// Slots of finished sequences are reused.
#[derive(Default)]
struct Slot {
    generation: u32,
    sequence: Option<Sequence>,
}

struct Sequence {
    len: usize,
    /// Positions that it may come to have, fixed when it begins: what depends on it must not change on the way.
    context: usize,
    /// One for each group.
    runs: Vec<Run>,
}

/// The pages that a sequence holds of one group.
#[derive(Clone, Default)]
struct Run {
    /// Pages before these that were given back.
    dropped: usize,
    pages: VecDeque<PageIndex>,
}

impl Run {
    /// One past the last page, counted from the beginning of the sequence.
    fn end(&self) -> usize {
        self.dropped + self.pages.len()
    }

    fn page(&self, number: usize) -> Option<PageIndex> {
        self.pages.get(number.checked_sub(self.dropped)?).copied()
    }
}

/// Keys and values of all sequences of one shard.
pub struct KvCache {
    shape: AttentionShape,
    page_len: usize,
    groups: Vec<Group>,
    /// The group of each layer, and its place there.
    layers: Vec<(usize, usize)>,
    positions_max: usize,
    sequences: Vec<Slot>,
}

/// The pages that a layer has of a sequence.
pub(crate) struct PageView<'a> {
    /// Position where the first page begins.
    pub first_position: usize,
    pub window: Option<usize>,
    pub pages: Vec<&'a [u16]>,
}

impl KvCache {
    /// For layers of `shape` that see so many positions each (`None` for all), with as many pages as `positions_max`
    /// positions of one sequence take. A page belongs to one sequence, unless they began alike.
    pub(crate) fn new(shape: AttentionShape, windows: &[Option<usize>], positions_max: usize) -> Self {
        let mut groups: Vec<Group> = Vec::new();
        let mut layers = Vec::with_capacity(windows.len());
        for &window in windows {
            let at = groups.iter().position(|group| group.window == window).unwrap_or_else(|| {
                let pages_max = positions_max.div_ceil(PAGE_POSITIONS);
                groups.push(Group { window, layers: 0, pages: Vec::new(), free: Vec::new(), pages_max });
                groups.len() - 1
            });
            layers.push((at, groups[at].layers));
            groups[at].layers += 1;
        }
        Self { shape, page_len: page_len(&shape), groups, layers, positions_max, sequences: Vec::new() }
    }

    /// Bytes of keys and values that a token at `position` reads.
    #[must_use]
    pub fn bytes_read_at(&self, position: usize) -> usize {
        let seen = |group: &Group| group.window.unwrap_or(usize::MAX).min(position + 1);
        let words: usize = self.groups.iter().map(|group| group.layers * self.page_len * seen(group)).sum();
        words * size_of::<u16>() / PAGE_POSITIONS
    }

    /// How keys and values are kept.
    #[must_use]
    pub fn kv_type(&self) -> KvType {
        self.shape.kv
    }

    /// Bytes of all pages that one sequence of `positions` takes.
    #[must_use]
    pub fn bytes_of(&self, positions: usize) -> usize {
        let page = self.page_len * size_of::<u16>();
        let pages = |group: &Group| {
            let seen = group.window.map_or(positions, |window| positions.min(window + PAGE_POSITIONS));
            seen.div_ceil(PAGE_POSITIONS)
        };
        self.groups.iter().map(|group| pages(group) * group.layers * page).sum()
    }

    /// Bytes of all pages that were allocated.
    #[must_use]
    pub fn bytes_allocated(&self) -> usize {
        self.groups.iter().map(|group| group.pages.len() * group.layers * self.page_len * size_of::<u16>()).sum()
    }

    /// A new, empty sequence that may become as long as the cache allows.
    pub fn create(&mut self) -> SequenceId {
        self.create_for(self.positions_max)
    }

    /// A new, empty sequence of at most `context` positions. The limit decides which rotary factors a model with two sets
    /// of them uses, once and for all.
    pub fn create_for(&mut self, context: usize) -> SequenceId {
        self.insert(Sequence { len: 0, context, runs: vec![Run::default(); self.groups.len()] })
    }

    /// A copy of a sequence that shares all its pages.
    pub fn fork(&mut self, id: SequenceId) -> Result<SequenceId> {
        let original = self.get(id)?;
        let (len, context) = (original.len, original.context);
        let mut runs = original.runs.clone();
        for (group, run) in self.groups.iter_mut().zip(&mut runs) {
            // Only pages that hold tokens: one that was reserved and not yet filled belongs to its owner alone.
            run.pages.truncate(len.div_ceil(PAGE_POSITIONS).saturating_sub(run.dropped));
            for &page in &run.pages {
                group.pages[page].owners += 1;
            }
        }
        Ok(self.insert(Sequence { len, context, runs }))
    }

    /// Tokens in the sequence.
    pub fn len(&self, id: SequenceId) -> Result<usize> {
        Ok(self.get(id)?.len)
    }

    /// The limit that the sequence was created with.
    pub(crate) fn context(&self, id: SequenceId) -> Result<usize> {
        Ok(self.get(id)?.context)
    }

    /// Whether no sequence is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sequences.iter().all(|slot| slot.sequence.is_none())
    }

    /// Keeps the first `len` tokens, gives back the pages of the rest, and returns how many tokens are left. Longer than the
    /// sequence: nothing happens. Where a window has moved on too far for the sequence to go on from there, nothing
    /// is left of it.
    pub fn truncate(&mut self, id: SequenceId, len: usize) -> Result<usize> {
        let sequence = self.get(id)?;
        let len = sequence.len.min(len);
        let gone = |(group, run): (&Group, &Run)| {
            // The next token sees `window` positions, its own included.
            let first_seen = group.window.map_or(0, |window| (len + 1).saturating_sub(window));
            run.dropped * PAGE_POSITIONS > first_seen
        };
        let len = if self.groups.iter().zip(&sequence.runs).any(gone) { 0 } else { len };
        for at in 0..self.groups.len() {
            let run = &mut self.get_mut(id)?.runs[at];
            let keep = len.div_ceil(PAGE_POSITIONS).saturating_sub(run.dropped);
            let released = run.pages.split_off(keep.min(run.pages.len()));
            if len == 0 {
                run.dropped = 0;
            }
            self.groups[at].release(&released);
        }
        self.get_mut(id)?.len = len;
        Ok(len)
    }

    /// Ends a sequence and gives back its pages.
    pub fn remove(&mut self, id: SequenceId) -> Result<()> {
        self.get(id)?;
        let slot = &mut self.sequences[id.slot as usize];
        slot.generation = slot.generation.wrapping_add(1);
        if let Some(sequence) = slot.sequence.take() {
            for (group, run) in self.groups.iter_mut().zip(&sequence.runs) {
                group.release(&run.pages);
            }
        }
        Ok(())
    }

    /// Pages that some sequence holds.
    #[must_use]
    pub fn pages_in_use(&self) -> usize {
        self.groups.iter().map(Group::in_use).sum()
    }

    fn insert(&mut self, sequence: Sequence) -> SequenceId {
        let slot = self.sequences.iter().position(|slot| slot.sequence.is_none()).unwrap_or_else(|| {
            self.sequences.push(Slot::default());
            self.sequences.len() - 1
        });
        self.sequences[slot].sequence = Some(sequence);
        SequenceId { slot: slot as u32, generation: self.sequences[slot].generation }
    }

    fn get(&self, id: SequenceId) -> Result<&Sequence> {
        let slot = self.sequences.get(id.slot as usize).filter(|slot| slot.generation == id.generation);
        slot.and_then(|slot| slot.sequence.as_ref()).ok_or(Error::NoSequence { id: id.slot })
    }

    fn get_mut(&mut self, id: SequenceId) -> Result<&mut Sequence> {
        let slot = self.sequences.get_mut(id.slot as usize).filter(|slot| slot.generation == id.generation);
        slot.and_then(|slot| slot.sequence.as_mut()).ok_or(Error::NoSequence { id: id.slot })
    }

    /// Makes room for the given appends, each `(sequence, tokens)`, all or nothing. Lengths do not
    /// change before [`grow`](Self::grow).
    pub(crate) fn reserve(&mut self, appends: &[(SequenceId, usize)]) -> Result<()> {
        for at in 0..self.groups.len() {
            self.check_room(at, appends)?;
        }
        let page_words = self.page_len;
        for at in 0..self.groups.len() {
            for &(id, n) in appends {
                let len = self.get(id)?.len;
                if let Some(number) = self.must_copy(at, self.get(id)?) {
                    let new = self.groups[at].allocate(page_words);
                    let run = &mut self.get_mut(id)?.runs[at];
                    let place = number - run.dropped;
                    let old = std::mem::replace(&mut run.pages[place], new);
                    let group = &mut self.groups[at];
                    let [from, to] = group
                        .pages
                        .get_disjoint_mut([old, new])
                        .expect("a page that was just allocated is another one");
                    to.data.copy_from_slice(&from.data);
                    group.release([&old]);
                }
                while self.get(id)?.runs[at].end() * PAGE_POSITIONS < len + n {
                    let page = self.groups[at].allocate(page_words);
                    self.get_mut(id)?.runs[at].pages.push_back(page);
                }
            }
        }
        Ok(())
    }

    /// Whether a group has the pages that the appends need.
    fn check_room(&self, at: usize, appends: &[(SequenceId, usize)]) -> Result<()> {
        let group = &self.groups[at];
        let mut needed = 0;
        let mut copied: Vec<PageIndex> = Vec::new();
        for &(id, n) in appends {
            let sequence = self.get(id)?;
            let run = &sequence.runs[at];
            needed += (sequence.len + n).div_ceil(PAGE_POSITIONS).saturating_sub(run.end());
            if let Some(number) = self.must_copy(at, sequence) {
                // The last owner to write keeps the page: of n owners that all append, n - 1 copy it.
                let page = run.page(number).expect("a page that must be copied is held");
                let copies = copied.iter().filter(|&&p| p == page).count() + 1;
                if copies < group.pages[page].owners as usize {
                    needed += 1;
                }
                copied.push(page);
            }
        }
        let free = group.pages_max - group.in_use();
        if needed > free {
            return Err(Error::CacheFull { needed, free, limit: group.pages_max, page_positions: PAGE_POSITIONS });
        }
        Ok(())
    }

    /// The number of the last, partly filled page, if others own it too.
    fn must_copy(&self, at: usize, sequence: &Sequence) -> Option<usize> {
        let number = sequence.len / PAGE_POSITIONS;
        let page = sequence.runs[at].page(number)?;
        (self.groups[at].pages[page].owners > 1).then_some(number)
    }

    /// The page of `layer` that holds `position`, to be written. [`reserve`](Self::reserve) made it this sequence's own.
    pub(crate) fn page_mut(&mut self, id: SequenceId, position: usize, layer: usize) -> Result<&mut [u16]> {
        let (at, place) = self.layers[layer];
        let run = &self.get(id)?.runs[at];
        let page = run.page(position / PAGE_POSITIONS).expect("pages were reserved");
        debug_assert_eq!(self.groups[at].pages[page].owners, 1, "a page is written by its only owner");
        Ok(&mut self.groups[at].pages[page].data[place * self.page_len..(place + 1) * self.page_len])
    }

    /// The pages that `layer` has, in order.
    pub(crate) fn pages(&self, id: SequenceId, layer: usize) -> Result<PageView<'_>> {
        let (at, place) = self.layers[layer];
        let group = &self.groups[at];
        let slice = |&page: &PageIndex| &group.pages[page].data[place * self.page_len..(place + 1) * self.page_len];
        let run = &self.get(id)?.runs[at];
        Ok(PageView {
            first_position: run.dropped * PAGE_POSITIONS,
            window: group.window,
            pages: run.pages.iter().map(slice).collect(),
        })
    }

    /// Counts appended tokens once their keys and values are written, and gives back what no window reaches any more.
    pub(crate) fn grow(&mut self, appends: &[(SequenceId, usize)]) -> Result<()> {
        for &(id, n) in appends {
            self.get_mut(id)?.len += n;
            for at in 0..self.groups.len() {
                let Some(window) = self.groups[at].window else { continue };
                let sequence = self.get_mut(id)?;
                let keep_from = (sequence.len + 1).saturating_sub(window + WINDOW_SLACK) / PAGE_POSITIONS;
                let run = &mut sequence.runs[at];
                let gone = keep_from.saturating_sub(run.dropped).min(run.pages.len());
                let released: Vec<PageIndex> = run.pages.drain(..gone).collect();
                run.dropped += gone;
                self.groups[at].release(&released);
            }
        }
        Ok(())
    }

    pub(crate) fn shape(&self) -> &AttentionShape {
        &self.shape
    }

    pub(crate) fn layers(&self) -> usize {
        self.layers.len()
    }
}

impl Group {
    fn in_use(&self) -> usize {
        self.pages.len() - self.free.len()
    }

    fn release<'a>(&mut self, pages: impl IntoIterator<Item = &'a PageIndex>) {
        for &page in pages {
            self.pages[page].owners -= 1;
            if self.pages[page].owners == 0 {
                self.free.push(page);
            }
        }
    }

    fn allocate(&mut self, page_words: usize) -> PageIndex {
        let page = self.free.pop().unwrap_or_else(|| {
            let data = vec![0u16; self.layers * page_words].into_boxed_slice();
            self.pages.push(Page { data, owners: 0 });
            self.pages.len() - 1
        });
        self.pages[page].owners = 1;
        page
    }
}

impl PageView<'_> {
    /// The pages that a token at `position` sees, the first position in them that it sees, and how many positions from the
    /// beginning of those pages on up to `end`.
    pub fn seen(&self, position: usize, end: usize) -> (&[&[u16]], usize, usize) {
        let first = self.window.map_or(0, |window| (position + 1).saturating_sub(window));
        let begin = first / PAGE_POSITIONS * PAGE_POSITIONS;
        let pages = &self.pages[(begin - self.first_position) / PAGE_POSITIONS..];
        (pages, first - begin, end - begin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hublabio_kernels::KvType;

    fn cache(positions: usize) -> KvCache {
        windowed(positions, None)
    }

    /// Three layers: the outer ones see everything, the middle one, which the tests look at, `window`.
    fn windowed(positions: usize, window: Option<usize>) -> KvCache {
        let shape = AttentionShape {
            heads: 2,
            kv_heads: 1,
            key_dim: 4,
            value_dim: 4,
            scale: 0.5,
            soft_cap: 0.0,
            kv: KvType::F16,
        };
        KvCache::new(shape, &[None, window, None], positions)
    }

    fn append(cache: &mut KvCache, id: SequenceId, n: usize, mark: u16) -> Result<()> {
        cache.reserve(&[(id, n)])?;
        for position in cache.len(id)?..cache.len(id)? + n {
            cache.page_mut(id, position, 1)?[position % PAGE_POSITIONS] = mark;
        }
        cache.grow(&[(id, n)])
    }

    fn marks(cache: &KvCache, id: SequenceId) -> Vec<u16> {
        let view = cache.pages(id, 1).unwrap();
        let positions = view.first_position..cache.len(id).unwrap();
        positions.map(|p| view.pages[(p - view.first_position) / PAGE_POSITIONS][p % PAGE_POSITIONS]).collect()
    }

    #[test]
    fn forks_share_pages_until_one_of_them_writes() {
        let mut cache = cache(1024);
        let a = cache.create();
        append(&mut cache, a, 40, 1).unwrap();
        assert_eq!(cache.pages_in_use(), 2);
        let b = cache.fork(a).unwrap();
        assert_eq!(cache.pages_in_use(), 2);
        append(&mut cache, b, 5, 2).unwrap();
        assert_eq!(cache.pages_in_use(), 3, "the half-full page was copied");
        append(&mut cache, a, 1, 3).unwrap();
        assert_eq!(cache.pages_in_use(), 3, "its old owner is alone with it now");
        assert_eq!(marks(&cache, a), [vec![1; 40], vec![3]].concat());
        assert_eq!(marks(&cache, b), [vec![1; 40], vec![2; 5]].concat());
        cache.remove(a).unwrap();
        assert_eq!(marks(&cache, b), [vec![1; 40], vec![2; 5]].concat());
        cache.remove(b).unwrap();
        assert_eq!(cache.pages_in_use(), 0);
        assert!(cache.is_empty());
    }

    #[test]
    fn a_full_cache_refuses_and_changes_nothing() {
        let mut cache = cache(2 * PAGE_POSITIONS);
        let (a, b) = (cache.create(), cache.create());
        append(&mut cache, a, PAGE_POSITIONS, 1).unwrap();
        let error = append(&mut cache, b, PAGE_POSITIONS + 1, 2).unwrap_err();
        assert!(matches!(error, Error::CacheFull { needed: 2, free: 1, limit: 2, .. }), "{error}");
        assert_eq!((cache.len(b).unwrap(), cache.pages_in_use()), (0, 1));
        append(&mut cache, b, PAGE_POSITIONS, 2).unwrap();
        cache.truncate(a, 0).unwrap();
        append(&mut cache, b, 1, 4).unwrap();
    }

    #[test]
    fn the_last_owner_of_a_shared_page_needs_no_copy() {
        let mut cache = cache(3 * PAGE_POSITIONS);
        let a = cache.create();
        append(&mut cache, a, 40, 1).unwrap();
        let b = cache.fork(a).unwrap();
        cache.reserve(&[(a, 1), (b, 1)]).unwrap();
        assert_eq!(cache.pages_in_use(), 3);
    }

    #[test]
    fn a_fork_shares_no_page_that_was_only_reserved() {
        let mut cache = cache(1024);
        let a = cache.create();
        append(&mut cache, a, 40, 1).unwrap();
        cache.reserve(&[(a, 100)]).unwrap();
        let b = cache.fork(a).unwrap();
        append(&mut cache, b, 60, 2).unwrap();
        append(&mut cache, a, 60, 3).unwrap();
        assert_eq!(marks(&cache, a), [vec![1; 40], vec![3; 60]].concat());
        assert_eq!(marks(&cache, b), [vec![1; 40], vec![2; 60]].concat());
    }

    #[test]
    fn truncation_keeps_the_beginning() {
        let mut cache = cache(1024);
        let a = cache.create();
        append(&mut cache, a, 70, 1).unwrap();
        cache.truncate(a, 33).unwrap();
        assert_eq!((cache.len(a).unwrap(), cache.pages_in_use()), (33, 2));
        cache.truncate(a, 100).unwrap();
        assert_eq!(cache.len(a).unwrap(), 33);
        append(&mut cache, a, 2, 9).unwrap();
        assert_eq!(marks(&cache, a)[33..], [9, 9]);
    }

    #[test]
    fn a_removed_sequence_is_gone() {
        let mut cache = cache(64);
        let a = cache.create();
        cache.remove(a).unwrap();
        assert!(matches!(cache.len(a), Err(Error::NoSequence { .. })));
        let b = cache.create();
        assert_ne!(a, b);
        assert!(matches!(cache.truncate(a, 0), Err(Error::NoSequence { .. })));
        assert_eq!(cache.len(b).unwrap(), 0);
    }

    #[test]
    fn a_window_bounds_the_memory_of_its_layers() {
        let mut cache = windowed(64 * 1024, Some(40));
        let a = cache.create();
        let mut most = 0;
        for step in 0..400 {
            append(&mut cache, a, 7, step).unwrap();
            let pages = cache.groups.iter().map(Group::in_use).collect::<Vec<_>>();
            assert_eq!(pages[0], (7 * (usize::from(step) + 1)).div_ceil(PAGE_POSITIONS));
            most = most.max(pages[1]);
        }
        assert!(most <= (40 + WINDOW_SLACK + 7) / PAGE_POSITIONS + 2, "{most} pages for a window of 40");
        // The positions that the next token sees are there, with what was written last.
        let held = marks(&cache, a);
        let seen: Vec<u16> = (2800 - 39..2800u16).map(|p| p / 7).collect();
        assert_eq!(held[held.len() - 39..], seen);
        let view = cache.pages(a, 1).unwrap();
        let (pages, skip, len) = view.seen(2799, 2800);
        assert_eq!((2800 - len + skip, pages.len()), (2760, (len.div_ceil(PAGE_POSITIONS))));
    }

    #[test]
    fn a_sequence_goes_back_as_far_as_its_window_allows() {
        let mut cache = windowed(64 * 1024, Some(40));
        let a = cache.create();
        for step in 0..200 {
            append(&mut cache, a, 10, step).unwrap();
        }
        let b = cache.fork(a).unwrap();
        assert_eq!(cache.truncate(a, 1900).unwrap(), 1900, "within the slack");
        append(&mut cache, a, 10, 999).unwrap();
        assert_eq!(marks(&cache, a)[marks(&cache, a).len() - 11..], [vec![189], vec![999; 10]].concat());
        assert_eq!(cache.truncate(a, 1000).unwrap(), 0, "what the window saw there is gone");
        append(&mut cache, a, 50, 5).unwrap();
        assert_eq!(marks(&cache, a), vec![5; 50]);
        assert_eq!(marks(&cache, b).last(), Some(&199), "a fork keeps its own");
        cache.remove(a).unwrap();
        cache.remove(b).unwrap();
        assert_eq!(cache.pages_in_use(), 0);
    }
}
