//! Bits per byte of held-out text: every expert alone, routed, by oracle, and mixed.

use std::time::Instant;

use hublabio_moe::{ExpertId, Mixture, MixtureConfig, RouteQuery, RoutingStrategy, SharedRouter};

use super::resample::{Interval, ratio};
use crate::ai::InferenceEngine;
use crate::ai::tokenizer::{EncodeOptions, TokenId};
use crate::error::{Error, Result};

/// Tokens at the beginning of each window that are given: the router and the mixture see them, nobody is scored on them.
pub const GIVEN_TOKENS: usize = 32;
/// A window that has fewer tokens than this is left out.
const WINDOW_TOKENS_MIN: usize = 2 * GIVEN_TOKENS;
/// The longest window.
const WINDOW_TOKENS_MAX: usize = 512;

/// Held-out text of one kind.
#[derive(Clone, Debug, PartialEq)]
pub struct TextSet {
    /// Its name: `rust`, `mixed`, `unknown`.
    pub name: String,
    /// The expert that it belongs to, if it is one domain's.
    pub label: Option<ExpertId>,
    /// Texts that have nothing to do with each other.
    pub documents: Vec<String>,
}

/// A model under evaluation.
pub(super) struct Contender {
    /// `None` for one that is not in the swarm: the generalist that was trained on everything.
    pub id: Option<ExpertId>,
    pub name: String,
    pub engine: InferenceEngine,
    pub active_parameters: u64,
    pub generalist: bool,
}

/// A way to predict a text, and how well it did.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct TextRow {
    /// What it is.
    pub system: String,
    /// Bits per byte.
    pub bits_per_byte: Interval,
    /// How many bits more (or, below 0, fewer) than the mixture's, in percent of them.
    pub percent_above_fusion: Interval,
    /// Parameters that compute one token, in relation to the generalist's.
    pub compute: f64,
    /// Milliseconds for a token, all its models one after the other.
    pub ms_per_token: f64,
}

/// All ways on one kind of text.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct TextTable {
    /// The kind.
    pub set: String,
    /// Windows scored.
    pub windows: usize,
    /// Bytes scored.
    pub bytes: usize,
    /// The share of windows that the router gave to the expert of the label; `None` where there is none.
    pub routed_right: Option<f64>,
    /// The ways.
    pub rows: Vec<TextRow>,
}

/// What one window told.
struct Window {
    bytes: f64,
    /// Bits under each contender.
    alone: Vec<f64>,
    routed: f64,
    uniform: f64,
    fusion: f64,
    /// Members that computed, over all tokens, in parameters.
    fusion_parameters: f64,
    tokens: f64,
    right: Option<bool>,
    routed_parameters: f64,
}

/// The members of the swarm among the contenders, by their places.
struct Members {
    places: Vec<usize>,
    keep: Option<usize>,
}

impl Members {
    fn of(contenders: &[Contender]) -> Self {
        let places: Vec<usize> = (0..contenders.len()).filter(|&i| contenders[i].id.is_some()).collect();
        let keep = places.iter().position(|&i| contenders[i].generalist);
        Self { places, keep }
    }
}

/// Scores one kind of text. `progress` gets windows done.
pub(super) fn score(
    contenders: &mut [Contender],
    router: &SharedRouter,
    config: MixtureConfig,
    set: &TextSet,
    progress: &mut dyn FnMut(&str, usize),
) -> Result<TextTable> {
    let members = Members::of(contenders);
    let mut windows = Vec::new();
    let mut seconds = vec![0.0; contenders.len()];
    let mut mixing = 0.0;
    for window in cut(contenders, set)? {
        let scored = score_window(contenders, &members, router, config, set.label, &window, &mut seconds, &mut mixing)?;
        windows.push(scored);
        progress(&set.name, windows.len());
    }
    Ok(table(contenders, &members, set, &windows, &seconds, mixing))
}

/// The texts as windows of tokens, a BOS in front where the models want one.
fn cut(contenders: &[Contender], set: &TextSet) -> Result<Vec<Vec<TokenId>>> {
    let first = contenders.first().ok_or_else(|| Error::Expert("there is nobody to evaluate".into()))?;
    let length = contenders.iter().map(|c| c.engine.context()).min().unwrap_or(0).min(WINDOW_TOKENS_MAX);
    let tokenizer = first.engine.tokenizer()?;
    let bos = tokenizer.bos().filter(|_| tokenizer.adds_bos());
    let options = EncodeOptions { add_bos: Some(false), add_eos: Some(false), ..EncodeOptions::default() };
    let mut windows = Vec::new();
    for document in &set.documents {
        let tokens = tokenizer.encode(document, options)?;
        for piece in tokens.chunks(length.saturating_sub(1).max(1)) {
            if piece.len() >= WINDOW_TOKENS_MIN {
                windows.push(bos.into_iter().chain(piece.iter().copied()).collect());
            }
        }
    }
    Ok(windows)
}

#[allow(clippy::too_many_arguments, reason = "one step of the loop above")]
fn score_window(
    contenders: &mut [Contender],
    members: &Members,
    router: &SharedRouter,
    config: MixtureConfig,
    label: Option<ExpertId>,
    window: &[TokenId],
    seconds: &mut [f64],
    mixing: &mut f64,
) -> Result<Window> {
    let (given, text) = {
        let tokenizer = contenders[0].engine.tokenizer()?;
        let bytes = |tokens: &[TokenId]| -> Vec<u8> {
            tokens.iter().flat_map(|&t| tokenizer.token_bytes(t).unwrap_or_default().to_vec()).collect()
        };
        (String::from_utf8_lossy(&bytes(&window[..=GIVEN_TOKENS])).into_owned(), bytes(&window[GIVEN_TOKENS + 1..]))
    };
    let mut rows = Vec::with_capacity(contenders.len());
    for (contender, seconds) in contenders.iter_mut().zip(seconds) {
        let start = Instant::now();
        rows.push(contender.engine.logits(&window[..window.len() - 1], true)?);
        *seconds += start.elapsed().as_secs_f64();
    }
    let logprobs: Vec<Vec<f64>> = rows
        .iter()
        .map(|rows| {
            let of = |(row, next): (&Vec<f32>, &TokenId)| Mixture::log_probability(row, next.0);
            rows.iter().zip(&window[1..]).map(of).collect::<std::result::Result<Vec<f64>, _>>()
        })
        .collect::<std::result::Result<_, _>>()
        .map_err(|fault| Error::Expert(fault.to_string()))?;
    // Row `t` predicts token `t + 1`: the first scored row is the one after the given tokens.
    let bits = |logprobs: &[f64]| -logprobs[GIVEN_TOKENS..].iter().sum::<f64>() / std::f64::consts::LN_2;
    let alone: Vec<f64> = logprobs.iter().map(|l| bits(l)).collect();
    let uniform: Vec<f64> = (0..logprobs[0].len())
        .map(|t| {
            let each = members.places.iter().map(|&i| logprobs[i][t].exp());
            (each.sum::<f64>() / members.places.len() as f64).ln()
        })
        .collect();

    let query = RouteQuery { text: &given, ..RouteQuery::default() };
    let routed = match router.route(&query, RoutingStrategy::Single, None) {
        Ok(decision) => decision.selected.first().copied(),
        Err(hublabio_moe::Error::EmptyQuery) => None,
        Err(error) => return Err(error.into()),
    };
    let fallback = members.keep.map(|keep| members.places[keep]);
    let place = contenders.iter().position(|c| c.id.is_some() && c.id == routed).or(fallback).unwrap_or(0);

    let start = Instant::now();
    let (fusion, used) = fuse(contenders, members, config, &rows, &logprobs, &window[1..])?;
    *mixing += start.elapsed().as_secs_f64();
    Ok(Window {
        bytes: text.len() as f64,
        routed: alone[place],
        routed_parameters: contenders[place].active_parameters as f64,
        right: label.map(|label| contenders[place].id == Some(label)),
        uniform: bits(&uniform),
        fusion,
        fusion_parameters: used,
        tokens: (window.len() - 1 - GIVEN_TOKENS) as f64,
        alone,
    })
}

/// Bits of the mixture, as it is when it generates: pruned members do not see a token before they are wanted again. Returns the
/// parameters that computed, summed over tokens, too.
fn fuse(
    contenders: &[Contender],
    members: &Members,
    config: MixtureConfig,
    rows: &[Vec<Vec<f32>>],
    logprobs: &[Vec<f64>],
    next: &[TokenId],
) -> Result<(f64, f64)> {
    let n = members.places.len();
    let priors = vec![1.0 / n as f32; n];
    let mut mixture = Mixture::new(MixtureConfig { keep: members.keep, ..config }, &priors)?;
    for (member, &place) in members.places.iter().enumerate() {
        mixture.observe(member, &logprobs[place][..GIVEN_TOKENS]);
    }
    let (mut bits, mut parameters) = (0.0, 0.0);
    for t in GIVEN_TOKENS..next.len() {
        let wanted = mixture.wanted().to_vec();
        for &member in &wanted {
            let missed = mixture.missed(member);
            mixture.observe(member, &logprobs[members.places[member]][t - missed..t]);
        }
        let logits: Vec<Option<&[f32]>> =
            (0..n).map(|member| wanted.contains(&member).then(|| rows[members.places[member]][t].as_slice())).collect();
        let mixed = mixture.mix(&logits);
        let logprob = Mixture::log_probability(mixed, next[t].0).map_err(|fault| Error::Expert(fault.to_string()))?;
        bits -= logprob / std::f64::consts::LN_2;
        parameters += wanted.iter().map(|&m| contenders[members.places[m]].active_parameters as f64).sum::<f64>();
        mixture.accept(next[t].0);
    }
    Ok((bits, parameters))
}

fn table(
    contenders: &[Contender],
    members: &Members,
    set: &TextSet,
    windows: &[Window],
    seconds: &[f64],
    mixing: f64,
) -> TextTable {
    let unit = members.keep.map_or(0, |keep| members.places[keep]);
    let unit = contenders[unit].active_parameters.max(1) as f64;
    let tokens: f64 = windows.iter().map(|w| w.tokens + GIVEN_TOKENS as f64).sum::<f64>().max(1.0);
    let scored: f64 = windows.iter().map(|w| w.tokens).sum::<f64>().max(1.0);
    let row = |system: String, bits: &dyn Fn(&Window) -> f64, parameters: f64, seconds: f64| {
        let percent = ratio(&windows.iter().map(|w| (100.0 * (bits(w) - w.fusion), w.fusion)).collect::<Vec<_>>());
        TextRow {
            system,
            bits_per_byte: ratio(&windows.iter().map(|w| (bits(w), w.bytes)).collect::<Vec<_>>()),
            percent_above_fusion: percent,
            compute: parameters / unit,
            ms_per_token: 1e3 * seconds / tokens,
        }
    };
    let mut rows: Vec<TextRow> = contenders
        .iter()
        .enumerate()
        .map(|(i, c)| row(c.name.clone(), &|w| w.alone[i], c.active_parameters as f64, seconds[i]))
        .collect();
    let sum = |f: &dyn Fn(&Window) -> f64| windows.iter().map(f).sum::<f64>();
    let of_swarm: Vec<f64> = members.places.iter().map(|&i| seconds[i]).collect();
    let mean_seconds = of_swarm.iter().sum::<f64>() / of_swarm.len().max(1) as f64;
    let routed_parameters = sum(&|w| w.routed_parameters) / windows.len().max(1) as f64;
    rows.push(row("routed top-1".into(), &|w| w.routed, routed_parameters, mean_seconds));
    if let Some(place) = set.label.and_then(|label| contenders.iter().position(|c| c.id == Some(label))) {
        let c = &contenders[place];
        rows.push(row("oracle label".into(), &|w| w.alone[place], c.active_parameters as f64, seconds[place]));
    }
    let hindsight = |w: &Window| members.places.iter().map(|&i| w.alone[i]).fold(f64::INFINITY, f64::min);
    rows.push(row("best per window in hindsight".into(), &hindsight, unit, mean_seconds));
    let all: f64 = members.places.iter().map(|&i| contenders[i].active_parameters as f64).sum();
    rows.push(row("uniform mixture".into(), &|w| w.uniform, all, of_swarm.iter().sum()));
    let share = sum(&|w| w.fusion_parameters) / scored / all.max(1.0);
    let fusion_seconds = of_swarm.iter().sum::<f64>() * share + mixing;
    rows.push(row("tempered fusion".into(), &|w| w.fusion, all * share, fusion_seconds));
    let right: Vec<bool> = windows.iter().filter_map(|w| w.right).collect();
    TextTable {
        set: set.name.clone(),
        windows: windows.len(),
        bytes: sum(&|w| w.bytes) as usize,
        routed_right: (!right.is_empty()).then(|| right.iter().filter(|&&r| r).count() as f64 / right.len() as f64),
        rows,
    }
}
