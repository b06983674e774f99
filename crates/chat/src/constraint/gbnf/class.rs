//! Sets of characters.

/// Ranges of Unicode scalar values, both ends included: sorted, apart from each other, without surrogates.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Class {
    ranges: Vec<(char, char)>,
}

impl Class {
    /// Every character.
    pub fn all() -> Self {
        Self { ranges: vec![('\0', char::MAX)] }
    }

    /// One character.
    pub fn one(c: char) -> Self {
        Self { ranges: vec![(c, c)] }
    }

    /// The characters in ranges of numbers; numbers that are no characters (surrogates, too large) are left out.
    pub fn from_numbers(numbers: &[(u32, u32)]) -> Self {
        let mut parts = Vec::new();
        for &(low, high) in numbers {
            for (first, last) in [(0, 0xD7FF), (0xE000, u32::from(char::MAX))] {
                let ends = (char::from_u32(low.max(first)), char::from_u32(high.min(last)));
                if low.max(first) <= high.min(last)
                    && let (Some(low), Some(high)) = ends
                {
                    parts.push((low, high));
                }
            }
        }
        parts.sort_unstable();
        let mut ranges: Vec<(char, char)> = Vec::new();
        for (low, high) in parts {
            match ranges.last_mut() {
                Some((_, end)) if low <= *end || next(*end) == Some(low) => *end = (*end).max(high),
                _ => ranges.push((low, high)),
            }
        }
        Self { ranges }
    }

    /// The characters that are not in it.
    pub fn negated(&self) -> Self {
        let mut ranges = Vec::new();
        let mut low = Some('\0');
        for &(first, last) in &self.ranges {
            if let Some(low) = low.filter(|&low| low < first) {
                ranges.push((low, previous(first)));
            }
            low = next(last);
        }
        if let Some(low) = low {
            ranges.push((low, char::MAX));
        }
        Self { ranges }
    }

    /// The ranges.
    pub fn ranges(&self) -> &[(char, char)] {
        &self.ranges
    }

    /// Whether no character is in it.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }
}

fn next(c: char) -> Option<char> {
    match c {
        '\u{D7FF}' => Some('\u{E000}'),
        c => char::from_u32(u32::from(c) + 1),
    }
}

/// Of a character that is not the first.
fn previous(c: char) -> char {
    match c {
        '\u{E000}' => '\u{D7FF}',
        c => char::from_u32(u32::from(c) - 1).expect("a character after the first, and not behind the gap"),
    }
}
