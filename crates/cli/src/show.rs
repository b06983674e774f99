//! `hublab show`: what a model file says about itself. Reads the description only, and needs to understand none of it:
//! unknown architectures and files without weights are described all the same.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::{Result, bail};
use hublabio_gguf::{Array, GgmlType, GgufFile, Metadata, TensorInfo, Value};
use hublabio_runtime::ai::quantization::TABLE;
use hublabio_runtime::ai::{TemplateSource, ValueJson, chat_templates};
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};
use serde_json::json;

use crate::args::ShowArgs;
use crate::output;

/// Longest text that the table of metadata shows of a value.
const VALUE_CHARS_MAX: usize = 80;

pub fn show(args: &ShowArgs) -> Result<ExitCode> {
    if args.types {
        return show_types(args.json);
    }
    let file = args.model.open_file()?;
    if let Some(name) = &args.template {
        return show_template(&file, name, args.json);
    }
    let summary = Summary::of(&file);
    if args.json {
        output::json(&Report {
            summary: &summary,
            metadata: MetadataJson(file.metadata()),
            tensors: args.tensors.then(|| file.tensors().iter().map(TensorJson::from).collect()),
        })?;
    } else {
        output::bytes(as_text(args, &file, &summary).as_bytes())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints a template, byte for byte; without a name the one that is used by default.
fn show_template(file: &GgufFile, name: &str, json: bool) -> Result<ExitCode> {
    let templates = chat_templates(file)?;
    let found = if name.is_empty() { templates.first() } else { templates.iter().find(|found| found.name == name) };
    let Some(template) = found else {
        let names: Vec<_> = templates.iter().map(|template| template.name.as_str()).collect();
        bail!("the file has no chat template `{name}`; it has {}", names.join(", "));
    };
    if template.builtin {
        output::note(&format!("the file has no chat template: this is the built-in `{}`", template.name));
    }
    if json {
        let TemplateSource { name, source, builtin } = template;
        output::json(&json!({ "name": name, "source": source, "builtin": builtin }))?;
    } else {
        output::bytes(template.source.as_bytes())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// One tensor type, whatever files there are.
#[derive(Serialize)]
struct TypeJson {
    name: &'static str,
    id: u32,
    bits_per_weight: f64,
    block_weights: usize,
    block_bytes: usize,
    can_decode: bool,
    can_encode: bool,
}

fn show_types(json: bool) -> Result<ExitCode> {
    let types = TABLE.iter().map(|row| TypeJson {
        name: row.ty.name(),
        id: row.ty.id(),
        bits_per_weight: row.bits_per_weight,
        block_weights: row.block_len,
        block_bytes: row.block_bytes,
        can_decode: row.ty.can_decode(),
        can_encode: row.ty.can_encode(),
    });
    if json {
        output::json(&types.collect::<Vec<_>>())?;
        return Ok(ExitCode::SUCCESS);
    }
    let yes = |can| if can { "yes" } else { "no" }.to_owned();
    let rows = types.map(|ty| {
        let [id, bits] = [ty.id.to_string(), ty.bits_per_weight.to_string()];
        let [weights, bytes] = [ty.block_weights, ty.block_bytes].map(|n| n.to_string());
        [ty.name.to_owned(), id, bits, weights, bytes, yes(ty.can_decode), yes(ty.can_encode)]
    });
    let mut text = String::new();
    let head = ["TYPE", "ID", "BITS PER WEIGHT", "BLOCK WEIGHTS", "BLOCK BYTES", "READ", "WRITTEN"];
    output::table(&mut text, head, rows.collect());
    output::bytes(text.trim_start().as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// What the file holds, in a few fields. `None`: the file does not say, or not in a form that can be understood.
#[derive(Serialize)]
struct Summary {
    path: Option<String>,
    gguf_version: u32,
    parts: usize,
    bytes: u64,
    name: Option<String>,
    architecture: Option<String>,
    parameters: u64,
    tensor_count: usize,
    by_type: Vec<TypeShare>,
    context_length: Option<u64>,
    layers: Option<u64>,
    embedding_length: Option<u64>,
    feed_forward_length: Option<u64>,
    heads: Option<u64>,
    kv_heads: Option<u64>,
    experts: Option<u64>,
    tokenizer: Option<Tokenizer>,
    chat_template: bool,
}

/// The tensors of one type.
#[derive(Serialize)]
struct TypeShare {
    r#type: &'static str,
    tensors: usize,
    parameters: u64,
    bytes: u64,
}

#[derive(Serialize)]
struct Tokenizer {
    model: Option<String>,
    pre: Option<String>,
    tokens: usize,
}

impl Summary {
    fn of(file: &GgufFile) -> Self {
        let metadata = file.metadata();
        let text = |key: &str| metadata.get(key).and_then(Value::as_str).map(str::to_owned);
        let architecture = text("general.architecture");
        let number = |key: &str| {
            let key = format!("{}.{key}", architecture.as_deref()?);
            metadata.get(&key).and_then(Value::as_u64)
        };
        let tokens = metadata.get("tokenizer.ggml.tokens").and_then(Value::as_array).map(Array::len);
        let tokenizer = (tokens.is_some() || metadata.contains("tokenizer.ggml.model")).then(|| Tokenizer {
            model: text("tokenizer.ggml.model"),
            pre: text("tokenizer.ggml.pre"),
            tokens: tokens.unwrap_or(0),
        });
        Self {
            path: file.path().map(|path| path.display().to_string()),
            gguf_version: file.version(),
            parts: file.parts().len(),
            bytes: file.total_bytes(),
            name: text("general.name"),
            parameters: file.tensors().iter().map(TensorInfo::n_elements).sum(),
            tensor_count: file.tensors().len(),
            by_type: by_type(file.tensors()),
            context_length: number("context_length"),
            layers: number("block_count"),
            embedding_length: number("embedding_length"),
            feed_forward_length: number("feed_forward_length"),
            heads: number("attention.head_count"),
            kv_heads: number("attention.head_count_kv"),
            experts: number("expert_count"),
            tokenizer,
            chat_template: metadata.contains("tokenizer.chat_template"),
            architecture,
        }
    }
}

/// Largest first.
fn by_type(tensors: &[TensorInfo]) -> Vec<TypeShare> {
    let mut shares: BTreeMap<GgmlType, TypeShare> = BTreeMap::new();
    for tensor in tensors {
        let empty = TypeShare { r#type: tensor.ty.name(), tensors: 0, parameters: 0, bytes: 0 };
        let share = shares.entry(tensor.ty).or_insert(empty);
        share.tensors += 1;
        share.parameters += tensor.n_elements();
        share.bytes += tensor.n_bytes();
    }
    let mut shares: Vec<_> = shares.into_values().collect();
    shares.sort_by_key(|share| std::cmp::Reverse(share.bytes));
    shares
}

fn as_text(args: &ShowArgs, file: &GgufFile, summary: &Summary) -> String {
    let mut text = String::new();
    write_summary(&mut text, args, summary);
    if !summary.by_type.is_empty() {
        let rows = summary.by_type.iter().map(|share| {
            [
                share.r#type.to_owned(),
                share.tensors.to_string(),
                output::count(share.parameters),
                output::byte_size(share.bytes),
            ]
        });
        output::table(&mut text, ["TYPE", "TENSORS", "PARAMETERS", "SIZE"], rows.collect());
    }
    if args.tensors {
        let rows = file.tensors().iter().map(|tensor| {
            let dims: Vec<_> = tensor.dims.iter().map(u64::to_string).collect();
            let name = output::one_line(&tensor.name, VALUE_CHARS_MAX);
            [name, dims.join(" x "), tensor.ty.name().to_owned(), output::byte_size(tensor.n_bytes())]
        });
        output::table(&mut text, ["TENSOR", "SHAPE", "TYPE", "SIZE"], rows.collect());
    }
    let rows = file.metadata().iter().map(|(key, value)| {
        let kind = match value {
            Value::Array(array) => format!("{}[{}]", array.kind(), array.len()),
            value => value.kind().to_string(),
        };
        [output::one_line(key, VALUE_CHARS_MAX), kind, output::one_line(&value.to_string(), VALUE_CHARS_MAX)]
    });
    output::table(&mut text, ["METADATA", "TYPE", "VALUE"], rows.collect());
    text
}

fn write_summary(text: &mut String, args: &ShowArgs, summary: &Summary) {
    let mut line = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            writeln!(text, "{name:<13}  {}", output::one_line(&value, 200)).expect("a String takes any text");
        }
    };
    let parts = if summary.parts > 1 { format!(", {} parts", summary.parts) } else { String::new() };
    line("model", summary.name.clone());
    line(
        "file",
        Some(format!("{}, {}, GGUF {}{parts}", args.model, output::byte_size(summary.bytes), summary.gguf_version)),
    );
    line("architecture", Some(summary.architecture.clone().unwrap_or_else(|| "not said".to_owned())));
    line("parameters", Some(format!("{} in {} tensors", output::count(summary.parameters), summary.tensor_count)));
    line("context", summary.context_length.map(|n| format!("{n} tokens")));
    let shape: Vec<_> = [
        (summary.layers, "layers"),
        (summary.embedding_length, "wide"),
        (summary.feed_forward_length, "in the feed-forward"),
        (summary.heads, "heads"),
        (summary.kv_heads, "key-value heads"),
        (summary.experts, "experts"),
    ]
    .into_iter()
    .filter_map(|(n, what)| Some(format!("{} {what}", n?)))
    .collect();
    line("shape", (!shape.is_empty()).then(|| shape.join(", ")));
    let tokenizer = summary.tokenizer.as_ref().map_or_else(
        || "none".to_owned(),
        |tokenizer| {
            let model = tokenizer.model.as_deref().unwrap_or("of an unnamed kind");
            let pre = tokenizer.pre.as_ref().map(|pre| format!(" ({pre})")).unwrap_or_default();
            format!("{model}{pre}, {} tokens", tokenizer.tokens)
        },
    );
    line("tokenizer", Some(tokenizer));
    line("chat template", Some(if summary.chat_template { "yes" } else { "none" }.to_owned()));
}

/// The JSON of `--json`: the summary's fields, then all metadata and, with `--tensors`, every tensor.
#[derive(Serialize)]
struct Report<'a> {
    #[serde(flatten)]
    summary: &'a Summary,
    metadata: MetadataJson<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tensors: Option<Vec<TensorJson<'a>>>,
}

#[derive(Serialize)]
struct TensorJson<'a> {
    name: &'a str,
    dims: &'a [u64],
    r#type: &'static str,
    bytes: u64,
}

impl<'a> From<&'a TensorInfo> for TensorJson<'a> {
    fn from(tensor: &'a TensorInfo) -> Self {
        Self { name: &tensor.name, dims: &tensor.dims, r#type: tensor.ty.name(), bytes: tensor.n_bytes() }
    }
}

struct MetadataJson<'a>(&'a Metadata);

impl Serialize for MetadataJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (key, value) in self.0.iter() {
            map.serialize_entry(key, &ValueJson(value))?;
        }
        map.end()
    }
}
