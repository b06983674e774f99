//! The promise: the same file and tokens give the same bits, whatever else happens beside them.

mod support;

use std::sync::Arc;

use hublabio_engine::{Input, Isa, KvType, Model, Row, Runner, Shard};
use support::{SHIPPED, Setup, expected, logits, open_fixture, rows};

const FILES: [&str; 19] = [
    SHIPPED,
    "mistral-window-F32",
    "mixtral-window-F32",
    "qwen2moe-shared-F32",
    "qwen3moe-raw-F32",
    "phi-partial-F32",
    "gemma2-caps-F32",
    "gemma3-two-F32",
    "olmo2-gqa-F32",
    "granitemoe-six-F32",
    "stablelm-head-norms-F32",
    "llama-gqa-F32",
    "qwen2-gqa-F16",
    "quant-llama-Q8_0",
    "quant-llama-Q4_0",
    "quant-llama-Q5_0",
    "quant-llama-Q4_K",
    "quant-llama-Q6_K",
    "quant-qwen2-Q4_K",
];

fn bits(logits: &[Vec<f32>]) -> Vec<u32> {
    logits.iter().flatten().map(|x| x.to_bits()).collect()
}

fn ids(name: &str) -> Vec<u32> {
    if name == SHIPPED {
        return (0..96).map(|i| (i * 2_654_435 + 7) % 8192).collect();
    }
    expected(name).ids.into_iter().take(96).collect()
}

#[test]
fn threads_chunks_and_instruction_sets_change_no_bit() {
    println!("instruction sets: {:?}", Isa::available().iter().map(|i| i.name()).collect::<Vec<_>>());
    for name in FILES {
        let ids = ids(name);
        let run = |setup: Setup| bits(&logits(open_fixture(name), &ids, setup).unwrap());
        let first = run(Setup { threads: 1, chunk: 512, ..Setup::default() });
        for threads in [1, 2, 4] {
            for chunk in [1, 7, 512] {
                assert!(
                    run(Setup { threads, chunk, ..Setup::default() }) == first,
                    "{name}: {threads} threads, chunks of {chunk}"
                );
            }
        }
        for isa in Isa::available() {
            assert!(run(Setup { isa, chunk: 33, ..Setup::default() }) == first, "{name} on {}", isa.name());
        }
        for kv in [KvType::F16, KvType::F32] {
            let run = |chunk| run(Setup { kv: Some(kv), chunk, ..Setup::default() });
            assert!(run(5) == run(512), "{name} with {} keys and values", kv.name());
        }
    }
}

#[test]
fn other_sequences_in_the_batch_change_no_bit() {
    for name in FILES {
        let ids = ids(name);
        let alone = bits(&logits(open_fixture(name), &ids, Setup::default()).unwrap());
        let model = Arc::new(Model::open(Arc::new(open_fixture(name)), &Shard::whole()).unwrap());
        let vocab = model.hyperparameters().vocab_size;
        let mut cache = model.new_cache(1024, model.default_kv());
        let mut runner = Runner::new(Arc::clone(&model), 2, Isa::best());
        // Three sequences: ours, one that runs ahead, one that is fed a token at a time, all interleaved. The others have
        // another limit, which decides between two sets of rotary factors.
        let (ours, ahead, slow) = (cache.create_for(ids.len()), cache.create(), cache.create_for(16));
        let (mut got, mut at) = (Vec::new(), 0);
        for (step, n) in [5usize, 1, 1, 20, 3, 1, 40, 25].into_iter().enumerate() {
            let mut batch: Vec<Row> = Vec::new();
            let other = |i: usize| (ids[i % ids.len()] + 1) % vocab as u32;
            let tokens: Vec<u32> = (0..9).map(|i| other(i + 3 * step)).collect();
            batch.extend(rows(ahead, 9 * step, &tokens));
            let mine = rows(ours, at, &ids[at..at + n]);
            let first_of_mine = batch.len();
            batch.extend(&mine);
            batch.extend(rows(slow, step, &[other(step)]));
            let out = runner.forward(&mut cache, &batch, Input::Tokens).unwrap();
            got.extend(out.chunks_exact(vocab).skip(first_of_mine).take(n).map(<[f32]>::to_vec));
            at += n;
        }
        assert_eq!(at, ids.len());
        assert!(bits(&got) == alone, "{name}: neighbours changed a logit");
    }
}

#[test]
fn shared_prefixes_change_no_bit() {
    let name = "quant-llama-Q4_K";
    let ids = ids(name);
    let alone = logits(open_fixture(name), &ids, Setup::default()).unwrap();
    let model = Arc::new(Model::open(Arc::new(open_fixture(name)), &Shard::whole()).unwrap());
    let vocab = model.hyperparameters().vocab_size;
    let mut cache = model.new_cache(1024, model.default_kv());
    let mut runner = Runner::new(Arc::clone(&model), 2, Isa::best());
    let base = cache.create();
    runner.forward(&mut cache, &rows(base, 0, &ids[..50]), Input::Tokens).unwrap();
    let fork = cache.fork(base).unwrap();
    // The original goes elsewhere; the fork continues as if it had been alone.
    runner.forward(&mut cache, &rows(base, 50, &[1, 2, 3]), Input::Tokens).unwrap();
    let out = runner.forward(&mut cache, &rows(fork, 50, &ids[50..]), Input::Tokens).unwrap();
    let got: Vec<Vec<f32>> = out.chunks_exact(vocab).map(<[f32]>::to_vec).collect();
    assert!(bits(&got) == bits(&alone[50..]));
}

#[test]
fn a_model_cut_into_shards_is_the_same_model() {
    for name in ["llama-gqa-F32", "qwen2-gqa-F16", "gemma3-two-F32", "mixtral-window-F32"] {
        let ids = ids(name);
        let whole = bits(&logits(open_fixture(name), &ids, Setup::default()).unwrap());
        let open = |shard: &Shard| Arc::new(Model::open(Arc::new(open_fixture(name)), shard).unwrap());
        let front = open(&Shard::of_layers(0..1));
        let back = open(&Shard::of_layers(1..front.hyperparameters().n_layers));
        let kv = front.default_kv();
        let (mut front_cache, mut back_cache) = (front.new_cache(256, kv), back.new_cache(256, kv));
        let (mut first, mut second) = (Runner::new(front, 2, Isa::best()), Runner::new(back, 1, Isa::best()));
        let (a, b) = (front_cache.create(), back_cache.create());
        let hidden = first.forward(&mut front_cache, &rows(a, 0, &ids), Input::Tokens).unwrap().to_vec();
        let out = second.forward(&mut back_cache, &rows(b, 0, &ids), Input::Hidden(&hidden)).unwrap();
        assert!(out.iter().map(|x| x.to_bits()).eq(whole), "{name}");
    }
}

#[test]
fn unwanted_rows_cost_nothing_and_change_nothing() {
    let name = "quant-qwen2-Q4_K";
    let ids = ids(name);
    let all = logits(open_fixture(name), &ids, Setup::default()).unwrap();
    let model = Arc::new(Model::open(Arc::new(open_fixture(name)), &Shard::whole()).unwrap());
    let mut cache = model.new_cache(256, model.default_kv());
    let mut runner = Runner::new(Arc::clone(&model), 2, Isa::best());
    let sequence = cache.create();
    let mut batch = rows(sequence, 0, &ids);
    batch.iter_mut().for_each(|row| row.wanted = matches!(row.position, 3 | 90));
    let out = runner.forward(&mut cache, &batch, Input::Tokens).unwrap();
    assert!(out.iter().map(|x| x.to_bits()).eq(bits(&[all[3].clone(), all[90].clone()])));
    let n = ids.len();
    batch.iter_mut().for_each(|row| (row.wanted, row.position) = (false, row.position + n as u32));
    assert!(runner.forward(&mut cache, &batch, Input::Tokens).unwrap().is_empty());
}

/// Keys and values of layers with a window are given back on the way, which must not be seen.
#[test]
fn long_sequences_lose_nothing_that_a_window_sees() {
    for name in ["mistral-window-F32", "gemma3-two-F32"] {
        let ids: Vec<u32> = ids(name).into_iter().cycle().take(700).collect();
        let run =
            |chunk, threads| logits(open_fixture(name), &ids, Setup { threads, chunk, ..Setup::default() }).unwrap();
        let whole = bits(&run(700, 1));
        assert!(bits(&run(1, 1)) == whole, "{name}: a token at a time");
        assert!(bits(&run(61, 2)) == whole, "{name}: in chunks");
        let model = Arc::new(Model::open(Arc::new(open_fixture(name)), &Shard::whole()).unwrap());
        let mut cache = model.new_cache(100_000, model.default_kv());
        let mut runner = Runner::new(Arc::clone(&model), 2, Isa::best());
        let sequence = cache.create();
        let mut bytes = Vec::new();
        for (step, chunk) in ids.chunks(50).enumerate() {
            runner.forward(&mut cache, &rows(sequence, 50 * step, chunk), Input::Tokens).unwrap();
            bytes.push(cache.bytes_allocated());
        }
        let grown = |from: usize, to: usize| bytes[to] - bytes[from];
        // Where every layer has a window, memory stops growing; where some have, it grows by the others alone.
        let windowed = model.hyperparameters().layer_windows().flatten().count();
        let share = (model.hyperparameters().n_layers - windowed) as f64 / model.hyperparameters().n_layers as f64;
        assert!(grown(9, 13) as f64 <= grown(0, 4) as f64 * share + 1.0, "{name}: {bytes:?}");
        assert!(windowed > 0);
    }
}
