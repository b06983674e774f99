//! Time that mixing takes for each token, beside reading a model's weights once: `cargo run --release --example
//! mixture_bench -p hublabio-moe`. Logits are noise; each figure is the median of many tokens.

use std::hint::black_box;
use std::time::Instant;

use hublabio_moe::{Mixture, MixtureConfig};

const TOKENS: usize = 300;

fn logits(seed: u32, vocabulary: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_769) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as f32 / u32::MAX as f32
    };
    (0..vocabulary).map(|_| next() * 20.0 - 10.0).collect()
}

/// Median microseconds that mixing and accepting one token take.
fn measure(members: usize, vocabulary: usize) -> f64 {
    let logits: Vec<Vec<f32>> = (0..members).map(|member| logits(member as u32 + 1, vocabulary)).collect();
    let given: Vec<Option<&[f32]>> = logits.iter().map(|logits| Some(logits.as_slice())).collect();
    let config = MixtureConfig { probe_every: 1, active_max: members, ..MixtureConfig::default() };
    let mut mixture = Mixture::new(config, &vec![1.0; members]).expect("the settings are in their ranges");
    let mut times: Vec<f64> = (0..TOKENS)
        .map(|token| {
            let begin = Instant::now();
            black_box(mixture.mix(black_box(&given)));
            mixture.accept(token as u32 % vocabulary as u32);
            begin.elapsed().as_secs_f64() * 1e6
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[TOKENS / 2]
}

fn main() {
    println!("members  vocabulary  µs/token  ns per logit");
    for vocabulary in [8_192, 131_072] {
        for members in [1, 2, 3] {
            let time = measure(members, vocabulary);
            println!(
                "{members:>7}  {vocabulary:>10}  {time:>8.1}  {:>12.2}",
                time * 1e3 / (members * vocabulary) as f64
            );
        }
    }
}
