//! The table of keys: every key of `system.toml`, what it may be, and where its value goes.

use serde_json::Value as Json;

use super::SystemConfig;
use super::values::{
    Addresses, Decimal, FilePath, Given, KeepAlive, Kind, Level, Memory, Name, Names, Paths, Place, Size, Switch, Whole,
};

/// A key of the configuration.
#[derive(Debug)]
pub struct Key {
    /// Its name with its table: `server.port`.
    pub path: &'static str,
    /// Whether its value is a number of bytes.
    pub is_size: bool,
    pub(super) read: fn(&mut SystemConfig, &Given, Place) -> Result<(), String>,
    show: fn(&SystemConfig) -> Json,
    expected: fn() -> String,
}

impl Key {
    /// The table that it is in.
    #[must_use]
    pub fn table(&self) -> &'static str {
        self.path.split_once('.').expect("every path has a dot").0
    }

    /// Its name within the table.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.path.split_once('.').expect("every path has a dot").1
    }

    /// The environment variable that sets it: `HUBLAB_SERVER_PORT`.
    #[must_use]
    pub fn variable(&self) -> String {
        format!("HUBLAB_{}", self.path.replace('.', "_").to_ascii_uppercase())
    }

    /// Its value: a number, `true` or `false`, a text, or a list of texts. Sizes are numbers of bytes; what is not set is an
    /// empty text.
    #[must_use]
    pub fn value(&self, config: &SystemConfig) -> Json {
        (self.show)(config)
    }

    /// What it may be, in words.
    #[must_use]
    pub fn expected(&self) -> String {
        (self.expected)()
    }

    /// The key of this path.
    #[must_use]
    pub fn find(path: &str) -> Option<&'static Self> {
        KEYS.iter().find(|key| key.path == path)
    }
}

macro_rules! key {
    ($path:literal, $kind:expr, $table:ident . $field:ident) => {
        key!($path, $kind, $table.$field, false)
    };
    ($path:literal, $kind:expr, $table:ident . $field:ident, $is_size:literal) => {
        Key {
            path: $path,
            is_size: $is_size,
            read: |config, given, place| {
                config.$table.$field = $kind.read(given, place)?;
                Ok(())
            },
            show: |config| $kind.show(&config.$table.$field),
            expected: || $kind.expected(),
        }
    };
}

/// What a memory budget may be at least: the smallest model needs some.
const MEMORY_MIN: u64 = 1 << 20;
/// More than any machine has; arithmetic on it cannot overflow.
const MEMORY_MAX: u64 = 1 << 50;

/// All keys, in the order of the committed file.
pub static KEYS: [Key; 30] = [
    key!("kernel.log_level", Level, kernel.log_level),
    key!("kernel.heap_size", Size(MEMORY_MIN..=MEMORY_MAX), kernel.heap_size, true),
    key!("scheduler.ai_enabled", Switch, scheduler.ai_enabled),
    key!("scheduler.model_path", FilePath, scheduler.model_path),
    key!("runtime.distributed", Switch, runtime.distributed),
    key!("runtime.moe_enabled", Switch, runtime.moe_enabled),
    key!("runtime.num_threads", Whole(0..=1024), runtime.num_threads),
    key!("runtime.max_memory", Memory(MEMORY_MIN..=MEMORY_MAX), runtime.max_memory, true),
    key!("ai.default_model", Name, ai.default_model),
    key!("ai.temperature", Decimal { from: 0.0, to: 100.0, above: false }, runtime.temperature),
    key!("ai.top_p", Decimal { from: 0.0, to: 1.0, above: true }, runtime.top_p),
    key!("server.address", Addresses, server.address),
    key!("server.port", Whole(0..=65535), server.port),
    key!("server.api_key_file", FilePath, server.api_key_file),
    key!("server.allowed_hosts", HOSTS, server.allowed_hosts),
    key!("server.cors_origins", ORIGINS, server.cors_origins),
    key!("server.tls_cert", FilePath, server.tls_cert),
    key!("server.tls_key", FilePath, server.tls_key),
    key!("server.unix_socket", FilePath, server.unix_socket),
    key!("server.body_bytes_max", Size(1024..=1 << 40), server.body_bytes_max, true),
    key!("server.connections_max", Whole(1..=1 << 20), server.connections_max),
    key!("server.queue_max", Whole(1..=1 << 20), server.queue_max),
    key!("server.running_max", Whole(1..=4096), server.running_max),
    key!("server.keep_alive", KeepAlive, server.keep_alive),
    key!("server.context", Whole(0..=1 << 30), server.context),
    key!("server.header_timeout_s", Whole(1..=3600), server.header_timeout_s),
    key!("server.allow_pull", Switch, server.allow_pull),
    key!("server.storage", Switch, server.storage),
    key!("server.data_folder", FilePath, server.data_folder),
    key!("store.folders", Paths, store.folders),
];

const HOSTS: Names = Names {
    expected: "a list of host names without a port, such as [\"pi.local\"]",
    // What a request may call the host; brackets are those of an IPv6 address.
    is_fine: |name| name.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c)) || is_ipv6(name),
};

fn is_ipv6(name: &str) -> bool {
    name.trim_start_matches('[').trim_end_matches(']').parse::<std::net::Ipv6Addr>().is_ok()
}

const ORIGINS: Names = Names {
    expected: "a list of origins such as [\"https://example.org\"], or [\"*\"] for all",
    is_fine: |origin| {
        let host = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        origin == "*" || host.is_some_and(|host| !host.is_empty() && !host.contains(['/', '?', '#', ' ', '*']))
    },
};
