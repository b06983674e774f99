//! Single values: how each kind of them is read, shown, and described in an error.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value as Json, json};

/// Entries of a list.
const ENTRIES_MAX: usize = 64;
/// The longest time that a model may be kept: a year. What should stay for longer stays for ever.
const KEEP_ALIVE_S_MAX: f64 = 366.0 * 86_400.0;

/// A value as someone wrote it.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Given {
    Switch(bool),
    Integer(i64),
    Float(f64),
    Text(String),
    List(Vec<String>),
    /// Of an environment variable or a flag: a text that may stand for anything.
    Word(String),
    /// Nothing that any key could be, by its name in TOML.
    Other(&'static str),
}

impl Given {
    fn what(&self) -> String {
        match self {
            Self::Switch(on) => on.to_string(),
            Self::Integer(n) => n.to_string(),
            Self::Float(x) => x.to_string(),
            Self::Text(text) | Self::Word(text) => format!("`{text}`"),
            Self::List(_) => "a list".into(),
            Self::Other(what) => format!("a value of type {what}"),
        }
    }

    fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) | Self::Word(text) => Some(text),
            _ => None,
        }
    }

    fn entries(&self) -> Option<Vec<String>> {
        match self {
            Self::List(entries) => Some(entries.clone()),
            Self::Word(word) => Some(word.split(',').map(|entry| entry.trim().to_owned()).collect()),
            _ => None,
        }
    }
}

/// Where a value stands: what its paths are relative to.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Place<'a> {
    /// Of the file; a path of a variable or flag is relative to where the program was started.
    pub folder: Option<&'a Path>,
    /// What `~/` is.
    pub home: Option<&'a Path>,
}

impl Place<'_> {
    fn resolve(self, text: &str) -> Result<PathBuf, String> {
        if text.contains('\0') {
            return Err("a path has no zero bytes".into());
        }
        match (text.strip_prefix("~/"), self.home, self.folder) {
            (Some(rest), Some(home), _) => Ok(home.join(rest)),
            (Some(_), None, _) => Err(format!("`{text}`: there is no home folder ($HOME is not set)")),
            (None, _, Some(folder)) => Ok(folder.join(text.strip_prefix("./").unwrap_or(text))),
            (None, _, None) => Ok(text.into()),
        }
    }
}

/// A kind of value. `expected` ends the sentence "… : give".
pub(super) trait Kind {
    type Value;
    fn read(&self, given: &Given, place: Place) -> Result<Self::Value, String>;
    fn show(&self, value: &Self::Value) -> Json;
    fn expected(&self) -> String;

    fn wrong<T>(&self, given: &Given) -> Result<T, String> {
        Err(format!("{} cannot be: give {}", given.what(), self.expected()))
    }
}

/// `true` or `false`.
pub(super) struct Switch;

impl Kind for Switch {
    type Value = bool;
    fn read(&self, given: &Given, _: Place) -> Result<bool, String> {
        match given {
            Given::Switch(on) => Ok(*on),
            Given::Word(word) if matches!(word.as_str(), "true" | "1") => Ok(true),
            Given::Word(word) if matches!(word.as_str(), "false" | "0") => Ok(false),
            _ => self.wrong(given),
        }
    }
    fn show(&self, value: &bool) -> Json {
        json!(value)
    }
    fn expected(&self) -> String {
        "true or false".into()
    }
}

/// A whole number in a range.
pub(super) struct Whole<T>(pub RangeInclusive<T>);

impl<T> Kind for Whole<T>
where
    T: TryFrom<i64> + PartialOrd + std::fmt::Display + serde::Serialize,
{
    type Value = T;
    fn read(&self, given: &Given, _: Place) -> Result<T, String> {
        let number = match given {
            Given::Integer(n) => Some(*n),
            Given::Word(word) => word.trim().parse().ok(),
            _ => None,
        };
        let fits = number.and_then(|n| T::try_from(n).ok()).filter(|n| self.0.contains(n));
        fits.map_or_else(|| self.wrong(given), Ok)
    }
    fn show(&self, value: &T) -> Json {
        json!(value)
    }
    fn expected(&self) -> String {
        format!("a whole number from {} to {}", self.0.start(), self.0.end())
    }
}

/// A number in a range; `above` leaves the lower end out.
pub(super) struct Decimal {
    pub from: f32,
    pub to: f32,
    pub above: bool,
}

impl Kind for Decimal {
    type Value = f32;
    fn read(&self, given: &Given, _: Place) -> Result<f32, String> {
        let number = match given {
            Given::Integer(n) => Some(*n as f32),
            Given::Float(x) => Some(*x as f32),
            Given::Word(word) => word.trim().parse().ok(),
            _ => None,
        };
        let fits = |x: &f32| (self.from..=self.to).contains(x) && !(self.above && *x == self.from);
        number.filter(fits).map_or_else(|| self.wrong(given), Ok)
    }
    fn show(&self, value: &f32) -> Json {
        // By way of the text: in double precision 0.7 would be 0.699999988079071.
        json!(value.to_string().parse::<f64>().unwrap_or(f64::from(*value)))
    }
    fn expected(&self) -> String {
        if self.above {
            format!("a number above {} and not above {}", self.from, self.to)
        } else {
            format!("a number from {} to {}", self.from, self.to)
        }
    }
}

/// A number of bytes in a range.
pub(super) struct Size(pub RangeInclusive<u64>);

impl Kind for Size {
    type Value = u64;
    fn read(&self, given: &Given, _: Place) -> Result<u64, String> {
        let bytes = match given {
            Given::Integer(n) => u64::try_from(*n).ok(),
            Given::Text(text) | Given::Word(text) => parse_bytes(text).ok(),
            _ => None,
        };
        bytes.filter(|bytes| self.0.contains(bytes)).map_or_else(|| self.wrong(given), Ok)
    }
    fn show(&self, value: &u64) -> Json {
        json!(value)
    }
    fn expected(&self) -> String {
        let (least, most) = (byte_text(*self.0.start()), byte_text(*self.0.end()));
        format!("a number of bytes, or a size such as \"4GiB\", from {least} to {most}")
    }
}

/// As [`Size`], of memory that this program could address.
pub(super) struct Memory(pub RangeInclusive<u64>);

impl Kind for Memory {
    type Value = usize;
    fn read(&self, given: &Given, place: Place) -> Result<usize, String> {
        let bytes = Size(self.0.clone()).read(given, place)?;
        usize::try_from(bytes).or_else(|_| self.wrong(given))
    }
    fn show(&self, value: &usize) -> Json {
        json!(value)
    }
    fn expected(&self) -> String {
        Size(self.0.clone()).expected()
    }
}

/// Any text; none if empty.
pub(super) struct Name;

impl Kind for Name {
    type Value = Option<String>;
    fn read(&self, given: &Given, place: Place) -> Result<Option<String>, String> {
        let Some(text) = given.text() else { return self.wrong(given) };
        if text.is_empty() {
            return Ok(None);
        }
        // What is a path and not a name is relative to the file that says it, like all its paths.
        let is_gguf = Path::new(text).extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"));
        if is_gguf || ["/", "./", "../", "~/"].iter().any(|start| text.starts_with(start)) {
            let path = place.resolve(text)?;
            return path.into_os_string().into_string().map(Some).map_err(|_| format!("`{text}` is not UTF-8"));
        }
        Ok(Some(text.to_owned()))
    }
    fn show(&self, value: &Option<String>) -> Json {
        json!(value.as_deref().unwrap_or_default())
    }
    fn expected(&self) -> String {
        "a text".into()
    }
}

/// A path; none if empty.
pub(super) struct FilePath;

impl Kind for FilePath {
    type Value = Option<PathBuf>;
    fn read(&self, given: &Given, place: Place) -> Result<Option<PathBuf>, String> {
        match given.text() {
            Some("") => Ok(None),
            Some(text) => place.resolve(text).map(Some),
            None => self.wrong(given),
        }
    }
    fn show(&self, value: &Option<PathBuf>) -> Json {
        json!(value.as_deref().map(Path::to_string_lossy).unwrap_or_default())
    }
    fn expected(&self) -> String {
        "a path, or \"\" for none".into()
    }
}

fn entries(kind: &impl Kind, given: &Given) -> Result<Vec<String>, String> {
    let Some(entries) = given.entries() else { return kind.wrong(given) };
    if entries.len() > ENTRIES_MAX {
        return Err(format!("{} entries are too many: at most {ENTRIES_MAX} are possible", entries.len()));
    }
    if entries.iter().any(String::is_empty) {
        return Err("an entry of the list is empty: leave it out".into());
    }
    Ok(entries)
}

/// A list of paths.
pub(super) struct Paths;

impl Kind for Paths {
    type Value = Vec<PathBuf>;
    fn read(&self, given: &Given, place: Place) -> Result<Vec<PathBuf>, String> {
        entries(self, given)?.iter().map(|entry| place.resolve(entry)).collect()
    }
    fn show(&self, value: &Vec<PathBuf>) -> Json {
        value.iter().map(|path| path.to_string_lossy()).collect()
    }
    fn expected(&self) -> String {
        "a list of paths".into()
    }
}

/// A list of texts that `is_fine` accepts.
pub(super) struct Names {
    pub expected: &'static str,
    pub is_fine: fn(&str) -> bool,
}

impl Kind for Names {
    type Value = Vec<String>;
    fn read(&self, given: &Given, _: Place) -> Result<Vec<String>, String> {
        let entries = entries(self, given)?;
        match entries.iter().find(|entry| !(self.is_fine)(entry)) {
            Some(entry) => self.wrong(&Given::Text(entry.clone())),
            None => Ok(entries),
        }
    }
    fn show(&self, value: &Vec<String>) -> Json {
        json!(value)
    }
    fn expected(&self) -> String {
        self.expected.into()
    }
}

/// A list of addresses.
pub(super) struct Addresses;

impl Kind for Addresses {
    type Value = Vec<IpAddr>;
    fn read(&self, given: &Given, _: Place) -> Result<Vec<IpAddr>, String> {
        let mut addresses = Vec::new();
        for entry in entries(self, given)? {
            match entry.parse() {
                Ok(address) if addresses.contains(&address) => return Err(format!("{address} is in the list twice")),
                Ok(address) => addresses.push(address),
                Err(_) => return self.wrong(&Given::Text(entry)),
            }
        }
        Ok(addresses)
    }
    fn show(&self, value: &Vec<IpAddr>) -> Json {
        value.iter().map(IpAddr::to_string).collect()
    }
    fn expected(&self) -> String {
        "a list of IP addresses such as [\"127.0.0.1\", \"::1\"], or [\"0.0.0.0\"] for all of IPv4".into()
    }
}

/// How long a model is kept.
pub(super) struct KeepAlive;

impl Kind for KeepAlive {
    type Value = Option<Duration>;
    fn read(&self, given: &Given, _: Place) -> Result<Option<Duration>, String> {
        match given {
            Given::Integer(seconds) => parse_keep_alive(&seconds.to_string()),
            Given::Text(text) | Given::Word(text) => parse_keep_alive(text),
            _ => self.wrong(given),
        }
    }
    fn show(&self, value: &Option<Duration>) -> Json {
        json!(value.map_or_else(|| "-1".into(), duration_text))
    }
    fn expected(&self) -> String {
        "a time such as \"5m\", \"1h30m\" or \"0\", or \"-1\" for ever".into()
    }
}

/// How much is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// What failed.
    Error,
    /// And what the user should know.
    Warn,
    /// And what happens, a line or two for each request.
    Info,
    /// And why.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    const ALL: [Self; 5] = [Self::Error, Self::Warn, Self::Info, Self::Debug, Self::Trace];

    /// Its name, as the file has it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// One of the names of [`LogLevel`].
pub(super) struct Level;

impl Kind for Level {
    type Value = LogLevel;
    fn read(&self, given: &Given, _: Place) -> Result<LogLevel, String> {
        let text = given.text().unwrap_or_default().to_ascii_lowercase();
        LogLevel::ALL.into_iter().find(|level| level.name() == text).map_or_else(|| self.wrong(given), Ok)
    }
    fn show(&self, value: &LogLevel) -> Json {
        json!(value.name())
    }
    fn expected(&self) -> String {
        format!("one of {}", LogLevel::ALL.map(LogLevel::name).join(", "))
    }
}

/// A number of bytes: `1073741824`, `512 MiB`, `4GiB`, `1.5 GB`.
///
/// # Errors
/// When it is none, in words that say what is possible.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let bad = || format!("`{text}` is no number of bytes: 512 MiB, 4GiB, 1.5 GB or 1073741824 are");
    let trimmed = text.trim();
    let end = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
    let number: f64 = trimmed[..end].parse().map_err(|_| bad())?;
    let unit = match trimmed[end..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "kb" => 1e3,
        "mb" => 1e6,
        "gb" => 1e9,
        "tb" => 1e12,
        "kib" | "k" => 1024.0,
        "mib" | "m" => 1_048_576.0,
        "gib" | "g" => 1_073_741_824.0,
        "tib" | "t" => 1_099_511_627_776.0,
        _ => return Err(bad()),
    };
    let bytes = number * unit;
    if !bytes.is_finite() || !(1.0..9e18).contains(&bytes) {
        return Err(bad());
    }
    Ok(bytes as u64)
}

/// A number of bytes as [`parse_bytes`] reads it, in the largest unit that it is a whole number of: `4GiB`, `1500`.
#[must_use]
pub fn byte_text(bytes: u64) -> String {
    let units = ["", "KiB", "MiB", "GiB", "TiB"];
    let whole = (1..units.len()).rev().find(|&unit| bytes > 0 && bytes.is_multiple_of(1 << (10 * unit)));
    let unit = whole.unwrap_or(0);
    format!("{}{}", bytes >> (10 * unit), units[unit])
}

/// How long a model is kept: seconds as a number, or a text such as `5m`, `1h30m`, `90s`, `500ms`. `None` for ever, which
/// everything negative is.
///
/// # Errors
/// When it is none of these, in words that say what is possible.
pub fn parse_keep_alive(text: &str) -> Result<Option<Duration>, String> {
    let bad = || format!("`{text}` is no time: 5m, 1h30m, 90s, 0 or -1 (for ever) are");
    let trimmed = text.trim();
    let (negative, mut rest) = trimmed.strip_prefix('-').map_or((false, trimmed), |rest| (true, rest));
    if rest.is_empty() {
        return Err(bad());
    }
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let number: f64 = rest[..end].parse().map_err(|_| bad())?;
        let unit_end = rest[end..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |at| end + at);
        seconds += number
            * match &rest[end..unit_end] {
                // A bare number is seconds, but not behind other parts: `1h30` could mean anything.
                "" if rest.len() + usize::from(negative) == trimmed.len() => 1.0,
                "ms" => 0.001,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                _ => return Err(bad()),
            };
        rest = &rest[unit_end..];
    }
    match (negative, seconds > KEEP_ALIVE_S_MAX) {
        (true, _) => Ok(None),
        (false, true) => Err(format!("`{text}` is longer than a year: give -1 for ever")),
        (false, false) => Ok(Some(Duration::from_secs_f64(seconds))),
    }
}

/// A time as [`parse_keep_alive`] reads it.
fn duration_text(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match (seconds, duration.subsec_millis()) {
        (0, 0) => "0".into(),
        (_, ms @ 1..) => format!("{}ms", u128::from(seconds) * 1000 + u128::from(ms)),
        (s, 0) if s.is_multiple_of(3600) => format!("{}h", s / 3600),
        (s, 0) if s.is_multiple_of(60) => format!("{}m", s / 60),
        (s, 0) => format!("{s}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_written() {
        assert_eq!(parse_bytes("512 MiB"), Ok(512 << 20));
        assert_eq!(parse_bytes("4GiB"), Ok(4 << 30));
        assert_eq!(parse_bytes("1.5 GB"), Ok(1_500_000_000));
        assert_eq!(parse_bytes("2 TiB"), Ok(2 << 40));
        assert_eq!(parse_bytes("17"), Ok(17));
        for wrong in ["", "GiB", "-1", "1 TiB of RAM", "1e400", "0", "99999999999 GiB", "1.2.3"] {
            assert!(parse_bytes(wrong).is_err(), "{wrong}");
        }
        for (bytes, text) in [(0, "0"), (17, "17"), (1024, "1KiB"), (4 << 30, "4GiB"), (1_500_000_001, "1500000001")] {
            assert_eq!(byte_text(bytes), text);
            assert!(bytes == 0 || parse_bytes(text) == Ok(bytes), "{text}");
        }
    }

    #[test]
    fn times_are_read_and_written() {
        let seconds = |s| Ok(Some(Duration::from_secs(s)));
        for (text, expected) in [("5m", 300), ("1h30m", 5400), ("90s", 90), ("90", 90), ("0", 0), ("1.5h", 5400)] {
            assert_eq!(parse_keep_alive(text), seconds(expected), "{text}");
        }
        assert_eq!(parse_keep_alive("500ms"), Ok(Some(Duration::from_millis(500))));
        assert_eq!(parse_keep_alive("-1"), Ok(None));
        assert_eq!(parse_keep_alive("-5m"), Ok(None));
        for wrong in ["", "-", "m", "5 minutes", "1h30", "5x", "1.2.3", "1e9", "NaN", "99999999999h", "5m "] {
            assert_eq!(parse_keep_alive(wrong).is_err(), wrong != "5m ", "{wrong}");
        }
        for text in ["5m", "90s", "2h", "0", "1500ms"] {
            assert_eq!(duration_text(parse_keep_alive(text).unwrap().unwrap()), text);
        }
    }
}
