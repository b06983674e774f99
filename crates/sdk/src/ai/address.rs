//! Where the service is.

use std::fmt;
use std::path::PathBuf;

use hyper::Uri;
use hyper::http::uri::Scheme;

use super::error::{Error, Result};

/// The port that the service listens on by default.
pub const DEFAULT_PORT: u16 = 11434;
/// The socket of a service that the system started.
const SYSTEM_SOCKET: &str = "/run/hublab.sock";

/// Where a service listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    /// Host, without the brackets of an IPv6 address, and port; whether they are spoken with by TLS.
    Tcp { host: String, port: u16, tls: bool },
    /// A Unix socket.
    Unix(PathBuf),
}

impl Address {
    /// Reads `http://HOST:PORT`, `https://HOST:PORT`, `HOST:PORT`, `HOST` or `unix:/PATH`.
    pub fn parse(text: &str) -> Result<Self> {
        let bad = |problem: &str| Error::BadAddress { address: text.into(), problem: problem.into() };
        let trimmed = text.trim();
        if let Some(path) = trimmed.strip_prefix("unix:") {
            // `unix:/path` and `unix:///path` are the same.
            let path = path.strip_prefix("//").unwrap_or(path);
            if !path.starts_with('/') {
                return Err(bad("the path of a Unix socket must begin with `/`"));
            }
            return Ok(Self::Unix(path.into()));
        }
        let with_scheme = if trimmed.contains("://") { trimmed.to_owned() } else { format!("http://{trimmed}") };
        let uri: Uri = with_scheme.parse().map_err(|error: hyper::http::uri::InvalidUri| bad(&error.to_string()))?;
        let tls = uri.scheme() == Some(&Scheme::HTTPS);
        if tls && !cfg!(feature = "tls") {
            return Err(bad("this program was built without TLS (feature `tls`)"));
        }
        if !tls && uri.scheme() != Some(&Scheme::HTTP) {
            return Err(bad("its scheme is unknown"));
        }
        let authority = uri.authority().ok_or_else(|| bad("it has no host"))?;
        if authority.as_str().contains('@') {
            return Err(bad("it holds a user name: keys go into HUBLAB_API_KEY"));
        }
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(bad("it has a path: paths are the client's"));
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() {
            return Err(bad("it has no host"));
        }
        // `host:` and `host:99999` have no port that could be read, and `host` none at all.
        let after_host = &authority.as_str()[authority.host().len()..];
        let port = match authority.port_u16() {
            Some(port) => port,
            None if after_host.is_empty() => DEFAULT_PORT,
            None => return Err(bad("its port is none")),
        };
        Ok(Self::Tcp { host: host.into(), port, tls })
    }

    /// Where a service may be, in the order in which they are tried, by what the environment says.
    pub fn candidates(env: impl Fn(&str) -> Option<String>) -> Result<Vec<Self>> {
        let env = |name| env(name).filter(|value| !value.trim().is_empty());
        if let Some(host) = env("HUBLAB_HOST") {
            return Ok(vec![Self::parse(&host)?]);
        }
        let mut found = Vec::new();
        if cfg!(unix) {
            found.extend(env("XDG_RUNTIME_DIR").map(|folder| Self::Unix(PathBuf::from(folder).join("hublab.sock"))));
            found.push(Self::Unix(SYSTEM_SOCKET.into()));
        }
        found.push(Self::Tcp { host: "127.0.0.1".into(), port: DEFAULT_PORT, tls: false });
        Ok(found)
    }

    /// Whether a certificate is asked for.
    #[cfg(feature = "tls")]
    pub fn is_tls(&self) -> bool {
        matches!(self, Self::Tcp { tls: true, .. })
    }

    /// The value of the header `Host`.
    pub fn host(&self) -> String {
        match self {
            Self::Tcp { host, port, .. } if host.contains(':') => format!("[{host}]:{port}"),
            Self::Tcp { host, port, .. } => format!("{host}:{port}"),
            Self::Unix(_) => "localhost".into(),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { tls: false, .. } => write!(f, "http://{}", self.host()),
            Self::Tcp { tls: true, .. } => write!(f, "https://{}", self.host()),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read() {
        for (text, expected) in [
            ("http://box:80", "http://box:80"),
            ("http://box/", "http://box:11434"),
            (" box ", "http://box:11434"),
            ("box:5", "http://box:5"),
            ("http://[::1]:5", "http://[::1]:5"),
            ("[::1]", "http://[::1]:11434"),
            ("unix:/a/b c.sock", "unix:/a/b c.sock"),
            ("unix:///a", "unix:/a"),
        ] {
            assert_eq!(Address::parse(text).unwrap().to_string(), expected);
        }
        match Address::parse("https://[::1]") {
            Ok(address) if cfg!(feature = "tls") => assert_eq!(address.to_string(), "https://[::1]:11434"),
            Err(error) if !cfg!(feature = "tls") => assert!(error.to_string().contains("without TLS"), "{error}"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_no_address_is_refused_by_name() {
        for (text, expected) in [
            ("https://me:secret@box", if cfg!(feature = "tls") { "it holds a user name" } else { "without TLS" }),
            ("ftp://box", "its scheme is unknown"),
            ("unix:a", "must begin with `/`"),
            ("http://me:secret@box", "it holds a user name"),
            ("http://box/v1", "it has a path"),
            ("http://box/?a", "it has a path"),
            ("box:99999", "`box:99999`"),
            ("box:", "`box:`"),
            ("http://", "`http://`"),
            ("a b", "`a b`"),
        ] {
            let error = Address::parse(text).expect_err(text).to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn the_environment_says_where() {
        let texts = |pairs: &[(&str, &str)]| {
            let env = |name: &str| pairs.iter().find(|pair| pair.0 == name).map(|pair| pair.1.to_owned());
            Address::candidates(env).unwrap().iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let (system, local) = ("unix:/run/hublab.sock", "http://127.0.0.1:11434");
        assert_eq!(texts(&[("HUBLAB_HOST", "box:1"), ("XDG_RUNTIME_DIR", "/x")]), ["http://box:1"]);
        if cfg!(unix) {
            assert_eq!(
                texts(&[("XDG_RUNTIME_DIR", "/x"), ("HUBLAB_HOST", "")]),
                ["unix:/x/hublab.sock", system, local]
            );
            assert_eq!(texts(&[]), [system, local]);
        }
        assert!(Address::candidates(|_| Some("ftp://x".into())).is_err());
    }

    #[test]
    fn the_packages_socket_is_where_it_is_looked_for() {
        let unit = include_str!("../../../../packaging/hublab.socket");
        assert!(unit.lines().any(|line| line == format!("ListenStream={SYSTEM_SOCKET}")), "{unit}");
    }
}
