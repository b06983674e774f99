//! `hublab swarm ls`: who is there.

use std::process::ExitCode;

use anyhow::Result;
use hublabio_runtime::moe::{ExpertBackend as _, ExpertSpec, ExpertStatus, SwarmEngine, SwarmSettings, synthesis_name};
use serde::Serialize;

use super::{cell, open};
use crate::args::{FleetArgs, SwarmLsArgs, routing_name};
use crate::output;

#[derive(Serialize)]
struct ExpertJson<'a> {
    id: u32,
    name: &'a str,
    domain: &'a str,
    description: &'a str,
    model: String,
    adapter: Option<String>,
    bytes: Option<u64>,
    priority: i32,
    node: Option<u32>,
    threshold: f32,
    keywords: usize,
    examples: usize,
    generalist: bool,
    fallback: Option<&'a str>,
    pinned: bool,
    file: Option<String>,
    available: bool,
    unavailable: Option<&'a str>,
}

#[derive(Serialize)]
struct SwarmJson<'a> {
    folder: Option<String>,
    strategy: String,
    synthesis: &'static str,
    memory_bytes_max: u64,
    experts: Vec<ExpertJson<'a>>,
}

pub fn list(args: &SwarmLsArgs) -> Result<ExitCode> {
    let folder = args.folder.to_read()?;
    let swarm = open(folder.as_deref(), &FleetArgs::default())?;
    let settings = swarm.spec().settings;
    let experts = looked_at(&swarm);
    let folder = folder.map(|folder| folder.display().to_string());
    if args.json {
        output::json(&SwarmJson {
            folder,
            strategy: routing_name(settings.routing),
            synthesis: synthesis_name(settings.synthesis),
            memory_bytes_max: settings.bytes_max,
            experts: experts.iter().map(as_json).collect(),
        })?;
    } else {
        let mut text = table(&experts);
        text.push_str(&summary(folder.as_deref(), &settings));
        output::bytes(text.as_bytes())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The experts, each after a look at its files.
pub fn looked_at(swarm: &SwarmEngine) -> Vec<(ExpertSpec, ExpertStatus)> {
    let spec = swarm.spec();
    let mut backend = swarm.fleet().backend(Vec::new(), None);
    for expert in &spec.experts {
        // What is wrong with it stands in its status.
        let _ = backend.tokenizer_hash(expert.config.id);
    }
    // Returns when what was found is on the board.
    swarm.fleet().set_experts(&spec.experts);
    swarm.experts()
}

fn as_json((spec, status): &(ExpertSpec, ExpertStatus)) -> ExpertJson<'_> {
    let config = &spec.config;
    ExpertJson {
        id: config.id.0,
        name: &config.name,
        domain: &config.domain.name,
        description: &config.description,
        model: spec.source.to_string(),
        adapter: spec.adapter.as_ref().map(|adapter| adapter.path.display().to_string()),
        bytes: status.bytes,
        priority: config.priority,
        node: config.node_id,
        threshold: config.domain.threshold,
        keywords: config.domain.keywords.len(),
        examples: spec.profile.examples.len(),
        generalist: spec.profile.generalist,
        fallback: spec.fallback.as_deref(),
        pinned: spec.pinned,
        file: spec.file.as_ref().map(|path| path.display().to_string()),
        available: status.unavailable.is_none(),
        unavailable: status.unavailable.as_deref(),
    }
}

/// The experts as a table.
pub fn table(experts: &[(ExpertSpec, ExpertStatus)]) -> String {
    let row = |(spec, status): &(ExpertSpec, ExpertStatus)| {
        let config = &spec.config;
        let mut notes = Vec::new();
        if let Some(why) = &status.unavailable {
            notes.push(format!("unavailable: {}", output::one_line(why, 200)));
        }
        if spec.profile.generalist {
            notes.push("generalist".into());
        }
        if let Some(fallback) = &spec.fallback {
            notes.push(format!("falls back to {}", cell(fallback)));
        }
        if spec.pinned {
            notes.push("stays in memory".into());
        }
        let adapter = spec.adapter.as_ref().map(|adapter| format!(" + {}", adapter.path.display())).unwrap_or_default();
        [
            cell(&config.name),
            config.id.to_string(),
            cell(&config.domain.name),
            cell(&format!("{}{adapter}", spec.source)),
            status.bytes.map_or("-".into(), output::byte_size),
            config.priority.to_string(),
            config.node_id.map_or("-".into(), |node| node.to_string()),
            notes.join("; "),
        ]
    };
    let mut text = String::new();
    let head = ["EXPERT", "ID", "DOMAIN", "MODEL", "MEMORY", "PRIORITY", "NODE", "NOTES"];
    output::table(&mut text, head, experts.iter().map(row).collect());
    text.trim_start_matches('\n').to_owned()
}

fn summary(folder: Option<&str>, settings: &SwarmSettings) -> String {
    format!(
        "\nfrom {}; routing {}, synthesis {}, at most {} in memory\n",
        folder.map_or("the binary".into(), |folder| output::one_line(folder, 200)),
        routing_name(settings.routing),
        synthesis_name(settings.synthesis),
        output::byte_size(settings.bytes_max),
    )
}
