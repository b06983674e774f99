//! The key-value cache: pages with reference counts, and sequences that are lists of pages.
//!
//! A page holds [`PAGE_POSITIONS`] positions of every layer of the shard. Sequences that began alike share
//! pages; a page is copied when one of several owners appends to it. Pages are allocated when they are
//! first needed, up to a limit, and kept for reuse.

use hublabio_kernels::{AttentionShape, PAGE_POSITIONS, page_len};

use crate::error::{Error, Result};

/// A sequence of tokens in a [`KvCache`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct SequenceId {
    slot: u32,
    /// Counts the sequences that the slot has held: an id never comes to mean another sequence.
    generation: u32,
}

type PageIndex = usize;

struct Page {
    /// `[layers][page_len]` words.
    data: Box<[u16]>,
    owners: u32,
}

/// Slots of finished sequences are reused.
#[derive(Default)]
struct Slot {
    generation: u32,
    sequence: Option<Sequence>,
}

#[derive(Default)]
struct Sequence {
    pages: Vec<PageIndex>,
    len: usize,
}

/// Keys and values of all sequences of one shard.
pub struct KvCache {
    shape: AttentionShape,
    layers: usize,
    page_len: usize,
    pages: Vec<Page>,
    free: Vec<PageIndex>,
    pages_max: usize,
    sequences: Vec<Slot>,
}

impl KvCache {
    /// For `layers` layers of `shape`, with as many pages as `positions_max` positions of one sequence take. A page belongs
    /// to one sequence, unless they began alike.
    pub(crate) fn new(shape: AttentionShape, layers: usize, positions_max: usize) -> Self {
        Self {
            shape,
            layers,
            page_len: page_len(&shape),
            pages: Vec::new(),
            free: Vec::new(),
            pages_max: positions_max.div_ceil(PAGE_POSITIONS),
            sequences: Vec::new(),
        }
    }

    /// Bytes that one position takes (a page is allocated for [`PAGE_POSITIONS`] of them).
    #[must_use]
    pub fn bytes_per_position(&self) -> usize {
        self.layers * self.page_len * size_of::<u16>() / PAGE_POSITIONS
    }

    /// A new, empty sequence.
    pub fn create(&mut self) -> SequenceId {
        self.insert(Sequence::default())
    }

    /// A copy of a sequence that shares all its pages.
    pub fn fork(&mut self, id: SequenceId) -> Result<SequenceId> {
        let original = self.get(id)?;
        // Only pages that hold tokens: one that was reserved and not yet filled belongs to its owner alone.
        let pages = original.pages[..original.len.div_ceil(PAGE_POSITIONS)].to_vec();
        let copy = Sequence { pages, len: original.len };
        for &page in &copy.pages {
            self.pages[page].owners += 1;
        }
        Ok(self.insert(copy))
    }

    /// Tokens in the sequence.
    pub fn len(&self, id: SequenceId) -> Result<usize> {
        Ok(self.get(id)?.len)
    }

    /// Whether no sequence is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sequences.iter().all(|slot| slot.sequence.is_none())
    }

    /// Keeps the first `len` tokens and gives back the pages of the rest. Longer than the sequence: nothing happens.
    pub fn truncate(&mut self, id: SequenceId, len: usize) -> Result<()> {
        let sequence = self.get_mut(id)?;
        sequence.len = sequence.len.min(len);
        let keep = sequence.len.div_ceil(PAGE_POSITIONS);
        let dropped = sequence.pages.split_off(keep.min(sequence.pages.len()));
        self.release(&dropped);
        Ok(())
    }

    /// Ends a sequence and gives back its pages.
    pub fn remove(&mut self, id: SequenceId) -> Result<()> {
        self.get(id)?;
        let slot = &mut self.sequences[id.slot as usize];
        slot.generation = slot.generation.wrapping_add(1);
        if let Some(sequence) = slot.sequence.take() {
            self.release(&sequence.pages);
        }
        Ok(())
    }

    /// Pages that some sequence holds.
    #[must_use]
    pub fn pages_in_use(&self) -> usize {
        self.pages.len() - self.free.len()
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

    fn release(&mut self, pages: &[PageIndex]) {
        for &page in pages {
            self.pages[page].owners -= 1;
            if self.pages[page].owners == 0 {
                self.free.push(page);
            }
        }
    }

    fn allocate(&mut self) -> PageIndex {
        let page = self.free.pop().unwrap_or_else(|| {
            let data = vec![0u16; self.layers * self.page_len].into_boxed_slice();
            self.pages.push(Page { data, owners: 0 });
            self.pages.len() - 1
        });
        self.pages[page].owners = 1;
        page
    }

    /// Makes room for the given appends, each `(sequence, tokens)`, all or nothing. Lengths do not
    /// change before [`grow`](Self::grow).
    pub(crate) fn reserve(&mut self, appends: &[(SequenceId, usize)]) -> Result<()> {
        let mut needed = 0;
        let mut copied: Vec<PageIndex> = Vec::new();
        for &(id, n) in appends {
            let sequence = self.get(id)?;
            needed += (sequence.len + n).div_ceil(PAGE_POSITIONS)
                - sequence.pages.len().min((sequence.len + n).div_ceil(PAGE_POSITIONS));
            if let Some(at) = self.must_copy(sequence) {
                // The last owner to write keeps the page: of n owners that all append, n - 1 copy it.
                let page = sequence.pages[at];
                let copies = copied.iter().filter(|&&p| p == page).count() + 1;
                if copies < self.pages[page].owners as usize {
                    needed += 1;
                }
                copied.push(page);
            }
        }
        let free = self.pages_max - self.pages_in_use();
        if needed > free {
            return Err(Error::CacheFull { needed, free, limit: self.pages_max, page_positions: PAGE_POSITIONS });
        }
        for &(id, n) in appends {
            if let Some(at) = self.must_copy(self.get(id)?) {
                let old = self.get(id)?.pages[at];
                let new = self.allocate();
                let [from, to] =
                    self.pages.get_disjoint_mut([old, new]).expect("a page that was just allocated is another one");
                to.data.copy_from_slice(&from.data);
                self.release(&[old]);
                self.get_mut(id)?.pages[at] = new;
            }
            while self.get(id)?.pages.len() * PAGE_POSITIONS < self.get(id)?.len + n {
                let page = self.allocate();
                self.get_mut(id)?.pages.push(page);
            }
        }
        Ok(())
    }

    /// The last, partly filled page, if others own it too.
    fn must_copy(&self, sequence: &Sequence) -> Option<usize> {
        let at = sequence.len / PAGE_POSITIONS;
        let &page = sequence.pages.get(at)?;
        (self.pages[page].owners > 1).then_some(at)
    }

    /// The page of `layer` that holds `position`, to be written. [`reserve`](Self::reserve) made it this sequence's own.
    pub(crate) fn page_mut(&mut self, id: SequenceId, position: usize, layer: usize) -> Result<&mut [u16]> {
        let page = self.get(id)?.pages[position / PAGE_POSITIONS];
        debug_assert_eq!(self.pages[page].owners, 1, "a page is written by its only owner");
        Ok(&mut self.pages[page].data[layer * self.page_len..(layer + 1) * self.page_len])
    }

    /// The pages of `layer`, in order.
    pub(crate) fn pages(&self, id: SequenceId, layer: usize) -> Result<Vec<&[u16]>> {
        let slice = |&page: &PageIndex| &self.pages[page].data[layer * self.page_len..(layer + 1) * self.page_len];
        Ok(self.get(id)?.pages.iter().map(slice).collect())
    }

    /// Counts appended tokens once their keys and values are written.
    pub(crate) fn grow(&mut self, appends: &[(SequenceId, usize)]) -> Result<()> {
        for &(id, n) in appends {
            self.get_mut(id)?.len += n;
        }
        Ok(())
    }

    pub(crate) fn shape(&self) -> &AttentionShape {
        &self.shape
    }

    pub(crate) fn layers(&self) -> usize {
        self.layers
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hublabio_kernels::KvType;

    fn cache(positions: usize) -> KvCache {
        let shape = AttentionShape {
            heads: 2,
            kv_heads: 1,
            key_dim: 4,
            value_dim: 4,
            scale: 0.5,
            soft_cap: 0.0,
            kv: KvType::F16,
        };
        KvCache::new(shape, 3, positions)
    }

    fn append(cache: &mut KvCache, id: SequenceId, n: usize, mark: u16) -> Result<()> {
        cache.reserve(&[(id, n)])?;
        for position in cache.len(id)?..cache.len(id)? + n {
            cache.page_mut(id, position, 1)?[position % PAGE_POSITIONS] = mark;
        }
        cache.grow(&[(id, n)])
    }

    fn marks(cache: &KvCache, id: SequenceId) -> Vec<u16> {
        let pages = cache.pages(id, 1).unwrap();
        (0..cache.len(id).unwrap()).map(|p| pages[p / PAGE_POSITIONS][p % PAGE_POSITIONS]).collect()
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
}
