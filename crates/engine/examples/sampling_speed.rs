//! What choosing a token costs: microseconds per token for a vocabulary of 151,936, by settings.
//!
//! ```sh
//! cargo run --release -p hublabio-engine --example sampling_speed
//! ```

use std::time::Instant;

use hublabio_engine::sampling::{Dry, LogProbs, Mirostat, Sampler, SamplingConfig, TokenMask};

/// Qwen's.
const N_VOCAB: usize = 151_936;
const ROUNDS: usize = 200;

/// Sums of four uniform numbers, about as wide as the logits of a language model.
fn logits(seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32
    };
    (0..N_VOCAB).map(|_| (uniform() + uniform() + uniform() + uniform() - 2.0) * 6.0).collect()
}

/// The median of the rounds.
fn median_us(mut round: impl FnMut(usize)) -> f64 {
    let mut times: Vec<f64> = (0..ROUNDS)
        .map(|i| {
            let start = Instant::now();
            round(i);
            start.elapsed().as_secs_f64() * 1e6
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[ROUNDS / 2]
}

fn main() {
    let rows: Vec<Vec<f32>> = (0..8).map(logits).collect();
    let every_third: Vec<u32> = (0..N_VOCAB.div_ceil(32)).map(|i| 0x4924_9249 << (i % 3)).collect();
    let plain = SamplingConfig::plain;
    let dry = Dry { breakers: (0..100).map(|t| vec![t]).collect(), ..Dry::default() };
    let cases = [
        ("greedy", SamplingConfig::greedy(), false),
        ("precise", SamplingConfig::precise(), false),
        ("default", SamplingConfig::default(), false),
        ("creative", SamplingConfig::creative(), false),
        ("default, masked", SamplingConfig::default(), true),
        ("default, penalties", SamplingConfig { repetition_penalty: 1.1, ..SamplingConfig::default() }, false),
        ("default, DRY of 4096", SamplingConfig { dry: Some(dry), ..SamplingConfig::default() }, false),
        ("min-p 0.05 alone", SamplingConfig { min_p: 0.05, ..plain() }, false),
        ("top-n-sigma 1 alone", SamplingConfig { top_n_sigma: 1.0, ..plain() }, false),
        ("top-p 0.9 alone", SamplingConfig { top_p: 0.9, ..plain() }, false),
        ("typical 0.9 alone", SamplingConfig { typical_p: 0.9, ..plain() }, false),
        ("mirostat 2", SamplingConfig { mirostat: Some(Mirostat::default()), ..plain() }, false),
        ("no filter", plain(), false),
    ];
    println!("{N_VOCAB} logits, median of {ROUNDS} tokens");
    for (name, config, masked) in cases {
        let mut sampler = Sampler::new(SamplingConfig { seed: Some(1), ..config }).expect("settings in their ranges");
        (0..4096).for_each(|i| sampler.accept(i * 31 % 257));
        let mask = masked.then(|| TokenMask::new(&every_third));
        let us = median_us(|i| {
            let token = sampler.sample(&rows[i % rows.len()], mask).expect("finite logits");
            sampler.accept(token);
        });
        println!("{name:<22} {us:>8.0} us");
    }
    let us = median_us(|i| {
        std::hint::black_box(LogProbs::of(&rows[i % rows.len()], 7, 20));
    });
    println!("{:<22} {us:>8.0} us", "log probabilities, 20");
}
