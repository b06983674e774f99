//! What to fetch, as a user writes it.

use hublabio_gguf::{parse_split_name, split_file_name};

use super::super::error::StoreError;
use super::super::ollama::{HOST, OllamaName};
use super::super::{is_sha256, name};

const REFERENCE_BYTES_MAX: usize = 4096;
/// Files of one model.
const PARTS_MAX: usize = 1000;
const HF_HOSTS: [&str; 2] = ["huggingface.co", "hf.co"];

/// Something that can be fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reference {
    pub source: Source,
    /// The SHA-256 that the user wrote behind it.
    pub sha256: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// A file of a repository on Hugging Face.
    HuggingFace { repository: String, file: String, revision: String },
    /// A file at an address.
    Url { url: Url },
    /// A model of a registry that speaks as Ollama's does.
    Ollama(OllamaName),
}

/// An address of HTTP, in its pieces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Url {
    pub tls: bool,
    /// Host and port.
    pub authority: String,
    /// Begins with `/`; as it is sent, without the query.
    pub path: String,
    /// With its `?`, or empty.
    pub query: String,
}

impl Url {
    /// An absolute address. A fragment is left out, as it is never sent.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if let Some(c) = text.chars().find(|c| c.is_control() || c.is_whitespace() || !c.is_ascii()) {
            return Err(if c.is_ascii() {
                "it has spaces or control characters"
            } else {
                "it must be ASCII: write %xx"
            });
        }
        let (scheme, rest) = text.split_once("://").ok_or("it has no scheme")?;
        let tls = match scheme.to_ascii_lowercase().as_str() {
            "https" => true,
            "http" => false,
            _ => return Err("only http and https can be fetched"),
        };
        let rest = rest.split('#').next().unwrap_or_default();
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, rest) = rest.split_at(end);
        if authority.is_empty() {
            return Err("it names no server");
        }
        if authority.contains('@') {
            return Err("names and passwords do not belong into an address");
        }
        let (path, query) = rest.split_at(rest.find('?').unwrap_or(rest.len()));
        let path = if path.is_empty() { "/" } else { path };
        Ok(Self { tls, authority: authority.to_ascii_lowercase(), path: path.into(), query: query.into() })
    }

    /// What a `Location` means that came from this address (RFC 3986, section 5.2, without dot segments, which servers resolve).
    pub fn join(&self, location: &str) -> Result<Self, &'static str> {
        let location = location.split('#').next().unwrap_or_default();
        let scheme = if self.tls { "https" } else { "http" };
        // A scheme stands in front of everything that could hide a `://`.
        let has_scheme = location.find("://").is_some_and(|at| !location[..at].contains(['/', '?']));
        if has_scheme {
            Self::parse(location)
        } else if location.starts_with("//") {
            Self::parse(&format!("{scheme}:{location}"))
        } else if location.starts_with('/') {
            Self::parse(&format!("{scheme}://{}{location}", self.authority))
        } else if location.starts_with('?') {
            Self::parse(&format!("{scheme}://{}{}{location}", self.authority, self.path))
        } else {
            let folder = self.path.rsplit_once('/').map_or("", |(folder, _)| folder);
            Self::parse(&format!("{scheme}://{}{folder}/{location}", self.authority))
        }
    }

    /// Whether the same server answers for both.
    pub fn is_same_origin(&self, other: &Self) -> bool {
        (self.tls, &self.authority) == (other.tls, &other.authority)
    }

    /// For errors and records: the query may be a signature that is worth keeping secret.
    pub fn without_query(&self) -> String {
        format!("{}://{}{}", if self.tls { "https" } else { "http" }, self.authority, self.path)
    }
}

impl std::fmt::Display for Url {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{}", self.without_query(), self.query)
    }
}

impl Reference {
    /// Reads a reference.
    pub fn parse(text: &str) -> Result<Self, StoreError> {
        Self::read(text).map_err(|problem| StoreError::BadReference { reference: name::shortened(text), problem })
    }

    /// Whether it leads to Hugging Face or Ollama's registry, and nowhere else.
    pub fn names_known_registry(&self) -> bool {
        match &self.source {
            Source::HuggingFace { .. } => true,
            Source::Url { .. } => false,
            Source::Ollama(name) => name.host.eq_ignore_ascii_case(HOST) || is_hf(&name.host),
        }
    }

    fn read(text: &str) -> Result<Self, String> {
        if text.len() > REFERENCE_BYTES_MAX {
            return Err(format!("it is longer than {REFERENCE_BYTES_MAX} bytes"));
        }
        let (text, sha256) = match text.split_once("#sha256=") {
            Some((text, hash)) if is_sha256(hash) => (text, Some(hash.to_ascii_lowercase())),
            Some(_) => return Err("what follows `#sha256=` must be 64 hexadecimal digits".into()),
            None => (text, None),
        };
        let source = if let Some(rest) = text.strip_prefix("hf://") {
            hugging_face(rest)?
        } else if text.starts_with("http://") || text.starts_with("https://") {
            url(text)?
        } else if let Some((scheme, _)) = text.split_once("://").filter(|(scheme, _)| *scheme != "ollama") {
            return Err(format!(
                "`{}://` is not known: give hf://, https://, http:// or a name",
                name::shortened(scheme)
            ));
        } else {
            let given = text.strip_prefix("ollama://").unwrap_or(text);
            Source::Ollama(ollama(given)?)
        };
        if sha256.is_some() && matches!(source, Source::Ollama(_)) {
            return Err("a registry names its files by their SHA-256 already".into());
        }
        let reference = Self { source, sha256 };
        // Looked at here, because each part is a reference of its own.
        if reference.split().is_some_and(|(_, _, count)| count > PARTS_MAX) {
            return Err(format!("a model of more than {PARTS_MAX} parts"));
        }
        Ok(reference)
    }

    /// What the model is called if the user does not say.
    pub fn default_name(&self) -> String {
        let file = match &self.source {
            Source::HuggingFace { file, .. } => file.rsplit('/').next().unwrap_or_default().to_owned(),
            Source::Url { url } => percent_decoded(url.path.rsplit('/').next().unwrap_or_default()),
            Source::Ollama(name) => return name.to_string(),
        };
        let stem = parse_split_name(&file).map(|(stem, ..)| stem.to_owned());
        stem.unwrap_or_else(|| file.strip_suffix(".gguf").unwrap_or(&file).to_owned())
    }

    /// Of a part of a split model, the path up to the file with its `/`, what its parts are called, and how many there are.
    fn split(&self) -> Option<(&str, &str, usize)> {
        let path = match &self.source {
            Source::HuggingFace { file, .. } => file,
            Source::Url { url } => &url.path,
            Source::Ollama(_) => return None,
        };
        let (folder, file) = path.split_at(path.rfind('/').map_or(0, |at| at + 1));
        parse_split_name(file).map(|(stem, _, count)| (folder, stem, count))
    }

    /// The references of all parts, if this is a part of a split model; else of itself.
    pub fn parts(&self) -> Vec<Self> {
        let Some((folder, stem, count)) = self.split() else { return vec![self.clone()] };
        let paths = (0..count).map(|part| format!("{folder}{}", split_file_name(stem, part, count)));
        let with_path = |path: String| match &self.source {
            Source::HuggingFace { repository, revision, .. } => {
                Source::HuggingFace { repository: repository.clone(), file: path, revision: revision.clone() }
            }
            Source::Url { url } => Source::Url { url: Url { path, ..url.clone() } },
            Source::Ollama(name) => Source::Ollama(name.clone()),
        };
        // The hash that a user gives is that of one file.
        paths.map(|path| Self { source: with_path(path), sha256: None }).collect()
    }

    /// The address of its file. A registry's has to be asked for.
    pub fn url(&self, hf_endpoint: &Url) -> Option<Url> {
        match &self.source {
            Source::HuggingFace { repository, file, revision } => {
                let base = hf_endpoint.path.trim_end_matches('/');
                let path = format!("{base}/{repository}/resolve/{}/{}", encoded(revision, false), encoded(file, true));
                Some(Url { path, query: String::new(), ..hf_endpoint.clone() })
            }
            Source::Url { url } => Some(url.clone()),
            Source::Ollama(_) => None,
        }
    }
}

/// As it is written down, without a signature that an address may have.
impl std::fmt::Display for Reference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.source {
            Source::HuggingFace { repository, file, revision } => write!(f, "hf://{repository}/{file}@{revision}"),
            Source::Url { url } => f.write_str(&url.without_query()),
            Source::Ollama(name) => write!(f, "ollama://{name}"),
        }
    }
}

/// `OWNER/REPO/FILE.gguf[@REVISION]`.
fn hugging_face(text: &str) -> Result<Source, String> {
    let (path, revision) = match text.rsplit_once('@') {
        // A revision may have `/` in it, the file ends in `.gguf`.
        Some((path, revision)) if path.ends_with(".gguf") => (path, revision),
        _ => (text, "main"),
    };
    if revision.is_empty() || revision.contains(char::is_control) {
        return Err("there is nothing behind the `@`, where a branch, tag or commit should be".into());
    }
    let mut pieces = path.splitn(3, '/');
    let (Some(owner), Some(repository), Some(file)) = (pieces.next(), pieces.next(), pieces.next()) else {
        return Err("name the file too, as in hf://OWNER/REPO/FILE.gguf: the repository's page lists its files".into());
    };
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    for piece in [owner, repository] {
        if piece.is_empty() || piece.starts_with('.') || !piece.chars().all(fine) {
            return Err(format!("{piece:?} is neither an owner nor a repository of Hugging Face"));
        }
    }
    if !file.ends_with(".gguf") {
        return Err("the file must end in .gguf: other checkpoints are turned into one with `hublab convert`".into());
    }
    if file.split('/').any(|piece| matches!(piece, "" | "." | "..")) || file.contains(char::is_control) {
        return Err("the path of the file is not one".into());
    }
    Ok(Source::HuggingFace {
        repository: format!("{owner}/{repository}"),
        file: file.into(),
        revision: revision.into(),
    })
}

/// Whether a host, in whatever letters, is Hugging Face.
fn is_hf(host: &str) -> bool {
    HF_HOSTS.iter().any(|hf| hf.eq_ignore_ascii_case(host))
}

/// An address; one of a page of Hugging Face means the file that it shows.
fn url(text: &str) -> Result<Source, String> {
    let of_hf = text.strip_prefix("https://").and_then(|rest| rest.split_once('/'));
    if let Some((_, path)) = of_hf.filter(|(host, _)| is_hf(host)) {
        let path = path.split(['?', '#']).next().unwrap_or_default();
        let pieces: Vec<&str> = path.splitn(5, '/').collect();
        if let [owner, repository, "blob" | "resolve", revision, file] = pieces[..] {
            let file = percent_decoded(file);
            return hugging_face(&format!("{owner}/{repository}/{file}@{}", percent_decoded(revision)));
        }
    }
    let url = Url::parse(text)?;
    if !percent_decoded(&url.path).ends_with(".gguf") {
        return Err("the address must be that of a file that ends in .gguf".into());
    }
    Ok(Source::Url { url })
}

fn ollama(text: &str) -> Result<OllamaName, String> {
    let advice = "give hf://OWNER/REPO/FILE.gguf, https://…/FILE.gguf or a name of Ollama's, NAME[:TAG]";
    if text.ends_with(".gguf") {
        return Err(format!("it looks like a file: {advice}"));
    }
    OllamaName::parse(text).ok_or_else(|| advice.into())
}

impl OllamaName {
    /// The address under which its registry knows it.
    pub(super) fn base(&self, registry: &Url) -> Result<Url, &'static str> {
        let base = if self.host == HOST { registry.clone() } else { Url::parse(&format!("https://{}/", self.host))? };
        let path = format!("{}/v2/{}/{}", base.path.trim_end_matches('/'), self.namespace, self.model);
        Ok(Url { path, query: String::new(), ..base })
    }
}

/// Bytes that mean something in a path, as `%xx`.
fn encoded(text: &str, keep_slash: bool) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'/' if keep_slash => out.push('/'),
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            byte => {
                out.push('%');
                out.extend([byte >> 4, byte & 15].map(|digit| char::from(b"0123456789ABCDEF"[usize::from(digit)])));
            }
        }
    }
    out
}

/// `%xx` as what it stands for; what is none, or no UTF-8, stays as near as can be.
fn percent_decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let digits = bytes.get(at + 1..at + 3).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        let value = digits.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        match (bytes[at], value) {
            (b'%', Some(value)) => {
                out.push(value);
                at += 3;
            }
            (byte, _) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HASH: &str = "0123456789abcdef0123456789ABCDEF0123456789abcdef0123456789abcdef";

    /// The address and the name that come of a reference, or what is wrong.
    fn understood(text: &str) -> Result<(String, String), String> {
        let reference = Reference::parse(text).map_err(|error| error.to_string())?;
        let endpoint = Url::parse("https://huggingface.co").unwrap();
        let url = match &reference.source {
            Source::Ollama(name) => name.base(&Url::parse("https://registry.ollama.ai").unwrap()).unwrap(),
            _ => reference.url(&endpoint).unwrap(),
        };
        Ok((url.to_string(), reference.default_name()))
    }

    #[test]
    fn references_become_addresses() {
        for (text, url, name) in [
            ("hf://o/r/f.gguf", "https://huggingface.co/o/r/resolve/main/f.gguf", "f"),
            ("hf://o/r/a b/f.gguf@refs/pr/1", "https://huggingface.co/o/r/resolve/refs%2Fpr%2F1/a%20b/f.gguf", "f"),
            ("hf://o/r/f-00002-of-00003.gguf", "https://huggingface.co/o/r/resolve/main/f-00002-of-00003.gguf", "f"),
            (
                "https://huggingface.co/o/r/blob/main/d/f.gguf?x=1",
                "https://huggingface.co/o/r/resolve/main/d/f.gguf",
                "f",
            ),
            ("http://h:80/a/My%20Model.gguf?sig=1#x", "http://h:80/a/My%20Model.gguf?sig=1", "My Model"),
            ("HTTPS://H/f.gguf", "", ""),
            ("llama3.2", "https://registry.ollama.ai/v2/library/llama3.2", "llama3.2:latest"),
            ("ollama://ada/x:1b", "https://registry.ollama.ai/v2/ada/x", "ada/x:1b"),
            ("hf.co/o/r:Q4_K_M", "https://hf.co/v2/o/r", "hf.co/o/r:Q4_K_M"),
        ] {
            if url.is_empty() {
                assert!(understood(text).is_err(), "{text}");
            } else {
                assert_eq!(understood(text).unwrap(), (url.to_owned(), name.to_owned()), "{text}");
            }
        }
        let with_hash = Reference::parse(&format!("http://h/f.gguf#sha256={HASH}")).unwrap();
        assert_eq!(with_hash.sha256.unwrap(), HASH.to_lowercase());
    }

    #[test]
    fn only_two_registries_are_known() {
        let known = |text: &str| Reference::parse(text).unwrap().names_known_registry();
        for text in [
            "hf://o/r/f.gguf",
            "https://huggingface.co/o/r/resolve/main/f.gguf",
            "llama3.2",
            "o/m:1b",
            "HF.co/o/r:Q8_0",
        ] {
            assert!(known(text), "{text}");
        }
        assert!(known("https://HuggingFace.co/o/r/blob/main/f.gguf"));
        for text in ["10.0.0.5:8443/a/b", "ollama://nas/a/b", "https://h/f.gguf", "hf.co.example/o/r", "localhost/o/r"]
        {
            assert!(!known(text), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_meant_says_what_could() {
        for (text, word) in [
            ("", "hf://OWNER"),
            ("./model.gguf", "looks like a file"),
            ("/models/x", "NAME[:TAG]"),
            ("hf://o/r", "name the file"),
            ("hf://o/r/f.bin", ".gguf"),
            ("hf://o/r/../f.gguf", "path"),
            ("hf://o/../f.gguf", "repository"),
            ("hf://o/r/f.gguf@", "behind the `@`"),
            ("ftp://h/f.gguf", "ftp://"),
            ("https://h/model", ".gguf"),
            ("https://u:p@h/f.gguf", "passwords"),
            ("https:///f.gguf", "no server"),
            ("https://h/ä.gguf", "ASCII"),
            ("https://h/f.gguf#sha256=12", "64"),
            ("hf://o/r/f-00001-of-99999.gguf", "1000 parts"),
            ("http://h/f-00001-of-01001.gguf", "1000 parts"),
            (&format!("llama#sha256={HASH}"), "already"),
            (&"a".repeat(5000), "longer"),
        ] {
            let problem = understood(text).unwrap_err();
            assert!(problem.contains(word), "{text}: {problem}");
        }
    }

    #[test]
    fn redirects_are_read_from_where_they_come() {
        let base = Url::parse("https://h:1/a/b?q").unwrap();
        for (location, expected) in [
            ("http://x/y?z#f", "http://x/y?z"),
            ("//x/y", "https://x/y"),
            ("/y?u=http://x", "https://h:1/y?u=http://x"),
            ("y", "https://h:1/a/y"),
            ("?z", "https://h:1/a/b?z"),
            ("y?u=http://x", "https://h:1/a/y?u=http://x"),
        ] {
            assert_eq!(base.join(location).unwrap().to_string(), expected);
        }
        assert!(base.join("ftp://x/").is_err());
        assert!(base.join("http://").is_err());
    }

    #[test]
    fn parts_are_all_parts() {
        let reference = Reference::parse("hf://o/r/d/f-00002-of-00003.gguf@v1").unwrap();
        let names: Vec<_> = reference.parts().iter().map(ToString::to_string).collect();
        let part = |n: usize| format!("hf://o/r/d/f-0000{n}-of-00003.gguf@v1");
        assert_eq!(names, [part(1), part(2), part(3)]);
        assert_eq!(Reference::parse("http://h/f.gguf").unwrap().parts().len(), 1);
    }

    proptest! {
        #[test]
        fn nothing_panics(text in ".{0,60}", scheme in "(hf://|https?://|ollama://)?", tail in "(\\.gguf)?(@.{0,5})?") {
            let reference = format!("{scheme}{text}{tail}");
            if let Ok(reference) = Reference::parse(&reference) {
                let _ = (reference.default_name(), reference.to_string());
                prop_assert!(reference.parts().len() <= PARTS_MAX);
                let base = Url::parse("https://h/x").unwrap();
                prop_assert!(reference.url(&base).is_none_or(|url| url.path.starts_with('/')));
            }
            let _ = Url::parse("http://h/a").unwrap().join(&reference);
        }
    }
}
