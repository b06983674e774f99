//! A set of byte strings, walked byte by byte: every string that a text begins with, in one pass.
//!
//! Nodes are numbered level by level, so that the children of a node are neighbours:
//!
//! ```text
//! node      0    1    2    3    4         strings: "a" = 7, "b", "bc"
//! label     -    a    b    c              children of node n: first[n] .. first[n + 1]
//! first     1    3    3    4    4
//! value     -    7    8    9
//! ```

const NO_VALUE: u32 = u32::MAX;
const NO_TABLE: u32 = u32::MAX;
/// A node with more children than this has a table of them, as long as there are few tables: a kilobyte each.
const CHILDREN_LISTED_MAX: usize = 8;
const TABLES_MAX: usize = 512;

/// Byte strings with a number each.
#[derive(Debug)]
pub struct Trie {
    labels: Vec<u8>,
    nodes: Vec<Entry>,
    /// The child of a node for each byte; 0 where there is none. The first table is the root's.
    tables: Vec<[u32; 256]>,
}

/// What a walk reads of a node, side by side.
#[derive(Debug, Clone, Copy)]
struct Entry {
    first: u32,
    value: u32,
    table: u32,
}

/// A place in a [`Trie`].
#[derive(Debug, Clone, Copy)]
pub struct Node(u32);

impl Trie {
    /// A trie of `strings`; of two equal ones the first counts, empty ones are left out.
    pub fn new<'a>(strings: impl Iterator<Item = (&'a [u8], u32)>) -> Self {
        let mut strings: Vec<_> = strings.filter(|(text, _)| !text.is_empty()).collect();
        // A stable sort, so that the first of equal strings stays the first.
        strings.sort_by_key(|&(text, _)| text);
        strings.dedup_by_key(|&mut (text, _)| text);
        let mut trie = Self { labels: vec![0], nodes: Vec::new(), tables: vec![[0; 256]] };
        // Per node: the strings below it, and how much of them leads here.
        let mut pending = std::collections::VecDeque::from([(0, strings.len(), 0)]);
        while let Some((mut from, to, depth)) = pending.pop_front() {
            let mut entry = Entry { first: trie.labels.len() as u32, value: NO_VALUE, table: NO_TABLE };
            // The string that ends here sorts before those that go on.
            if from < to && strings[from].0.len() == depth {
                entry.value = strings[from].1;
                from += 1;
            }
            while from < to {
                let label = strings[from].0[depth];
                let count = strings[from..to].partition_point(|(text, _)| text[depth] == label);
                trie.labels.push(label);
                pending.push_back((from, from + count, depth + 1));
                from += count;
            }
            let children = entry.first as usize..trie.labels.len();
            let table = if depth == 0 {
                Some(0)
            } else if children.len() > CHILDREN_LISTED_MAX && trie.tables.len() < TABLES_MAX {
                trie.tables.push([0; 256]);
                Some(trie.tables.len() - 1)
            } else {
                None
            };
            if let Some(table) = table {
                entry.table = table as u32;
                for child in children {
                    trie.tables[table][usize::from(trie.labels[child])] = child as u32;
                }
            }
            trie.nodes.push(entry);
        }
        // Where the children of the last node end.
        trie.nodes.push(Entry { first: trie.labels.len() as u32, value: NO_VALUE, table: NO_TABLE });
        trie
    }

    /// The node of the strings that begin with `byte`.
    #[inline]
    pub fn root(&self, byte: u8) -> Option<Node> {
        let node = self.tables[0][usize::from(byte)];
        (node != 0).then_some(Node(node))
    }

    /// The node one byte further.
    #[inline]
    pub fn child(&self, node: Node, byte: u8) -> Option<Node> {
        let Entry { first, table, .. } = self.nodes[node.0 as usize];
        if table != NO_TABLE {
            let child = self.tables[table as usize][usize::from(byte)];
            return (child != 0).then_some(Node(child));
        }
        let end = self.nodes[node.0 as usize + 1].first;
        let labels = &self.labels[first as usize..end as usize];
        // Labels are in order. Most nodes have few children, where looking at each is faster.
        let at = match labels.len() {
            0..=CHILDREN_LISTED_MAX => labels.iter().position(|&label| label == byte),
            _ => labels.binary_search(&byte).ok(),
        };
        at.map(|at| Node(first + at as u32))
    }

    /// The number of the string that ends at a node.
    #[inline]
    pub fn value(&self, node: Node) -> Option<u32> {
        let value = self.nodes[node.0 as usize].value;
        (value != NO_VALUE).then_some(value)
    }

    /// The longest string that `text` begins with: its number and length.
    #[inline]
    pub fn longest_prefix(&self, text: &[u8]) -> Option<(u32, usize)> {
        let mut node = self.root(*text.first()?)?;
        let mut longest = self.value(node).map(|value| (value, 1));
        for (at, &byte) in text.iter().enumerate().skip(1) {
            let Some(next) = self.child(node, byte) else { break };
            node = next;
            longest = self.value(node).map(|value| (value, at + 1)).or(longest);
        }
        longest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_longest_prefix_is_the_longest_string_that_the_text_begins_with(
            strings in proptest::collection::vec("[abc]{0,4}", 0..20),
            text in "[abcd]{0,8}",
        ) {
            let trie = Trie::new(strings.iter().map(String::as_bytes).zip(0..));
            let begins = strings.iter().filter(|string| !string.is_empty() && text.starts_with(*string));
            let expected = begins.max_by_key(|string| string.len()).map(|string| {
                (strings.iter().position(|other| other == string).unwrap() as u32, string.len())
            });
            prop_assert_eq!(trie.longest_prefix(text.as_bytes()), expected);
        }
    }

    #[test]
    fn an_empty_trie_finds_nothing() {
        let trie = Trie::new(std::iter::empty());
        assert_eq!(trie.longest_prefix(b"a"), None);
        assert_eq!(trie.longest_prefix(b""), None);
    }
}
