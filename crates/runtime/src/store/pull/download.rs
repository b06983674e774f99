//! Brings one file at a time, as often as it takes.

use std::io::Read as _;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use ureq::BodyReader;

use super::client::{Client, Failure, Method, broken_off};
use super::part::{Part, Version};
use super::reference::Url;
use super::{PullEvent, PullOptions, PullSink, Remote, StoreError};
use crate::error::{Error, Result};

const READ_PIECE: usize = 256 << 10;
/// After so many bytes a connection has done something, and the next failure is the first again.
const HEADWAY_BYTES: u64 = 1 << 20;
/// An end to everything, whatever headway is made.
const FAILURES_MAX: u32 = 1000;
/// As long as no host has answered yet, one without an address is looked for so often.
const UNRESOLVED_MAX: u32 = 2;
/// The longest wait is so many times the first.
const BACKOFF_MAX: u32 = 32;
/// How often the disk is looked at when nobody knows how much is still to come.
const DISK_CHECK_BYTES: u64 = 64 << 20;
const SLEEP_PIECE: Duration = Duration::from_millis(50);

/// Downloads for one model.
pub(super) struct Downloader<'a> {
    client: &'a Client<'a>,
    options: &'a PullOptions,
    name: &'a str,
    on_event: &'a mut PullSink<'a>,
    /// Bytes of the files that are whole.
    done: u64,
    total: Option<u64>,
    fetched: u64,
    start: Instant,
    /// Whether there is a network, for all that is known.
    has_answer: bool,
    /// An answer of which only the beginning was read, and whose file it is.
    open: Option<(PathBuf, BodyReader<'static>)>,
}

/// Failures in a row.
#[derive(Default)]
struct Failures {
    in_a_row: u32,
    all: u32,
    /// Bytes that were there at the last one.
    bytes: u64,
}

impl<'a> Downloader<'a> {
    pub fn new(
        client: &'a Client<'a>,
        options: &'a PullOptions,
        name: &'a str,
        on_event: &'a mut PullSink<'_>,
    ) -> Self {
        let start = Instant::now();
        Self { client, options, name, on_event, done: 0, total: None, fetched: 0, start, has_answer: false, open: None }
    }

    /// Bytes that have come.
    pub fn fetched(&self) -> u64 {
        self.fetched
    }

    /// Says what happens, and hears whether to go on.
    pub fn say(&mut self, event: PullEvent) -> Result<()> {
        let flow = (self.on_event)(event);
        if flow.is_break() { Err(Error::Cancelled) } else { self.check_stop() }
    }

    fn check_stop(&self) -> Result<()> {
        match &self.options.stop {
            Some(stop) if stop.load(Ordering::Relaxed) => Err(Error::Cancelled),
            _ => Ok(()),
        }
    }

    /// What all files have together, and what is there of them.
    pub fn plan(&mut self, files: usize, bytes: Option<u64>, bytes_there: u64) -> Result<()> {
        self.total = bytes;
        self.start = Instant::now();
        self.say(PullEvent::Planned { name: self.name.to_owned(), files, bytes, bytes_there })
    }

    /// Asks for something small, as often as it takes.
    pub fn retrying<T>(
        &mut self,
        url: &Url,
        mut ask: impl FnMut(&Client<'_>) -> std::result::Result<T, Failure>,
    ) -> Result<T> {
        let mut failures = Failures::default();
        loop {
            match ask(self.client) {
                Ok(found) => {
                    self.has_answer = true;
                    return Ok(found);
                }
                Err(failure) => self.after_failure(url, failure, &mut failures, 0)?,
            }
        }
    }

    /// Brings the first bytes of a file that has been read, at least `wanted` of them, or all that it has. The connection stays open
    /// for the rest: who cannot use the model has not asked for more than this, and who can has lost nothing.
    pub fn beginning(&mut self, remote: &Remote, part: &mut Part, wanted: u64) -> Result<()> {
        self.fetch(remote, part, wanted)
    }

    /// Brings a file that has been read, and gives its SHA-256. What cannot become right is deleted.
    pub fn file(&mut self, remote: &Remote, part: &mut Part) -> Result<String> {
        let fetched = self.fetch(remote, part, u64::MAX);
        // What has come is worth keeping, whatever happened.
        let synced = part.sync();
        fetched?;
        synced?;
        let found = part.sha256();
        if let Some(expected) = remote.version.sha256.as_ref().or(part.version.sha256.as_ref())
            && *expected != found
        {
            part.delete();
            return Err(StoreError::WrongHash { name: self.name.into(), expected: expected.clone(), found }.into());
        }
        self.done += part.bytes;
        Ok(found)
    }

    /// Reads what is there.
    pub fn hash(&mut self, part: &mut Part) -> Result<()> {
        let bytes_total = part.bytes;
        let mut stopped = Ok(());
        part.hash(&mut |bytes_done| {
            stopped = self.say(PullEvent::Checking { bytes_done, bytes_total });
            stopped.is_ok()
        })?;
        stopped
    }

    /// Brings bytes until there are `wanted`, or all.
    fn fetch(&mut self, remote: &Remote, part: &mut Part, wanted: u64) -> Result<()> {
        let mut failures = Failures { bytes: part.bytes, ..Failures::default() };
        loop {
            self.check_stop()?;
            let is_whole = part.bytes > 0 && part.version.bytes == Some(part.bytes);
            if is_whole || part.bytes >= wanted {
                return Ok(());
            }
            let left_open = self.open.take().filter(|(path, _)| *path == part.path);
            let ended = match left_open {
                Some((_, body)) => self.read(body, remote, part, wanted),
                None => self.connection(remote, part, wanted),
            };
            match ended {
                Ok(()) => return Ok(()),
                Err(Ended::Cancelled) => return Err(Error::Cancelled),
                Err(Ended::Failed(failure)) => {
                    if matches!(failure, Failure::Fatal(StoreError::NotAModel { .. })) {
                        part.delete();
                    }
                    self.after_failure(&remote.url, failure, &mut failures, part.bytes)?;
                }
            }
        }
    }

    /// One connection: what it brings is added to the part.
    fn connection(&mut self, remote: &Remote, part: &mut Part, wanted: u64) -> std::result::Result<(), Ended> {
        if part.bytes > 0
            && part.version.etag.is_none()
            && part.version.validator().is_none()
            && part.version.sha256.is_none()
        {
            self.say(PullEvent::Restarted {
                reason: "nothing tells whether the server still has the same file".into(),
            })?;
            part.begin(remote.version.clone())?;
        }
        let range = format!("bytes={}-", part.bytes);
        let mut headers = Vec::new();
        if part.bytes > 0 {
            headers.push(("range", range.as_str()));
            headers.extend(part.version.validator().map(|validator| ("if-range", validator)));
        }
        let answer = self.client.ask(Method::Get, &remote.url, &headers)?;
        self.has_answer = true;
        let bad = |problem: String| Ended::from(StoreError::BadAnswer { url: remote.url.without_query(), problem });
        if let Some(packed) = answer.header("content-encoding").filter(|encoding| *encoding != "identity") {
            return Err(bad(format!("it sends the file packed ({packed}), which was not asked for")));
        }
        let seen = Version {
            from: remote.version.from.clone(),
            bytes: answer.content_range().map_or_else(|| answer.length(), |(_, total)| total),
            sha256: answer.linked_sha256.clone().or_else(|| remote.version.sha256.clone()),
            etag: answer.etag(),
            last_modified: answer.last_modified(),
        };
        if let (Some(first), Some(now)) = (remote.version.bytes, seen.bytes)
            && first != now
            && answer.status != 416
        {
            return Err(bad(format!(
                "it said that the file has {first} bytes, and now that it has {now}: try again later"
            )));
        }
        match answer.status {
            206 if part.bytes > 0 => {
                let first = answer.content_range().and_then(|(first, _)| first);
                // A weak name is no condition that a server takes: it is compared here.
                let vouched = part.version.validator().is_some()
                    || part.version.sha256.is_some()
                    || part.version.etag == seen.etag;
                if first != Some(part.bytes) || !vouched || contradicts(&part.version, &seen) {
                    return Err(self.anew(part, remote, "the file has changed on the server")?);
                }
                part.version.bytes = part.version.bytes.or(seen.bytes);
            }
            200 => {
                if part.bytes > 0 {
                    let reason =
                        "the server sends the file from its beginning: it has changed, or cannot go on in the middle";
                    self.say(PullEvent::Restarted { reason: reason.into() })?;
                }
                part.begin(Version { bytes: seen.bytes.or(remote.version.bytes), ..seen })?;
            }
            416 if part.bytes > 0 => {
                return Err(self.anew(part, remote, "the server has no such place in the file")?);
            }
            status => return Err(bad(format!("it answers {status} to a request for the whole file"))),
        }
        self.read(answer.response.into_body().into_reader(), remote, part, wanted)
    }

    /// Gives up what is there of a file.
    fn anew(&mut self, part: &mut Part, remote: &Remote, reason: &str) -> std::result::Result<Ended, Ended> {
        self.say(PullEvent::Restarted { reason: reason.into() })?;
        part.begin(remote.version.clone())?;
        Ok(Ended::Failed(Failure::Transient { problem: reason.into(), status: None, wait: Some(Duration::ZERO) }))
    }

    fn read(
        &mut self,
        mut body: BodyReader<'static>,
        remote: &Remote,
        part: &mut Part,
        wanted: u64,
    ) -> std::result::Result<(), Ended> {
        let mut buffer = vec![0; READ_PIECE];
        let mut disk_checked = part.bytes;
        loop {
            if part.bytes >= wanted {
                self.open = Some((part.path.clone(), body));
                return Ok(());
            }
            let n = body.read(&mut buffer).map_err(|cause| broken_off(&cause))?;
            if n == 0 {
                break;
            }
            let piece = &buffer[..n];
            check_magic(piece, part.bytes)?;
            if let Some(total) = part.version.bytes.filter(|total| part.bytes + n as u64 > *total) {
                let problem = format!("it sends more than the {total} bytes that it announced");
                part.delete();
                return Err(StoreError::BadAnswer { url: remote.url.without_query(), problem }.into());
            }
            part.write(piece)?;
            self.fetched += n as u64;
            if part.version.bytes.is_none() && part.bytes - disk_checked >= DISK_CHECK_BYTES {
                disk_checked = part.bytes;
                let folder = part.path.parent().expect("it lies in the store's folder");
                self.options.limits.check_disk(self.name, folder, 0)?;
            }
            let seconds = self.start.elapsed().as_secs_f64().max(1e-3);
            self.say(PullEvent::Progress {
                bytes_done: self.done + part.bytes,
                bytes_total: self.total,
                bytes_per_s: self.fetched as f64 / seconds,
            })?;
        }
        match part.version.bytes {
            Some(total) if part.bytes < total => {
                let problem = "the connection ended before the file".to_owned();
                Err(Failure::Transient { problem, status: None, wait: None }.into())
            }
            // Where no length was announced, the end of the answer is that of the file.
            _ => {
                part.version.bytes = Some(part.bytes);
                Ok(())
            }
        }
    }

    /// Waits after a failure that may pass, and ends where it will not, or has come too often.
    fn after_failure(&mut self, url: &Url, failure: Failure, failures: &mut Failures, bytes: u64) -> Result<()> {
        // A connection that was ended from outside fails in some way or other.
        self.check_stop()?;
        let attempts_max = self.options.config.attempts;
        let (problem, asked, failures_max) = match failure {
            Failure::Fatal(error) => return Err(error.into()),
            Failure::Transient { problem, wait, .. } => (problem, wait, attempts_max),
            Failure::Unresolved { host } => {
                let failures_max = if self.has_answer { attempts_max } else { attempts_max.min(UNRESOLVED_MAX) };
                (format!("there is no server {host}, or no network"), None, failures_max)
            }
        };
        if bytes >= failures.bytes.saturating_add(HEADWAY_BYTES) {
            failures.in_a_row = 0;
        }
        failures.bytes = bytes;
        failures.in_a_row += 1;
        failures.all += 1;
        if failures.in_a_row >= failures_max || failures.all >= FAILURES_MAX {
            let attempts = failures.in_a_row;
            return Err(StoreError::Unreachable { url: url.without_query(), problem, attempts }.into());
        }
        let factor = 1u32.checked_shl(failures.in_a_row - 1).unwrap_or(BACKOFF_MAX).min(BACKOFF_MAX);
        let wait = asked.unwrap_or(self.options.config.backoff * factor);
        self.say(PullEvent::Waiting { problem, wait, failures: failures.in_a_row, failures_max })?;
        let end = Instant::now() + wait;
        while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            self.check_stop()?;
            thread::sleep(left.min(SLEEP_PIECE));
        }
        Ok(())
    }
}

/// Why a connection is over.
enum Ended {
    Cancelled,
    Failed(Failure),
}

impl From<Failure> for Ended {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<StoreError> for Ended {
    fn from(error: StoreError) -> Self {
        Self::Failed(Failure::Fatal(error))
    }
}

/// Only what was asked from outside is no [`StoreError`] here.
impl From<Error> for Ended {
    fn from(error: Error) -> Self {
        match error {
            Error::Store(error) => error.into(),
            _ => Self::Cancelled,
        }
    }
}

/// Whether two descriptions cannot be of one file. Nothing said contradicts nothing.
fn contradicts(a: &Version, b: &Version) -> bool {
    let differ = |a: &Option<String>, b: &Option<String>| matches!((a, b), (Some(a), Some(b)) if a != b);
    differ(&a.sha256, &b.sha256)
        || differ(&a.etag, &b.etag)
        || matches!((a.bytes, b.bytes), (Some(a), Some(b)) if a != b)
}

/// A page about an error is told from a model by its first bytes, before gigabytes of it come.
fn check_magic(piece: &[u8], offset: u64) -> std::result::Result<(), StoreError> {
    let expected = b"GGUF".get(offset as usize..).unwrap_or_default();
    let n = piece.len().min(expected.len());
    if piece[..n] == expected[..n] {
        return Ok(());
    }
    let head: Vec<u8> = piece.iter().copied().take(40).collect();
    Err(StoreError::NotAModel { cause: format!("it begins with \"{}\"", head.escape_ascii()) })
}
