//! Numbers as people and models write them.

/// The longest number that is read, in bytes.
const NUMBER_BYTES_MAX: usize = 64;

/// A number at the beginning of a text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Number {
    pub value: f64,
    /// Digits behind its decimal point.
    pub decimals: usize,
    /// Bytes that it takes.
    pub bytes: usize,
}

impl Number {
    /// Whether two values are one number, but for the rounding of their binary form.
    pub fn same(a: f64, b: f64) -> bool {
        a == b || (a - b).abs() <= 1e-9 * a.abs().max(b.abs())
    }
}

/// Reads a number: a sign, digits in groups of three (`1,024`, `1_024`, `1'024`, `1 024`) or not, a decimal point, or a
/// comma where it cannot separate groups (`3,5`), an exponent, `0x` and hexadecimal digits. `None` where no number
/// begins.
pub(super) fn read(text: &str) -> Option<Number> {
    let end = super::shorten::boundary(text, NUMBER_BYTES_MAX);
    let mut reader = Reader { rest: &text[..end], digits: String::new(), decimals: 0 };
    reader.sign();
    let value = if reader.hexadecimal() {
        let (sign, digits) = reader.digits.strip_prefix('-').map_or((1.0, reader.digits.as_str()), |d| (-1.0, d));
        sign * u64::from_str_radix(digits, 16).ok()? as f64
    } else {
        reader.integer()?;
        reader.fraction();
        reader.exponent();
        reader.digits.parse().ok()?
    };
    let bytes = end - reader.rest.len();
    f64::is_finite(value).then_some(Number { value, decimals: reader.decimals, bytes })
}

/// All numbers of a text that stand by themselves, not within words and versions.
pub(super) fn scan(text: &str) -> Vec<f64> {
    let mut found = Vec::new();
    let mut before = ' ';
    let mut at = 0;
    while let Some(c) = text[at..].chars().next() {
        let signed = matches!(c, '-' | '−') && before.is_whitespace();
        let begins = (c.is_ascii_digit() || signed) && !before.is_alphanumeric() && !matches!(before, '.' | '_');
        if let Some(number) = begins.then(|| read(&text[at..])).flatten() {
            let mut after = text[at + number.bytes..].chars();
            let glued = match (after.next(), after.next()) {
                (Some('.'), Some(next)) => next.is_ascii_digit(),
                (Some(next), _) => next.is_alphanumeric() || next == '_',
                _ => false,
            };
            if !glued {
                found.push(number.value);
            }
            at += number.bytes;
            before = '0';
        } else {
            at += c.len_utf8();
            before = c;
        }
    }
    found
}

struct Reader<'a> {
    rest: &'a str,
    /// What was read, as Rust writes numbers.
    digits: String,
    decimals: usize,
}

impl Reader<'_> {
    fn sign(&mut self) {
        if let Some(rest) = self.rest.strip_prefix(['-', '−']) {
            self.digits.push('-');
            self.rest = rest;
        } else if let Some(rest) = self.rest.strip_prefix('+') {
            self.rest = rest;
        }
    }

    fn hexadecimal(&mut self) -> bool {
        let Some(rest) = self.rest.strip_prefix("0x").or_else(|| self.rest.strip_prefix("0X")) else { return false };
        let count = rest.bytes().take_while(u8::is_ascii_hexdigit).count();
        if count == 0 {
            return false;
        }
        self.digits.push_str(&rest[..count]);
        self.rest = &rest[count..];
        true
    }

    /// Digits at the beginning of what is left.
    fn count(text: &str) -> usize {
        text.bytes().take_while(u8::is_ascii_digit).count()
    }

    fn take(&mut self, count: usize) {
        self.digits.push_str(&self.rest[..count]);
        self.rest = &self.rest[count..];
    }

    fn integer(&mut self) -> Option<()> {
        let first = Self::count(self.rest);
        if first == 0 {
            // `.5`
            return (self.rest.starts_with('.') && Self::count(&self.rest[1..]) > 0).then(|| self.digits.push('0'));
        }
        self.take(first);
        let separator = self.rest.chars().next().filter(|c| first <= 3 && ",_' \u{a0}\u{2009}\u{202f}".contains(*c));
        let Some(separator) = separator else { return Some(()) };
        while let Some(group) = self.rest.strip_prefix(separator).filter(|group| Self::count(group) == 3) {
            self.rest = group;
            self.take(3);
        }
        Some(())
    }

    fn fraction(&mut self) {
        let Some(fraction) = self.rest.strip_prefix(['.', ',']) else { return };
        let count = Self::count(fraction);
        // A number has one decimal point: what has more is a version.
        let more = fraction[count..].strip_prefix('.').is_some_and(|rest| Self::count(rest) > 0);
        if count > 0 && !more {
            self.digits.push('.');
            self.rest = fraction;
            self.take(count);
            self.decimals = count;
        }
    }

    fn exponent(&mut self) {
        let Some(rest) = self.rest.strip_prefix(['e', 'E']) else { return };
        let (sign, rest) = match rest.strip_prefix('-') {
            Some(rest) => ("-", rest),
            None => ("", rest.strip_prefix('+').unwrap_or(rest)),
        };
        let count = Self::count(rest);
        if (1..=4).contains(&count) && !rest[count..].starts_with(char::is_alphanumeric) {
            self.digits.push('e');
            self.digits.push_str(sign);
            self.rest = rest;
            self.take(count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_people_write_them() {
        let check = |text: &str, value: f64, rest: &str| {
            let number = read(text).unwrap_or_else(|| panic!("{text}"));
            assert_eq!((number.value, &text[number.bytes..]), (value, rest), "{text}");
        };
        check("1,024", 1024.0, "");
        check("1024.0", 1024.0, "");
        check("1e3", 1000.0, "");
        check("-1_024 km", -1024.0, " km");
        check("−5", -5.0, "");
        check("+5", 5.0, "");
        check("1 234 567 people", 1_234_567.0, " people");
        check("12 345678", 12.0, " 345678");
        check("3,5", 3.5, "");
        check("1,234,5", 1234.5, "");
        check("2.50", 2.5, "");
        check(".5", 0.5, "");
        check("0x400", 1024.0, "");
        check("1.5e-3", 0.0015, "");
        check("5 eggs", 5.0, " eggs");
        check("5e", 5.0, "e");
        check("7.", 7.0, ".");
        for nothing in ["", "x", "-", ".", "0x", "e5", "+", "−x"].into_iter().filter(|text| *text != "0x") {
            assert_eq!(read(nothing), None, "{nothing}");
        }
        assert_eq!(read(&"9".repeat(5000)).map(|n| n.bytes), Some(NUMBER_BYTES_MAX));
    }

    #[test]
    fn numbers_within_words_and_versions_are_none() {
        let check = |text: &str, expected: &[f64]| assert_eq!(scan(text), expected, "{text}");
        check("There are 12 months in 1 year.", &[12.0, 1.0]);
        check("utf8, sha256 and x_1", &[]);
        check("Python 3.11.2", &[]);
        check("from -5 to 10-3", &[-5.0, 10.0, 3.0]);
        check("“1,024”", &[1024.0]);
        check("3rd", &[]);
    }
}
