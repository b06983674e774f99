//! The merge loop that both algorithms share: join the best neighbouring pair, leftmost on ties, until none is left.
//!
//! BPE and SentencePiece differ only in how a pair's priority is found, which is the [`Rule`]. Short words are
//! scanned; long ones use a linked list and an [`Agenda`], so that a text of n symbols costs O(n log n) whatever it
//! holds.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// A stretch of text that is one token so far.
#[derive(Debug, Clone, Copy)]
pub struct Symbol {
    /// Token id, or a number that only the rule understands.
    pub id: u32,
    /// First byte of the stretch, relative to the text that is being merged.
    pub start: u32,
    /// One past its last byte.
    pub end: u32,
}

/// What joining two neighbours gives.
#[derive(Debug, Clone, Copy)]
pub struct Join {
    /// Smaller joins happen first. `u32::MAX` is not a priority.
    pub priority: u32,
    /// The joined symbol's id.
    pub id: u32,
}

/// Which neighbours may be joined.
pub trait Rule {
    /// The join of `left` and `right`, which touch, if there is one.
    fn join(&mut self, left: Symbol, right: Symbol) -> Option<Join>;
}

/// Counts what the merge loop did, so that tests can bound work without looking at a clock.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Work {
    /// Pairs that were looked up.
    pub lookups: u64,
    /// Pairs that were put on the agenda of a long word, to be joined or dropped later.
    pub agenda_entries: u64,
    /// Comparisons made while scanning short words.
    pub scanned: u64,
}

/// Words of up to this many symbols are scanned; there the scan beats the agenda.
const SCAN_SYMBOLS_MAX: usize = 40;

const NO_PRIORITY: u32 = u32::MAX;
const NONE: u32 = u32::MAX;

/// Memory that the merge loop reuses from word to word.
#[derive(Debug, Default)]
pub struct Merger {
    /// The symbols: filled by the caller, merged in place by [`Merger::merge`].
    pub symbols: Vec<Symbol>,
    /// What was done since the last reset.
    pub work: Work,
    joins: Vec<Join>,
    next: Vec<u32>,
    previous: Vec<u32>,
    agenda: Agenda,
}

impl Merger {
    /// Merges `self.symbols` by `rule` until no neighbours can be joined.
    pub fn merge(&mut self, rule: &mut impl Rule) {
        match self.symbols.len() {
            0 | 1 => {}
            2..=SCAN_SYMBOLS_MAX => self.merge_by_scan(rule),
            _ => self.merge_by_agenda(rule),
        }
    }

    fn merge_by_scan(&mut self, rule: &mut impl Rule) {
        let Self { symbols, joins, work, .. } = self;
        joins.clear();
        joins.extend(symbols.windows(2).map(|pair| join_or_none(rule, pair[0], pair[1])));
        work.lookups += joins.len() as u64;
        loop {
            work.scanned += joins.len() as u64;
            // `min_by_key` returns the first of equal elements: the leftmost pair.
            let Some((at, &best)) = joins.iter().enumerate().min_by_key(|(_, join)| join.priority) else { return };
            if best.priority == NO_PRIORITY {
                return;
            }
            symbols[at] = Symbol { id: best.id, start: symbols[at].start, end: symbols[at + 1].end };
            symbols.remove(at + 1);
            joins.remove(at);
            if at > 0 {
                joins[at - 1] = join_or_none(rule, symbols[at - 1], symbols[at]);
                work.lookups += 1;
            }
            if at < joins.len() {
                joins[at] = join_or_none(rule, symbols[at], symbols[at + 1]);
                work.lookups += 1;
            }
        }
    }

    fn merge_by_agenda(&mut self, rule: &mut impl Rule) {
        let n = self.symbols.len();
        let Self { symbols, joins, next, previous, agenda, work } = self;

        // 1. Link the symbols and rank every pair. joins[i] is the join of symbol i with its present successor.
        next.clear();
        next.extend((1..n as u32).chain([NONE]));
        previous.clear();
        previous.extend([NONE].into_iter().chain(0..n as u32 - 1));
        joins.clear();
        joins.extend(symbols.windows(2).map(|pair| join_or_none(rule, pair[0], pair[1])));
        joins.push(Join { priority: NO_PRIORITY, id: 0 });
        agenda.clear();
        joins.iter().enumerate().for_each(|(at, join)| agenda.push(join.priority, at as u32));
        work.lookups += n as u64 - 1;

        // 2. Join the best pair. An entry whose priority is no longer its symbol's is out of date.
        while let Some((priority, at)) = agenda.pop() {
            let join = joins[at as usize];
            if join.priority != priority {
                continue;
            }
            let right = next[at as usize];
            let after = next[right as usize];
            symbols[at as usize].id = join.id;
            symbols[at as usize].end = symbols[right as usize].end;
            joins[right as usize].priority = NO_PRIORITY;
            next[at as usize] = after;
            // An empty stretch marks a symbol that its left neighbour has swallowed.
            symbols[right as usize].end = symbols[right as usize].start;
            if after != NONE {
                previous[after as usize] = at;
            }

            // 3. Rank the two pairs that the new symbol is part of.
            for (left, right) in [(previous[at as usize], at), (at, after)] {
                if left == NONE {
                    continue;
                }
                joins[left as usize] = if right == NONE {
                    Join { priority: NO_PRIORITY, id: 0 }
                } else {
                    work.lookups += 1;
                    join_or_none(rule, symbols[left as usize], symbols[right as usize])
                };
                agenda.push(joins[left as usize].priority, left);
            }
        }
        work.agenda_entries += agenda.entries;
        symbols.retain(|symbol| symbol.end > symbol.start);
    }

    /// Gives back the memory that an unusually long word needed.
    pub fn shrink(&mut self) {
        const KEPT_SYMBOLS: usize = 1 << 14;
        if self.symbols.capacity() > KEPT_SYMBOLS || self.next.capacity() > KEPT_SYMBOLS {
            *self = Self { work: self.work, ..Self::default() };
        }
    }
}

fn join_or_none(rule: &mut impl Rule, left: Symbol, right: Symbol) -> Join {
    rule.join(left, right).unwrap_or(Join { priority: NO_PRIORITY, id: 0 })
}

/// A priority queue of pairs, lowest priority first, leftmost first among equals.
///
/// Merges mostly make pairs that come later than everything known so far: a run of one letter becomes pairs, then fours,
/// then eights. So entries beyond the present generation wait unordered and are sorted together once it is used up,
/// which visits them in the order of the text; only an entry that belongs into the present generation goes through a
/// heap. Either way an entry costs O(log n).
#[derive(Debug, Default)]
struct Agenda {
    /// The present generation in descending order; its largest key is `bound`.
    sorted: Vec<u64>,
    bound: u64,
    /// Later entries that belong into the present generation.
    heap: BinaryHeap<Reverse<u64>>,
    /// Entries for the next generation.
    pending: Vec<u64>,
    entries: u64,
}

impl Agenda {
    fn clear(&mut self) {
        self.sorted.clear();
        self.heap.clear();
        self.pending.clear();
        self.bound = 0;
        self.entries = 0;
    }

    fn push(&mut self, priority: u32, at: u32) {
        if priority == NO_PRIORITY {
            return;
        }
        self.entries += 1;
        let key = u64::from(priority) << 32 | u64::from(at);
        if key < self.bound {
            self.heap.push(Reverse(key));
        } else {
            self.pending.push(key);
        }
    }

    fn pop(&mut self) -> Option<(u32, u32)> {
        if self.sorted.is_empty() && self.heap.is_empty() {
            std::mem::swap(&mut self.sorted, &mut self.pending);
            self.sorted.sort_unstable_by_key(|&key| Reverse(key));
            self.bound = *self.sorted.first()?;
        }
        let key = match (self.sorted.last(), self.heap.peek()) {
            (Some(&first), Some(&Reverse(heaped))) if heaped < first => self.heap.pop()?.0,
            (Some(_), _) => self.sorted.pop()?,
            (None, _) => self.heap.pop()?.0,
        };
        Some(((key >> 32) as u32, key as u32))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Joins two symbols when their ids are a listed pair.
    struct Listed(Vec<((u32, u32), Join)>);

    impl Rule for Listed {
        fn join(&mut self, left: Symbol, right: Symbol) -> Option<Join> {
            self.0.iter().find(|(pair, _)| *pair == (left.id, right.id)).map(|&(_, join)| join)
        }
    }

    fn symbols(ids: &[u32]) -> Vec<Symbol> {
        (0..).zip(ids).map(|(at, &id)| Symbol { id, start: at, end: at + 1 }).collect()
    }

    /// The definition, word for word: look at every pair, join the best, start again.
    fn merge_by_definition(rule: &mut Listed, symbols: &mut Vec<Symbol>) {
        loop {
            let joins = symbols.windows(2).enumerate();
            let joins = joins.filter_map(|(at, pair)| Some((rule.join(pair[0], pair[1])?, at)));
            let Some((join, at)) = joins.min_by_key(|(join, at)| (join.priority, *at)) else { return };
            let right = symbols.remove(at + 1);
            symbols[at] = Symbol { id: join.id, start: symbols[at].start, end: right.end };
        }
    }

    proptest! {
        /// Merges in any order, also ones that no training would give: a later join may have a smaller priority.
        #[test]
        fn both_ways_do_what_the_definition_says(
            ids in proptest::collection::vec(0u32..4, 0..120),
            merges in proptest::collection::vec((0u32..12, 0u32..12, 0u32..20), 0..12),
        ) {
            // Symbols 0 to 3 are the alphabet; merge number n makes symbol 4 + n.
            let listed = || {
                Listed((4..).zip(&merges).map(|(id, &(a, b, priority))| ((a, b), Join { priority, id })).collect())
            };
            let mut expected = symbols(&ids);
            merge_by_definition(&mut listed(), &mut expected);
            let expected: Vec<_> = expected.iter().map(|symbol| (symbol.id, symbol.start, symbol.end)).collect();

            let by_scan = |merger: &mut Merger| merger.merge_by_scan(&mut listed());
            let by_agenda = |merger: &mut Merger| if ids.len() > 1 { merger.merge_by_agenda(&mut listed()) };
            for merge in [&by_scan as &dyn Fn(&mut Merger), &by_agenda] {
                let mut merger = Merger { symbols: symbols(&ids), ..Merger::default() };
                merge(&mut merger);
                let found: Vec<_> = merger.symbols.iter().map(|symbol| (symbol.id, symbol.start, symbol.end)).collect();
                prop_assert_eq!(&found, &expected);
            }
        }
    }

    #[test]
    fn the_work_on_a_run_is_linear() {
        // 0 0 → 1, 1 1 → 2, … up to runs of 64.
        let rule = || Listed((0..6).map(|id| ((id, id), Join { priority: id, id: id + 1 })).collect());
        for n in [1_000, 100_000] {
            let mut merger = Merger { symbols: symbols(&vec![0; n]), ..Merger::default() };
            merger.merge(&mut rule());
            assert_eq!(merger.symbols.len(), n.div_ceil(64) + (n % 64).count_ones() as usize - usize::from(n % 64 > 0));
            // Every merge removes a symbol and makes at most two new pairs.
            assert!(merger.work.lookups <= 3 * n as u64, "{:?}", merger.work);
            assert!(merger.work.agenda_entries <= 3 * n as u64, "{:?}", merger.work);
        }
    }
}
