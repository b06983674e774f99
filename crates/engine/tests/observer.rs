//! What an observer of the forward pass sees: every product once, in order, with the rows that really meet the matrix.

mod support;

use std::sync::Arc;

use hublabio_engine::{Input, Isa, KvType, Model, ProductObserver, Row, Runner, SequenceId, Shard};
use support::{SHIPPED, expected, open_fixture};

const IDS: usize = 40;

/// Keeps everything.
#[derive(Default, PartialEq)]
struct Recorder {
    head: bool,
    seen: Vec<(Vec<String>, Vec<f32>, usize)>,
}

impl ProductObserver for Recorder {
    fn products(&mut self, tensors: &[&str], rows: &[f32], columns: usize) {
        self.seen.push((tensors.iter().map(|&name| name.to_owned()).collect(), rows.to_vec(), columns));
    }

    fn expert_products(&mut self, tensors: &[&str], expert: (usize, usize), rows: &[f32], columns: usize) {
        let name = |name: &&str| format!("{name} {expert:?}");
        self.seen.push((tensors.iter().map(name).collect(), rows.to_vec(), columns));
    }

    fn wants_head(&self) -> bool {
        self.head
    }
}

impl Recorder {
    /// The inputs of each product, all rows of all passes behind each other.
    fn joined(&self) -> std::collections::BTreeMap<&[String], Vec<u32>> {
        let mut joined = std::collections::BTreeMap::<_, Vec<u32>>::new();
        for (names, rows, _) in &self.seen {
            joined.entry(names.as_slice()).or_default().extend(rows.iter().map(|x| x.to_bits()));
        }
        joined
    }
}

fn open_model(name: &str) -> Model {
    Model::open(Arc::new(open_fixture(name)), &Shard::whole()).unwrap()
}

fn rows(sequence: SequenceId, ids: &[u32], first: usize) -> Vec<Row> {
    let row = |(i, &token)| Row { sequence, position: (first + i) as u32, token, wanted: i % 3 == 0 };
    ids.iter().enumerate().map(row).collect()
}

/// Runs the ids in pieces; what was seen, and the logits of a last token behind them, computed without an observer.
fn observe(name: &str, ids: &[u32], (threads, isa, piece): (usize, Isa, usize), head: bool) -> (Recorder, Vec<f32>) {
    let model = Arc::new(Model::open(Arc::new(open_fixture(name)), &Shard::whole()).unwrap());
    let mut cache = model.new_cache(ids.len() + 1, KvType::F32);
    let sequence = cache.create();
    let mut runner = Runner::new(model, threads, isa);
    let mut recorder = Recorder { head, ..Recorder::default() };
    for (i, ids) in ids.chunks(piece).enumerate() {
        runner.observe(&mut cache, &rows(sequence, ids, i * piece), Input::Tokens, &mut recorder).unwrap();
    }
    let logits = runner.forward(&mut cache, &rows(sequence, &ids[..1], ids.len()), Input::Tokens).unwrap().to_vec();
    (recorder, logits)
}

#[test]
fn every_product_is_seen_once_with_all_rows() {
    let name = "llama-gqa-F32";
    let ids = &expected(name).ids[..IDS];
    for head in [false, true] {
        let (recorder, _) = observe(name, ids, (2, Isa::best(), IDS), head);
        let mut names = Vec::new();
        for layer in 0..2 {
            for group in [&["attn_q", "attn_k", "attn_v"][..], &["attn_output"], &["ffn_gate", "ffn_up"], &["ffn_down"]]
            {
                names.push(group.iter().map(|part| format!("blk.{layer}.{part}.weight")).collect::<Vec<_>>());
            }
        }
        if head {
            names.push(vec!["output.weight".to_owned()]);
        }
        let file = open_fixture(name);
        let seen: Vec<_> = recorder.seen.iter().map(|(names, _, _)| names.clone()).collect();
        assert_eq!(seen, names);
        for (names, rows, columns) in &recorder.seen {
            assert_eq!(rows.len(), IDS * columns, "{names:?}: all rows, wanted or not");
            for name in names {
                assert_eq!(file.tensor(name).unwrap().info.row_len(), *columns as u64, "{name}");
            }
        }
    }
}

#[test]
fn experts_are_seen_with_the_rows_that_go_to_them() {
    let name = "mixtral-4of2-F32";
    let ids = &expected(name).ids[..IDS];
    let (recorder, _) = observe(name, ids, (2, Isa::best(), IDS), false);
    let numbers = open_model(name).hyperparameters().experts.unwrap();
    let of = |part: &str| -> Vec<_> {
        let begins = format!("blk.0.{part}.weight (");
        recorder.seen.iter().filter(|(names, ..)| names.iter().any(|name| name.starts_with(&begins))).collect()
    };
    for part in ["ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"] {
        let rows: usize = of(part).iter().map(|(_, rows, columns)| rows.len() / columns).sum();
        assert_eq!(rows, IDS * numbers.n_used, "{part}: each row goes to so many experts");
        let names: Vec<&String> = of(part).iter().map(|(names, ..)| &names[0]).collect();
        assert!(names.len() <= numbers.n_experts && names.is_sorted(), "{names:?}");
    }
    // What an expert reads are rows that the router read.
    let router = recorder.seen.iter().find(|(names, ..)| names[0] == "blk.0.ffn_gate_inp.weight").unwrap();
    let read: Vec<&[f32]> = router.1.chunks_exact(router.2).collect();
    assert!(
        of("ffn_up_exps").iter().all(|(_, rows, columns)| rows.chunks_exact(*columns).all(|row| read.contains(&row)))
    );
    // A fused tensor is one tensor, shown once.
    let (recorder, _) =
        observe("phi-window-F32", &ids.iter().map(|id| id % 64).collect::<Vec<_>>(), (1, Isa::best(), IDS), false);
    assert_eq!(recorder.seen[0].0, ["blk.0.attn_qkv.weight"]);
}

#[test]
fn what_is_seen_meets_the_matrix() {
    // The head's input times the head is what the oracle expects as logits.
    for name in ["llama-gqa-F32", "llama-mha-tied-F32"] {
        let oracle = expected(name);
        let (recorder, _) = observe(name, &oracle.ids[..IDS], (2, Isa::best(), IDS), true);
        let (names, inputs, columns) = recorder.seen.last().unwrap();
        assert_eq!(names[0] == "token_embd.weight", name.contains("tied"), "a tied head has the embedding's name");
        let weights = open_fixture(name).tensor(&names[0]).unwrap().to_f32().unwrap();
        for (input, logits) in inputs.chunks_exact(*columns).zip(&oracle.logits) {
            for (weights, expected) in weights.chunks_exact(*columns).zip(logits) {
                let product: f32 = weights.iter().zip(input).map(|(w, x)| w * x).sum();
                assert!((product - expected).abs() <= 1e-3, "{name}: {product}, expected {expected}");
            }
        }
    }
}

#[test]
fn neither_threads_nor_pieces_nor_instruction_sets_change_a_bit() {
    for name in ["qwen2-gqa-F32", "quant-llama-Q8_0", SHIPPED] {
        let ids = if name == SHIPPED { (1..=IDS as u32).collect() } else { expected(name).ids[..IDS].to_vec() };
        let (reference, logits) = observe(name, &ids, (1, Isa::best(), IDS), false);
        for isa in Isa::available() {
            for (threads, piece) in [(1, 7), (3, IDS), (2, 1)] {
                let (recorder, other) = observe(name, &ids, (threads, isa, piece), false);
                assert!(recorder.joined() == reference.joined(), "{name}, {threads} threads, {piece} rows, {isa:?}");
                assert_eq!(other, logits, "{name}");
            }
        }
    }
}

#[test]
fn an_observer_changes_nothing_that_comes_after() {
    let name = "llama-gqa-F32";
    let oracle = expected(name);
    let ids = &oracle.ids[..IDS];
    for head in [false, true] {
        let (_, observed) = observe(name, ids, (2, Isa::best(), 16), head);
        let model = Arc::new(Model::open(Arc::new(open_fixture(name)), &Shard::whole()).unwrap());
        let mut cache = model.new_cache(IDS + 1, KvType::F32);
        let sequence = cache.create();
        let mut runner = Runner::new(model, 2, Isa::best());
        runner.forward(&mut cache, &rows(sequence, ids, 0), Input::Tokens).unwrap();
        let plain = runner.forward(&mut cache, &rows(sequence, &ids[..1], IDS), Input::Tokens).unwrap();
        assert_eq!(observed, plain);
    }
}

#[test]
fn numbers_that_are_not_finite_end_the_pass() {
    let mut parts = support::Parts::fixture("llama-gqa-F32");
    parts.map_f32("blk.1.ffn_down.weight", |i, w| if i == 0 { f32::NAN } else { w });
    let model = Arc::new(Model::open(Arc::new(parts.build()), &Shard::whole()).unwrap());
    let mut cache = model.new_cache(4, KvType::F32);
    let sequence = cache.create();
    let mut runner = Runner::new(model, 1, Isa::best());
    for head in [false, true] {
        let mut recorder = Recorder { head, ..Recorder::default() };
        let error = runner.observe(&mut cache, &rows(sequence, &[1, 2], 0), Input::Tokens, &mut recorder).unwrap_err();
        assert!(error.to_string().contains("blk.1.ffn_down.weight"), "{error}");
        assert_eq!(cache.len(sequence).unwrap(), 0, "the sequence is as it was");
    }
}
