use std::path::{Path, PathBuf};
use std::time::Duration;

use super::*;
use crate::error::Result;

const COMMITTED: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../config/system.toml"));
const PAGE: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/CONFIG.md"));

/// A folder for one test, removed with it.
struct Folder(PathBuf);

impl std::ops::Deref for Folder {
    type Target = Path;
    fn deref(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn folder(name: &str) -> Folder {
    let folder = std::env::temp_dir().join(format!("hublab-config-{}-{name}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    Folder(folder)
}

fn write(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

/// Where no file is but those that a test names.
fn source(environment: &[(&str, &str)]) -> ConfigSource {
    let mut source = ConfigSource::new(environment.iter().copied());
    source.system_file = "/no/such/system.toml".into();
    source
}

/// What a file of this text gives.
fn parse(name: &str, text: &str) -> Result<EffectiveConfig> {
    // Each call has its own: tests run side by side.
    let folder = folder(&format!("parse-{name}-{:?}", std::thread::current().id()));
    let path = folder.join(format!("{name}.toml"));
    write(&path, text);
    SystemConfig::load(&source(&[]).with_file(path))
}

fn check_error(result: Result<EffectiveConfig>, says: &[&str]) {
    let message = result.unwrap_err().to_string();
    assert!(!message.contains('\n'), "{message}");
    for part in says {
        assert!(message.contains(part), "`{message}` does not say `{part}`");
    }
}

#[test]
fn the_committed_file_has_every_key_at_its_default() {
    let effective = parse("committed", COMMITTED).unwrap();
    assert_eq!(effective.config, SystemConfig::default());
    for value in effective.values() {
        let path = value.key.path;
        if path == "runtime.max_memory" {
            // Its default depends on the machine, and a line of the file would be the same everywhere.
            assert!(COMMITTED.contains("\n# max_memory = \"4GiB\"\n") && *value.origin == Origin::Default);
            continue;
        }
        let Origin::File { line, .. } = value.origin else { panic!("{path} is not in config/system.toml") };
        let text = COMMITTED.lines().nth(line - 1).unwrap();
        assert!(text.starts_with(value.key.name()), "line {line} is `{text}`, not {path}");
    }
}

#[test]
fn the_page_names_every_key_with_its_variable_and_default() {
    for key in &KEYS {
        let default = match key.value(&SystemConfig::default()) {
            bytes if key.is_size => format!("\"{}\"", byte_text(bytes.as_u64().unwrap())),
            other => other.to_string(),
        };
        let row = format!("| `{}` | `{default}` |", key.path);
        assert!(PAGE.contains(&row), "docs/CONFIG.md has no row that begins `{row}`");
    }
    assert!(PAGE.contains("HUBLAB_RUNTIME_MAX_MEMORY"));
}

#[test]
fn each_key_can_be_set_by_each_source_and_knows_from_where() {
    let samples = [
        ("kernel.log_level", "\"debug\"", "debug"),
        ("kernel.heap_size", "\"1 GiB\"", "1GiB"),
        ("scheduler.ai_enabled", "true", "true"),
        ("scheduler.model_path", "\"/a.gguf\"", "/a.gguf"),
        ("runtime.distributed", "true", "true"),
        ("runtime.moe_enabled", "true", "1"),
        ("runtime.num_threads", "3", "3"),
        ("runtime.max_memory", "2147483648", "2GiB"),
        ("ai.default_model", "\"qwen\"", "qwen"),
        ("ai.temperature", "0", "0"),
        ("ai.top_p", "0.5", "0.5"),
        ("server.address", "[\"127.0.0.1\", \"::1\"]", "127.0.0.1, ::1"),
        ("server.port", "0", "0"),
        ("server.api_key_file", "\"/keys\"", "/keys"),
        ("server.allowed_hosts", "[\"pi.local\"]", "pi.local"),
        ("server.cors_origins", "[\"https://example.org\"]", "https://example.org"),
        ("server.tls_cert", "\"/cert\"", "/cert"),
        ("server.tls_key", "\"/key\"", "/key"),
        ("server.unix_socket", "\"/run/x\"", "/run/x"),
        ("server.body_bytes_max", "2048", "2KiB"),
        ("server.connections_max", "7", "7"),
        ("server.queue_max", "7", "7"),
        ("server.running_max", "7", "7"),
        ("server.keep_alive", "\"90s\"", "90"),
        ("server.context", "4096", "4096"),
        ("server.header_timeout_s", "3", "3"),
        ("server.allow_pull", "true", "true"),
        ("server.storage", "false", "false"),
        ("server.data_folder", "\"/data\"", "/data"),
        ("store.folders", "[\"/a\", \"/b\"]", "/a,/b"),
    ];
    assert!(samples.iter().map(|(path, ..)| *path).eq(KEYS.iter().map(|key| key.path)), "a sample for each key");
    // What needs another beside it is set for all of them by the file.
    let tls = |path: &str| match path {
        "server.tls_cert" => "\nserver.tls_key = \"/key\"",
        "server.tls_key" => "\nserver.tls_cert = \"/cert\"",
        _ => "",
    };
    for (path, toml, word) in samples {
        let key = Key::find(path).unwrap();
        let default = key.value(&SystemConfig::default());
        let by_file = parse("each", &format!("{path} = {toml}{}", tls(path))).unwrap();
        let value = key.value(&by_file.config);
        assert_ne!(value, default, "{path}");
        assert!(matches!(by_file.origin(path), Origin::File { line: 1, .. }), "{path}");
        let folder = folder("each");
        let file = folder.join("base.toml");
        write(&file, tls(path).trim());
        let variable = key.variable();
        let mut from = source(&[(&variable, word)]).with_file(file.clone());
        let by_variable = SystemConfig::load(&from).unwrap();
        assert_eq!(key.value(&by_variable.config), value, "{path}");
        assert_eq!(by_variable.origin(path), &Origin::Environment(variable));
        from = source(&[]).with_file(file);
        from.flag(path, "--some-flag", word);
        let by_flag = SystemConfig::load(&from).unwrap();
        assert_eq!(key.value(&by_flag.config), value, "{path}");
        assert_eq!(by_flag.origin(path), &Origin::Flag("--some-flag".into()));
    }
}

#[test]
fn a_flag_wins_over_a_variable_and_that_over_the_file() {
    let folder = folder("precedence");
    let path = folder.join("system.toml");
    write(&path, "[server]\nport = 1\nqueue_max = 1\nrunning_max = 1\n");
    let environment = [("HUBLAB_SERVER_PORT", "2"), ("HUBLAB_SERVER_QUEUE_MAX", "2"), ("HUBLAB_SERVER_CONTEXT", "")];
    let mut from = source(&environment).with_file(path.clone());
    from.flag("server.port", "--port", "3");
    let effective = SystemConfig::load(&from).unwrap();
    let server = &effective.config.server;
    assert_eq!((server.port, server.queue_max, server.running_max, server.context), (3, 2, 1, 0));
    assert_eq!(effective.origin("server.running_max").to_string(), format!("{}:4", path.display()));
    assert_eq!(effective.origin("server.context"), &Origin::Default, "an empty variable says nothing");
    assert_eq!(effective.file, Some(path));
}

#[test]
fn the_first_file_that_is_there_is_read_and_one_that_is_asked_for_must_be() {
    let folder = folder("search");
    let place = |name: &str| folder.join(name).into_os_string().into_string().unwrap();
    for (name, port) in [("asked.toml", 1), ("variable.toml", 2), ("xdg/hublab/system.toml", 3)] {
        write(Path::new(&place(name)), &format!("server.port = {port}"));
    }
    write(Path::new(&place("home/.config/hublab/system.toml")), "server.port = 4");
    write(Path::new(&place("etc/system.toml")), "server.port = 5");
    let (asked, variable, xdg, home, nowhere) =
        (place("asked.toml"), place("variable.toml"), place("xdg"), place("home"), place("nowhere"));
    let port = |file: Option<&str>, environment: &[(&str, &str)], system: bool| {
        let mut from = source(environment);
        from.file = file.map(PathBuf::from);
        if system {
            from.system_file = place("etc/system.toml").into();
        }
        SystemConfig::load(&from).map(|effective| effective.config.server.port)
    };
    let all = [("HUBLAB_CONFIG", &*variable), ("XDG_CONFIG_HOME", &xdg), ("HOME", &home)];
    assert_eq!(port(Some(&asked), &all, true).unwrap(), 1);
    assert_eq!(port(None, &all, true).unwrap(), 2);
    assert_eq!(port(None, &all[1..], true).unwrap(), 3);
    assert_eq!(port(None, &all[2..], true).unwrap(), 4);
    assert_eq!(port(None, &[("XDG_CONFIG_HOME", &nowhere), ("HOME", &home)], true).unwrap(), 5);
    assert_eq!(port(None, &[("XDG_CONFIG_HOME", "relative"), ("HUBLAB_CONFIG", "")], true).unwrap(), 5);
    assert_eq!(port(None, &[], false).unwrap(), ServerConfig::default().port);
    for result in [port(Some(&nowhere), &all, true), port(None, &[("HUBLAB_CONFIG", &nowhere)], true)] {
        let message = result.unwrap_err().to_string();
        assert!(message.contains("nowhere") && message.contains("no such file"), "{message}");
    }
}

#[test]
fn what_is_no_key_is_an_error_with_its_place_and_the_nearest_key() {
    let check = |text: &str, says: &[&str]| check_error(parse("unknown", text), says);
    check("[runtime]\nmax_memroy = 1", &["unknown.toml", "line 2", "`runtime.max_memroy`", "`max_memory`?"]);
    check("[servre]\nport = 1", &["line 1", "servre", "`[server]`?"]);
    check("[zzz]", &["line 1", "zzz", "kernel, scheduler, runtime, ai, server, store"]);
    check("\nport = 1", &["line 2", "`port`", "[server]"]);
    check("[runtime]\nport = 1", &["line 2", "`runtime.port`", "[server]"]);
    check("[store]\nxyzzy = 1", &["line 2", "`store.xyzzy`", "folders"]);
    check("server = 1", &["line 1", "[server]"]);
    check("[server.port]\nx = 1", &["line 1", "server.port", "table"]);
    check("[server]\nport = 1\nport = 2", &["line 3", "duplicate key"]);
    check("[server", &["line 1"]);
    check("[server]\nport = ", &["line 2"]);
    check(&format!("[server]\n{} = 1", "a".repeat(100_000)), &["line 2"]);
    let variable = |name: &str| SystemConfig::load(&source(&[(name, "1")]));
    check_error(variable("HUBLAB_RUNTIME_MAX_MEMROY"), &["HUBLAB_RUNTIME_MAX_MEMROY", "`HUBLAB_RUNTIME_MAX_MEMORY`?"]);
    // Those of other parts of the program, and of other programs.
    for name in ["HUBLAB_EXPERTS", "HUBLAB_HOST", "HUBLAB_BLESS", "HUBLAB_SERVERS", "SERVER_PORT"] {
        variable(name).unwrap();
    }
}

#[test]
fn a_value_that_a_key_cannot_have_is_an_error_with_its_place() {
    let check = |line: &str, says: &[&str]| {
        let key = line.split_once(" =").unwrap().0;
        check_error(parse("value", &format!("# a comment\n{line}")), &[&["value.toml", "line 2", key], says].concat());
    };
    check("kernel.log_level = \"loud\"", &["`loud`", "error, warn, info, debug, trace"]);
    check("kernel.heap_size = \"much\"", &["`much`", "1MiB"]);
    check("kernel.heap_size = -1", &["-1", "1MiB"]);
    check("kernel.heap_size = \"1 KiB\"", &["1MiB"]);
    check("runtime.max_memory = true", &["true", "4GiB"]);
    check("runtime.max_memory = 99999999999999999999", &["64 bits"]);
    check("runtime.num_threads = 1025", &["1025", "0 to 1024"]);
    check("runtime.num_threads = \"3\"", &["`3`", "whole number"]);
    check("runtime.distributed = \"yes\"", &["`yes`", "true or false"]);
    check("ai.temperature = -0.1", &["-0.1", "from 0 to 100"]);
    check("ai.temperature = nan", &["NaN"]);
    check("ai.top_p = 0", &["above 0 and not above 1"]);
    check("ai.top_p = 1.5", &["1.5"]);
    check("ai.default_model = 1", &["a text"]);
    check("server.address = \"127.0.0.1\"", &["a list of IP addresses"]);
    check("server.address = [\"localhost\"]", &["`localhost`", "127.0.0.1"]);
    check("server.address = [\"::1\", \"::1\"]", &["twice"]);
    check("server.port = 65536", &["65536", "0 to 65535"]);
    check("server.allowed_hosts = [\"http://x\"]", &["`http://x`", "host names"]);
    check("server.cors_origins = [\"example.org\"]", &["`example.org`", "https://"]);
    check("server.cors_origins = [\"https://a/b\"]", &["`https://a/b`"]);
    check("server.keep_alive = \"soon\"", &["`soon`", "5m"]);
    check("server.keep_alive = 1.5", &["1.5", "5m"]);
    check("server.header_timeout_s = 0", &["1 to 3600"]);
    check("server.data_folder = 1979-05-27", &["datetime"]);
    check("server.tls_cert = \"~/cert.pem\"", &["HOME"]);
    check("store.folders = [1]", &["list"]);
    check("store.folders = [\"\"]", &["empty"]);
    check(&format!("store.folders = {:?}", vec!["a"; 65]), &["65", "64"]);
    let variable = |name: &str, value: &str| SystemConfig::load(&source(&[(name, value)]));
    check_error(variable("HUBLAB_SERVER_PORT", "http"), &["HUBLAB_SERVER_PORT", "`http`", "65535"]);
    let mut flags = source(&[]);
    flags.flag("server.port", "--port", "70000");
    check_error(SystemConfig::load(&flags), &["--port", "70000"]);
}

#[cfg(unix)]
#[test]
fn a_variable_that_is_no_text_and_a_file_that_is_none_are_errors() {
    use std::os::unix::ffi::OsStringExt;
    let bytes = std::ffi::OsString::from_vec(vec![0xff]);
    check_error(SystemConfig::load(&ConfigSource::new([("HUBLAB_SERVER_PORT", bytes)])), &["UTF-8"]);
    let folder = folder("bytes");
    let path = folder.join("system.toml");
    std::fs::write(&path, [0xff, 0xfe]).unwrap();
    check_error(SystemConfig::load(&source(&[]).with_file(path)), &["UTF-8"]);
    // A file without an end is not read to it; one without anything says nothing.
    let of = |path: &str| SystemConfig::load(&source(&[]).with_file(path));
    check_error(of("/dev/zero"), &["/dev/zero", "longer"]);
    assert_eq!(of("/dev/null").unwrap().config, SystemConfig::default());
    check_error(of("/"), &["configuration", "/"]);
}

#[test]
fn values_that_cannot_be_together_are_an_error_that_says_where() {
    let check = |text: &str, says: &[&str]| check_error(parse("together", text), says);
    check("server.tls_cert = \"/c\"", &["together.toml:1", "`server.tls_key`"]);
    check("\nserver.tls_key = \"/k\"", &["together.toml:2", "`server.tls_cert`"]);
    check("server.body_bytes_max = \"1GiB\"", &["together.toml:1", "`kernel.heap_size`", "256MiB"]);
    check("kernel.heap_size = \"1MiB\"", &["together.toml:1", "16MiB"]);
    check("server.address = []", &["together.toml:1", "server.unix_socket"]);
    assert!(parse("together", "server.address = []\nserver.unix_socket = \"/run/hublab\"").is_ok());
}

#[test]
fn paths_are_relative_to_who_says_them() {
    let folder = folder("paths");
    let path = folder.join("system.toml");
    let text = "server.tls_cert = \"cert.pem\"\nserver.tls_key = \"~/key.pem\"\nstore.folders = [\"models\", \"/m\"]\n";
    write(&path, text);
    let environment = [("HOME", "/home/ada"), ("HUBLAB_SERVER_DATA_FOLDER", "data")];
    let effective = SystemConfig::load(&source(&environment).with_file(path)).unwrap();
    let server = &effective.config.server;
    assert_eq!(server.tls_cert, Some(folder.join("cert.pem")));
    assert_eq!(server.tls_key, Some("/home/ada/key.pem".into()));
    assert_eq!(server.data_folder, Some("data".into()));
    assert_eq!(effective.model_folders(), [folder.join("models"), "/m".into()]);
    let of = |name: &str| {
        let path = folder.join("model.toml");
        write(&path, &format!("ai.default_model = {name:?}"));
        let effective = SystemConfig::load(&source(&environment).with_file(path));
        effective.unwrap().config.ai.default_model.unwrap()
    };
    for text in ["a.gguf", "./a.gguf", "./a", "b/a.GGUF"] {
        assert_eq!(of(text), folder.join(text.trim_start_matches("./")).to_str().unwrap());
    }
    assert_eq!(of("~/a.gguf"), "/home/ada/a.gguf");
    assert_eq!(of("qwen3:8b"), "qwen3:8b", "a name of the store stays one");
    assert_eq!(of("library/qwen3"), "library/qwen3");
}

#[cfg(unix)]
#[test]
fn data_goes_where_the_service_or_the_user_keeps_it() {
    let load = |environment: &[(&str, &str)]| SystemConfig::load(&source(environment)).unwrap();
    let home = [("HOME", "/home/ada"), ("XDG_DATA_HOME", "/data"), ("STATE_DIRECTORY", "/var/lib/hublab:/b")];
    assert_eq!(load(&home).data_folder(), Some("/var/lib/hublab".into()));
    assert_eq!(load(&home).model_folders(), [PathBuf::from("/var/lib/hublab/models")]);
    assert_eq!(load(&home[..2]).data_folder(), Some("/data/hublab".into()));
    assert_eq!(load(&home[..1]).model_folders(), [PathBuf::from("/home/ada/.local/share/hublab/models")]);
    assert_eq!((load(&[]).data_folder(), load(&[]).model_folders()), (None, Vec::new()));
    let models = [("HUBLAB_MODELS", "/a::/b"), ("HUBLAB_STORE_FOLDERS", "/c")];
    assert_eq!(load(&models[..1]).model_folders(), [PathBuf::from("/a"), "/b".into()]);
    assert_eq!(load(&models[..1]).origin("store.folders").to_string(), "HUBLAB_MODELS");
    assert_eq!(load(&models).model_folders(), [PathBuf::from("/c")]);
    let own = [home[0], ("HUBLAB_SERVER_DATA_FOLDER", "/mine")];
    assert_eq!(load(&own).data_folder(), Some("/mine".into()));
}

#[test]
fn a_node_gets_what_is_its() {
    let text = "runtime.num_threads = 2\nruntime.max_memory = \"1GiB\"\nserver.context = 512\nserver.keep_alive = \"-1\"\n\
                server.queue_max = 9\nserver.running_max = 8\n";
    let node = parse("node", text).unwrap().config.node_config();
    assert_eq!((node.threads, node.max_memory, node.context), (Some(2), 1 << 30, Some(512)));
    assert_eq!((node.keep_alive, node.queue_max, node.running_max), (None, 9, 8));
    assert_eq!(SystemConfig::default().node_config(), NodeConfig::default());
    assert_eq!(ServerConfig::default().keep_alive, Some(Duration::from_secs(300)));
}

#[test]
fn an_address_that_others_reach_is_exposed() {
    let exposed = |list: &str| {
        let effective = SystemConfig::load(&source(&[("HUBLAB_SERVER_ADDRESS", list)])).unwrap();
        effective.config.server.exposed().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert!(exposed("127.0.0.1,127.1.2.3,::1,::ffff:127.0.0.1").is_empty());
    assert_eq!(exposed("127.0.0.1,0.0.0.0,::,192.168.1.2"), ["0.0.0.0", "::", "192.168.1.2"]);
}

#[test]
fn a_small_machine_has_a_smaller_budget_unless_one_is_set() {
    let memory = Some(crate::machine::Memory { total: 2 << 30, available: 1 << 30 });
    let load = |environment: &[(&str, &str)], memory| {
        let effective = SystemConfig::load(&source(environment).with_memory(memory)).unwrap();
        (effective.config.runtime.max_memory >> 20, effective.origin("runtime.max_memory").clone())
    };
    assert_eq!(load(&[], None), (4096, Origin::Default));
    assert_eq!(load(&[], memory), (1536, Origin::Default));
    assert_eq!(load(&[("HUBLAB_RUNTIME_MAX_MEMORY", "3GiB")], memory).0, 3072);
}
