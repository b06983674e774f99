//! `hublab doctor`: what is configured, what this machine has, what it can hold, and what is wrong.

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use hublabio_runtime::ai::{DEFAULT_MODEL_NAME, Isa};
use hublabio_runtime::config::{ConfigSource, EffectiveConfig, SystemConfig, byte_text};
use hublabio_runtime::machine::{Fit, Memory, ModelNeeds, disk_free};
use hublabio_runtime::moe::ModelSource;
use hublabio_runtime::node::ModelCatalog;
use hublabio_runtime::store::ModelStore;
use serde::Serialize;
use serde_json::Value as Json;

use crate::args::DoctorArgs;
use crate::model::ModelName;
use crate::{EXIT_FAILED, output};

/// Positions of the conversation that models are measured with where `server.context` says nothing: a service gives none fewer.
const CONTEXT: usize = 4096;
/// A folder for models with less room than this is said to be full: the smallest useful model is about as large.
const DISK_FREE_MIN: u64 = 1 << 30;

/// What people run, as their files are: name, bytes of weights, transformer blocks, values of a position's keys in each.
/// Qwen 2.5 0.5B, Llama 3.2 1B and 3B, Llama 3.1 8B.
const TYPICAL: [(&str, u64, u64, u64); 8] = [
    ("0.5B in Q4_K_M", 398_000_000, 24, 128),
    ("0.5B in Q8_0", 531_000_000, 24, 128),
    ("1B in Q4_K_M", 808_000_000, 16, 512),
    ("1B in Q8_0", 1_320_000_000, 16, 512),
    ("3B in Q4_K_M", 2_020_000_000, 28, 1024),
    ("3B in Q8_0", 3_420_000_000, 28, 1024),
    ("8B in Q4_K_M", 4_920_000_000, 32, 1024),
    ("8B in Q8_0", 8_540_000_000, 32, 1024),
];

/// The JSON of `--json`.
#[derive(Serialize)]
struct Report {
    version: &'static str,
    cores: usize,
    threads: usize,
    isa: &'static str,
    isas: Vec<&'static str>,
    memory: Option<MemoryReport>,
    folders: Vec<Folder>,
    config: Option<ConfigReport>,
    models: Vec<Model>,
    problems: Vec<Finding>,
}

#[derive(Serialize)]
struct MemoryReport {
    total_bytes: u64,
    available_bytes: u64,
}

/// A folder for models.
#[derive(Serialize)]
struct Folder {
    path: String,
    exists: bool,
    free_bytes: Option<u64>,
}

#[derive(Serialize)]
struct ConfigReport {
    file: Option<String>,
    values: Vec<Setting>,
}

#[derive(Serialize)]
struct Setting {
    key: &'static str,
    value: Json,
    origin: String,
    #[serde(skip)]
    is_size: bool,
}

/// A model, and whether it fits. What is not known of the machine or of the file is left open.
#[derive(Serialize)]
struct Model {
    name: String,
    /// One of those that people run, not one that is here.
    typical: bool,
    weight_bytes: u64,
    kv_bytes: u64,
    context: usize,
    fit: Option<&'static str>,
    /// Whether a service with this configuration would load it.
    within_max_memory: bool,
}

#[derive(Serialize)]
struct Finding {
    problem: String,
    advice: &'static str,
    /// Whether it keeps the program, or its service, from working.
    fatal: bool,
}

pub fn doctor(args: &DoctorArgs, source: &ConfigSource) -> Result<ExitCode> {
    let report = examine(args, source);
    let failed = report.problems.iter().any(|problem| problem.fatal);
    if args.json {
        output::json(&report)?;
    } else {
        output::bytes(output::without_controls(&report.text()).as_bytes())?;
    }
    Ok(ExitCode::from(if failed { EXIT_FAILED } else { 0 }))
}

fn examine(args: &DoctorArgs, source: &ConfigSource) -> Report {
    let mut problems = Vec::new();
    let loaded = SystemConfig::load(source).map_err(|error| {
        problems.push(Finding {
            problem: error.to_string(),
            advice: "correct it: docs/CONFIG.md has every key; until then no verb but this one works",
            fatal: true,
        });
    });
    let effective = loaded.ok();
    // What can be said without a configuration is said with the defaults.
    let config = effective.as_ref().map_or_else(SystemConfig::default, |effective| effective.config.clone());
    let memory = Memory::read();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = if config.runtime.num_threads > 0 { config.runtime.num_threads } else { cores };
    if threads > cores {
        problems.push(Finding {
            problem: format!("runtime.num_threads is {threads}, this machine has {cores} cores"),
            advice: "more threads than cores slow each other down: set it to 0",
            fatal: false,
        });
    }
    if let Some(memory) = memory.filter(|memory| config.runtime.max_memory as u64 > memory.total) {
        problems.push(Finding {
            problem: format!(
                "runtime.max_memory is {}, this machine has {}",
                byte_text(config.runtime.max_memory as u64),
                output::byte_size(memory.total)
            ),
            advice: "lower it, or models that are loaded together may run from the disk",
            fatal: false,
        });
    }
    let mut folders = Vec::new();
    if let Some(effective) = &effective {
        check_service(effective, &mut problems);
        folders = effective.model_folders().iter().map(|path| folder(path, &mut problems)).collect();
        if folders.is_empty() {
            problems.push(Finding {
                problem: "there is no folder for models: HOME is not set".into(),
                advice: "set store.folders, or HUBLAB_MODELS",
                fatal: false,
            });
        }
    }
    let models = models(&args.models, effective.as_ref(), memory, &config, &mut problems);
    Report {
        version: env!("CARGO_PKG_VERSION"),
        cores,
        threads,
        isa: Isa::best().name(),
        isas: Isa::available().into_iter().map(Isa::name).collect(),
        memory: memory.map(|m| MemoryReport { total_bytes: m.total, available_bytes: m.available }),
        folders,
        config: effective.as_ref().map(config_report),
        models,
        problems,
    }
}

fn config_report(effective: &EffectiveConfig) -> ConfigReport {
    let setting = |value: hublabio_runtime::config::EffectiveValue| Setting {
        key: value.key.path,
        value: value.value,
        origin: value.origin.to_string(),
        is_size: value.key.is_size,
    };
    ConfigReport {
        file: effective.file.as_ref().map(|path| path.display().to_string()),
        values: effective.values().map(setting).collect(),
    }
}

/// What would stop `hublab serve`.
fn check_service(effective: &EffectiveConfig, problems: &mut Vec<Finding>) {
    let server = &effective.config.server;
    if let Some(address) = server.exposed().next().filter(|_| server.api_key_file.is_none()) {
        problems.push(Finding {
            problem: format!(
                "server.address has {address}, which other machines reach, and server.api_key_file is not set"
            ),
            advice: "set server.api_key_file, or listen at 127.0.0.1 only: the service refuses to be open to everyone",
            fatal: true,
        });
    }
    let files = [
        ("server.api_key_file", &server.api_key_file),
        ("server.tls_cert", &server.tls_cert),
        ("server.tls_key", &server.tls_key),
    ];
    for (key, path) in files {
        let Some(path) = path else { continue };
        if let Err(cause) = std::fs::File::open(path).and_then(|file| file.metadata()) {
            problems.push(Finding {
                problem: format!("{key} ({}): {} cannot be read: {cause}", effective.origin(key), path.display()),
                advice: "correct the path, or let the user who runs the service read it",
                fatal: true,
            });
        }
    }
}

fn folder(path: &Path, problems: &mut Vec<Finding>) -> Folder {
    let (exists, free_bytes) = (path.is_dir(), disk_free(path));
    if path.exists() && !exists {
        problems.push(Finding {
            problem: format!("{} should hold models and is no folder", path.display()),
            advice: "correct store.folders, or move the file away",
            fatal: true,
        });
    } else if let Some(free) = free_bytes.filter(|free| *free < DISK_FREE_MIN) {
        problems.push(Finding {
            problem: format!("the disk of {} has {} free", path.display(), output::byte_size(free)),
            advice: "make room, or set store.folders to a folder on a larger disk",
            fatal: false,
        });
    }
    Folder { path: path.display().to_string(), exists, free_bytes }
}

/// The models that are here, in the order in which they would be asked, then the typical ones.
fn models(
    asked: &[ModelName],
    effective: Option<&EffectiveConfig>,
    memory: Option<Memory>,
    config: &SystemConfig,
    problems: &mut Vec<Finding>,
) -> Vec<Model> {
    let max_memory = config.runtime.max_memory as u64;
    let context = if config.server.context > 0 { config.server.context } else { CONTEXT };
    let model = |name: String, needs: ModelNeeds, typical| Model {
        name,
        typical,
        weight_bytes: needs.weight_bytes,
        kv_bytes: needs.kv_bytes,
        context: needs.context,
        fit: memory.map(|memory| needs.fit(memory).name()),
        within_max_memory: needs.bytes() <= max_memory,
    };
    let mut models = Vec::new();
    for (name, source) in here(asked, effective, problems) {
        match ModelNeeds::of(&source, context) {
            Ok(needs) => {
                if memory.is_some_and(|memory| needs.fit(memory) == Fit::DoesNotFit) {
                    problems.push(Finding {
                        problem: format!("{name} needs {}, more than there is", output::byte_size(needs.bytes())),
                        advice: "it would run from the disk: take a smaller quantization (`hublab quantize`)",
                        fatal: false,
                    });
                }
                models.push(model(name, needs, false));
            }
            Err(error) => problems.push(Finding {
                problem: format!("{name} cannot be run: {error}"),
                advice: "`hublab show` describes it; docs/FORMATS.md lists what runs",
                fatal: false,
            }),
        }
    }
    for (name, weight_bytes, blocks, width) in TYPICAL {
        // Keys and values, two bytes each.
        let kv_bytes = 2 * blocks * width * 2 * context as u64;
        models.push(model(name.into(), ModelNeeds { weight_bytes, kv_bytes, context }, true));
    }
    models
}

/// The models that are here: the built-in one, the default of the configuration, and those that are asked for.
fn here(
    asked: &[ModelName],
    effective: Option<&EffectiveConfig>,
    problems: &mut Vec<Finding>,
) -> Vec<(String, ModelSource)> {
    let mut found = vec![(format!("{DEFAULT_MODEL_NAME} (built in)"), ModelSource::Builtin(DEFAULT_MODEL_NAME))];
    match effective.map(crate::defaults::default_model) {
        Some(Ok(ModelName::File(path))) => found.push((path.display().to_string(), ModelSource::File(path))),
        Some(Err(error)) => problems.push(Finding {
            problem: format!("{error:#}"),
            advice: "correct ai.default_model, or leave it empty for the built-in model",
            fatal: true,
        }),
        // Those of the store are listed below.
        Some(Ok(ModelName::Default | ModelName::Stored(_))) | None => {}
    }
    if let Some(effective) = effective {
        match ModelCatalog::list(&ModelStore::open(crate::store::config(effective))) {
            Ok(models) => {
                let stored =
                    models.into_iter().filter(|model| model.source != ModelSource::Builtin(DEFAULT_MODEL_NAME));
                found.extend(stored.map(|model| (model.name, model.source)));
            }
            Err(error) => problems.push(Finding {
                problem: format!("the model store: {error}"),
                advice: "correct store.folders, or the permissions of the folder",
                fatal: false,
            }),
        }
    }
    for model in asked {
        match model.source() {
            // The built-in one and those of the store are listed already.
            Ok(ModelSource::Builtin(_)) => {}
            Ok(source) if found.iter().any(|(_, other)| *other == source) => {}
            Ok(source) => found.push((model.to_string(), source)),
            Err(error) => problems.push(Finding {
                problem: format!("{error:#}"),
                advice: "`hublab ls` lists the models of this machine",
                fatal: false,
            }),
        }
    }
    found
}

impl Report {
    fn text(&self) -> String {
        let mut text = format!("hublab {}\n\n", self.version);
        let threads = if self.threads == self.cores { String::new() } else { format!(", {} threads", self.threads) };
        let memory = self.memory.as_ref().map_or_else(
            || "not known on this system".into(),
            |m| format!("{}, {} available", output::byte_size(m.total_bytes), output::byte_size(m.available_bytes)),
        );
        let _ = write!(
            text,
            "cores    {}{threads}\nkernels  {}, of {}\nmemory   {memory}\n",
            self.cores,
            self.isa,
            self.isas.join(", ")
        );
        for folder in &self.folders {
            let free = folder.free_bytes.map_or_else(String::new, |free| format!(", {} free", output::byte_size(free)));
            let there = if folder.exists { "" } else { " (not there yet)" };
            let _ = writeln!(text, "models   {}{there}{free}", folder.path);
        }
        self.write_models(&mut text);
        if let Some(config) = &self.config {
            write_config(&mut text, config);
        }
        text.push('\n');
        if self.problems.is_empty() {
            text.push_str("No problem was found.\n");
        }
        for Finding { problem, advice, fatal } in &self.problems {
            let _ = writeln!(text, "{} {problem}\n  {advice}", if *fatal { "error:" } else { "note:" });
        }
        text
    }

    fn write_models(&self, text: &mut String) {
        let row = |model: &Model| {
            let limit = if model.within_max_memory { "" } else { ", above runtime.max_memory" };
            [
                output::one_line(&model.name, 60),
                output::byte_size(model.weight_bytes),
                format!("{} at {}", output::byte_size(model.kv_bytes), model.context),
                format!("{}{limit}", model.fit.unwrap_or("not known")),
            ]
        };
        let head = |first| [first, "WEIGHTS", "KEYS AND VALUES", "HERE"];
        let rows = |typical| self.models.iter().filter(|model| model.typical == typical).map(row).collect();
        output::table(text, head("MODEL"), rows(false));
        output::table(text, head("TYPICAL MODEL"), rows(true));
    }
}

fn write_config(text: &mut String, config: &ConfigReport) {
    let file = config.file.as_deref().unwrap_or("none");
    let _ = writeln!(text, "\nconfiguration file: {file}");
    let rows = config.values.iter().map(|setting| {
        let value = match setting.value.as_u64().filter(|_| setting.is_size) {
            Some(bytes) => format!("\"{}\"", byte_text(bytes)),
            None => setting.value.to_string(),
        };
        [setting.key.to_owned(), output::one_line(&value, 60), setting.origin.clone()]
    });
    output::table(text, ["KEY", "VALUE", "FROM"], rows.collect());
}
