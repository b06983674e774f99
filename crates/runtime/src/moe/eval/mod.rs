//! Whether a swarm pays: its experts, alone and together, on held-out text and on questions with known answers, beside a
//! generalist.
//!
//! Nothing here is lenient: the first tokens of a text are given to everyone and scored for nobody, the router sees no more
//! than them, the mixture is the one that answers are written with, and every figure has an interval.

mod questions;
mod resample;
mod text;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use hublabio_engine::ThreadTeam;
use hublabio_moe::{ExpertId, Flow, RoutingStrategy, SwarmRequest, SynthesisStrategy};
use serde::Serialize;

use super::builtin;
use super::engine::{AnswerOptions, SwarmEngine};
use super::expert_file::{ExpertSpec, ModelSource, read_bounded};
use super::facts::facts_of;
use super::settings::synthesis_name;
use crate::ai::{GenerationConfig, InferenceEngine, Message, ModelConfig};
use crate::error::{Error, Result};

pub use questions::{AnswerCheck, AnswerRow, AnswerTable, Question, parse_questions};
pub use resample::Interval;
pub use text::{GIVEN_TOKENS, TextRow, TextSet, TextTable};

use questions::Answered;
use text::Contender;

/// Bytes of one file of held-out text or questions.
const FILE_BYTES_MAX: u64 = 64 << 20;
/// Tokens of an answer.
const ANSWER_TOKENS: usize = 64;
/// A difference in bits that is worth a sentence, in percent.
const WORTH_PERCENT: f64 = 1.0;

/// What is evaluated.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EvalOptions {
    /// A folder of held-out text: a file `NAME.txt` for each kind, its documents separated by empty lines. A kind that is named like
    /// an expert's domain belongs to that expert.
    pub texts: Option<PathBuf>,
    /// Files of questions.
    pub questions: Vec<PathBuf>,
    /// A model to compare with, trained on everything that the experts were trained on.
    pub generalist: Option<PathBuf>,
    /// The ways to join answers that are tried beside Best.
    pub syntheses: Vec<SynthesisStrategy>,
    /// At most so many bytes of each kind of text, and so many questions of each file; by default all.
    pub text_bytes: Option<usize>,
    /// See `text_bytes`.
    pub question_count: Option<usize>,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EvalReport {
    /// Held-out text.
    pub texts: Vec<TextTable>,
    /// Questions.
    pub answers: Vec<AnswerTable>,
    /// In plain words, whether the swarm pays.
    pub verdict: Vec<String>,
}

impl SwarmEngine {
    /// Evaluates this swarm. All its experts are in memory meanwhile, whatever the budget says. `progress` gets what is being
    /// done, and how far.
    ///
    /// # Errors
    /// When a file cannot be read, an expert cannot be opened, or the experts' tokens mean different things (then bits per byte of a
    /// mixture mean nothing).
    pub fn evaluate(&self, options: &EvalOptions, progress: &mut dyn FnMut(&str, usize)) -> Result<EvalReport> {
        let mut report = EvalReport { texts: Vec::new(), answers: Vec::new(), verdict: Vec::new() };
        if let Some(folder) = &options.texts {
            let sets = self.read_texts(folder, options.text_bytes)?;
            let mut contenders = self.contenders(options.generalist.as_deref())?;
            let mixture = self.spec().settings.mixture;
            for set in &sets {
                report.texts.push(text::score(&mut contenders, self.router(), mixture, set, progress)?);
            }
        }
        for path in &options.questions {
            let origin = path.display().to_string();
            let bad = |problem: String| Error::SwarmFile { origin: origin.clone(), problem };
            let mut questions = parse_questions(&read_bounded(path, FILE_BYTES_MAX).map_err(bad)?, &origin)?;
            if let Some(count) = options.question_count.filter(|&count| count < questions.len()) {
                // Spread over the file, which is sorted by domain.
                let step = questions.len() as f64 / count.max(1) as f64;
                questions = (0..count).map(|i| questions[(i as f64 * step) as usize].clone()).collect();
            }
            report.answers.push(self.ask_all(&origin, &questions, options, progress)?);
        }
        report.verdict = verdict(&report);
        Ok(report)
    }

    fn read_texts(&self, folder: &Path, bytes_max: Option<usize>) -> Result<Vec<TextSet>> {
        let bad = |problem: String| Error::SwarmFile { origin: folder.display().to_string(), problem };
        let entries = std::fs::read_dir(folder).map_err(|cause| bad(format!("cannot be read: {cause}")))?;
        let mut paths: Vec<PathBuf> = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
            .collect();
        paths.sort();
        let spec = self.spec();
        let mut sets = Vec::new();
        for path in paths {
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let text = read_bounded(&path, FILE_BYTES_MAX).map_err(bad)?;
            let mut left = bytes_max.unwrap_or(usize::MAX);
            let documents = text
                .split("\n\n")
                .filter(|document| !document.trim().is_empty())
                .take_while(|document| {
                    let more = left > 0;
                    left = left.saturating_sub(document.len());
                    more
                })
                .map(str::to_owned)
                .collect();
            let label = spec.experts.iter().find(|e| e.config.domain.name == name && !e.profile.generalist);
            sets.push(TextSet { name, label: label.map(|expert| expert.config.id), documents });
        }
        if sets.is_empty() {
            return Err(bad("has no text files (*.txt)".into()));
        }
        Ok(sets)
    }

    /// All models, on one thread team.
    fn contenders(&self, generalist: Option<&Path>) -> Result<Vec<Contender>> {
        let team = Arc::new(ThreadTeam::with_all_cores());
        let mut contenders = Vec::new();
        let mut hash = None;
        for expert in self.spec().experts {
            let (facts, engine) = open(&expert, &team)?;
            if *hash.get_or_insert(facts.tokenizer_hash) != facts.tokenizer_hash {
                return Err(Error::Expert(format!(
                    "the tokens of `{}` mean something else than those of the other experts: bits per byte of a mixture \
                     cannot be told, leave --text out",
                    expert.config.name
                )));
            }
            contenders.push(Contender {
                id: Some(expert.config.id),
                name: expert.config.name.clone(),
                engine,
                active_parameters: facts.active_parameters,
                generalist: expert.profile.generalist,
            });
        }
        if let Some(path) = generalist {
            let source = ModelSource::File(path.to_owned());
            let facts = facts_of(&source, None)?;
            if hash.is_some_and(|hash| hash != facts.tokenizer_hash) {
                let path = path.display();
                return Err(Error::Expert(format!("the tokens of {path} mean something else than the experts'")));
            }
            let config = ModelConfig { context: Some(facts.context), ..ModelConfig::default() };
            contenders.push(Contender {
                id: None,
                name: "generalist on all data".into(),
                engine: InferenceEngine::open_on(path, &config, Some(&team))?,
                active_parameters: facts.active_parameters,
                generalist: false,
            });
        }
        Ok(contenders)
    }

    fn ask_all(
        &self,
        origin: &str,
        questions: &[Question],
        options: &EvalOptions,
        progress: &mut dyn FnMut(&str, usize),
    ) -> Result<AnswerTable> {
        let spec = self.spec();
        let mut answered = Vec::new();
        let ask = |request: SwarmRequest| {
            let options = AnswerOptions { generation: Some(GenerationConfig::greedy()), ..AnswerOptions::default() };
            self.answer(&request, &options, &mut |_| Flow::Continue(()))
        };
        let mut run = |system: String, member: bool, request: &dyn Fn(&Question) -> SwarmRequest| {
            let start = Instant::now();
            let (mut right, mut errors) = (Vec::with_capacity(questions.len()), 0);
            for (i, question) in questions.iter().enumerate() {
                let answer = ask(SwarmRequest { max_tokens: Some(ANSWER_TOKENS), ..request(question) });
                errors += usize::from(answer.is_err());
                right.push(answer.is_ok_and(|answer| question.accepts(&answer.synthesis.text)));
                progress(&system, i + 1);
            }
            let ms = start.elapsed().as_secs_f64() * 1e3 / questions.len().max(1) as f64;
            answered.push(Answered { system, member, right, ms, errors });
        };
        let pinned = |id: ExpertId| {
            move |question: &Question| SwarmRequest {
                pinned: Some(id),
                synthesis: Some(SynthesisStrategy::Best),
                ..SwarmRequest::new(&question.question)
            }
        };
        for expert in &spec.experts {
            run(expert.config.name.clone(), true, &pinned(expert.config.id));
        }
        run("routed top-1".into(), false, &|question| SwarmRequest {
            routing: Some(RoutingStrategy::Single),
            synthesis: Some(SynthesisStrategy::Best),
            ..SwarmRequest::new(&question.question)
        });
        let by_label = |label: &str| {
            let own = spec.experts.iter().find(|expert| expert.config.domain.name == label);
            own.or_else(|| spec.experts.iter().find(|expert| expert.profile.generalist)).map(|expert| expert.config.id)
        };
        run("oracle label".into(), false, &|question| SwarmRequest {
            pinned: by_label(&question.label),
            synthesis: Some(SynthesisStrategy::Best),
            ..SwarmRequest::new(&question.question)
        });
        for &synthesis in &options.syntheses {
            run(format!("{} of all", synthesis_name(synthesis)), false, &|question| SwarmRequest {
                routing: Some(RoutingStrategy::All),
                synthesis: Some(synthesis),
                ..SwarmRequest::new(&question.question)
            });
        }
        if let Some(path) = &options.generalist {
            answered.push(ask_model(path, questions, progress)?);
        }
        Ok(questions::table(origin, questions, &answered))
    }
}

fn open(expert: &ExpertSpec, team: &Arc<ThreadTeam>) -> Result<(super::facts::ModelFacts, InferenceEngine)> {
    let facts = super::facts::facts(expert)?;
    let config = ModelConfig {
        context: Some(facts.context),
        adapters: expert.adapter.iter().cloned().collect(),
        ..ModelConfig::default()
    };
    let engine = match &expert.source {
        ModelSource::File(path) => InferenceEngine::open_on(path, &config, Some(team))?,
        ModelSource::Builtin(name) => {
            let bytes =
                builtin::model_bytes(name).ok_or_else(|| Error::Expert(format!("no built-in model `{name}`")))?;
            InferenceEngine::open_static(bytes, &config, Some(team))?
        }
    };
    Ok((facts, engine))
}

/// The answers of a model that is not in the swarm.
fn ask_model(path: &Path, questions: &[Question], progress: &mut dyn FnMut(&str, usize)) -> Result<Answered> {
    let mut engine = InferenceEngine::open(path, &ModelConfig::default())?;
    let config = GenerationConfig { max_tokens: Some(ANSWER_TOKENS), ..GenerationConfig::greedy() };
    let system = "generalist on all data".to_owned();
    let start = Instant::now();
    let (mut right, mut errors) = (Vec::with_capacity(questions.len()), 0);
    for (i, question) in questions.iter().enumerate() {
        let answer = engine
            .chat_prompt(&[Message::new("user", &question.question)])
            .and_then(|prompt| engine.generate(&prompt, &config, &mut |_| Flow::Continue(())));
        errors += usize::from(answer.is_err());
        right.push(answer.is_ok_and(|answer| question.accepts(&answer.text)));
        progress(&system, i + 1);
    }
    let ms = start.elapsed().as_secs_f64() * 1e3 / questions.len().max(1) as f64;
    Ok(Answered { system, member: false, right, ms, errors })
}

/// What the tables say, in sentences.
fn verdict(report: &EvalReport) -> Vec<String> {
    let mut said: Vec<String> = report.texts.iter().filter_map(text_verdict).collect();
    said.extend(report.answers.iter().filter_map(answer_verdict));
    said
}

/// The best that one model alone does: an expert, the generalist, or the one that was trained on everything.
fn text_verdict(table: &TextTable) -> Option<String> {
    let together =
        ["routed top-1", "oracle label", "best per window in hindsight", "uniform mixture", "tempered fusion"];
    let find = |name: &str| table.rows.iter().find(|row| row.system == name);
    let (fusion, routed) = (find("tempered fusion")?, find("routed top-1")?);
    let alone = table.rows.iter().filter(|row| !together.contains(&row.system.as_str()));
    let best = alone.min_by(|a, b| a.bits_per_byte.value.total_cmp(&b.bits_per_byte.value))?;
    let saved = |row: &TextRow| 100.0 * (1.0 - row.bits_per_byte.value / best.bits_per_byte.value);
    let set = &table.set;
    // The interval of the difference between the best single model and the mixture does not contain 0.
    let is_sure = best.percent_above_fusion.low > 0.0;
    Some(if saved(fusion) >= WORTH_PERCENT && is_sure {
        let also = if saved(routed) >= WORTH_PERCENT {
            format!("; routing alone saves {:.1} % at {:.1} ×", saved(routed), routed.compute)
        } else {
            String::new()
        };
        format!(
            "{set}: the swarm saves {:.1} % bits at {:.1} × the compute of one model (the best alone is {}){also}",
            saved(fusion),
            fusion.compute,
            best.system
        )
    } else if saved(routed) >= WORTH_PERCENT {
        format!(
            "{set}: route, do not mix: routing saves {:.1} % bits at {:.1} × the compute, the mixture {:.1} % at {:.1} ×",
            saved(routed),
            routed.compute,
            saved(fusion),
            fusion.compute
        )
    } else {
        format!(
            "{set}: switch it off: {} alone has {:.3} bits per byte, the mixture {:.3} at {:.1} × the compute, routing {:.3}",
            best.system,
            best.bits_per_byte.value,
            fusion.bits_per_byte.value,
            fusion.compute,
            routed.bits_per_byte.value
        )
    })
}

fn answer_verdict(table: &AnswerTable) -> Option<String> {
    let routed = table.rows.iter().find(|row| row.system == "routed top-1")?;
    let Interval { value, low, high } = routed.above_best_member;
    let set = &table.set;
    let percent = 100.0 * routed.right.value;
    Some(if low > 0.0 {
        format!("{set}: routed answers are right in {percent:.1} %, {:.1} points above the best member", 100.0 * value)
    } else if high < 0.0 {
        format!(
            "{set}: switch it off: routed answers are right in {percent:.1} %, {:.1} points below the best member",
            -100.0 * value
        )
    } else {
        format!(
            "{set}: routed answers are right in {percent:.1} %, as often as the best member within the interval \
             ({:+.1} to {:+.1} points)",
            100.0 * low,
            100.0 * high
        )
    })
}
