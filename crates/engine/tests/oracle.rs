//! The graphs against `transformers`, and the quantized products against llama.cpp's. The fixtures and the
//! scripts that made them are in `tests/oracles`; nothing of them was computed by this project.

mod support;

use support::{
    Expected, Setup, expected, expected_states, fixture_names, is_encoder, logits, max_difference, open_fixture,
};

/// Largest difference of a logit (they have σ = 4) in the F32 graphs.
const TOLERANCE: f32 = 1e-3;

#[test]
fn single_precision_graphs_equal_transformers() {
    let mut failed = Vec::new();
    for name in fixture_names("-F32").into_iter().filter(|name| !is_encoder(name)) {
        let Expected { ids, logits: expected } = expected(&name);
        assert!(ids.len() >= 96);
        match logits(open_fixture(&name), &ids, Setup::default()) {
            Ok(ours) => {
                let difference = max_difference(&ours, &expected);
                println!("{name}: largest difference {difference:.2e} over {} positions", ids.len());
                if difference.is_nan() || difference > TOLERANCE {
                    failed.push(name);
                }
            }
            Err(error) => {
                println!("{name}: {error}");
                failed.push(name);
            }
        }
    }
    assert!(failed.is_empty(), "these differ: {failed:?}");
}

/// The states of all tokens; `crates/runtime/tests/embeddings.rs` checks what they are pooled to.
#[test]
fn encoders_equal_transformers() {
    let names: Vec<String> = fixture_names("-F32").into_iter().filter(|name| is_encoder(name)).collect();
    assert!(names.len() >= 4);
    for name in names {
        let (ids, expected) = expected_states(&name);
        let difference = max_difference(&logits(open_fixture(&name), &ids, one_piece()).unwrap(), &expected);
        println!("{name}: largest difference {difference:.2e} over {} tokens", ids.len());
        assert!(difference <= TOLERANCE, "{name}: {difference}");
    }
}

/// An encoder's text goes through at once.
fn one_piece() -> Setup {
    Setup { chunk: usize::MAX, ..Setup::default() }
}

fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&x| f64::from(x - max).exp()).sum();
    logits.iter().map(|&x| f64::from(x - max) - sum.ln()).collect()
}

fn kl(reference: &[f32], other: &[f32]) -> f64 {
    let (p, q) = (log_softmax(reference), log_softmax(other));
    p.iter().zip(q).map(|(&p, q)| p.exp() * (p - q)).sum()
}

fn best_two(logits: &[f32]) -> (usize, f32) {
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
    (order[0], logits[order[0]] - logits[order[1]])
}

/// The reference is the F32 graph on the decoded weights. Rounding activations to 8 bits costs a little;
/// it must not cost more than it costs llama.cpp on the same file.
#[test]
fn quantized_files_are_as_close_to_their_weights_as_llama_cpp() {
    let table: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(support::fixtures().join("quant.json")).unwrap()).unwrap();
    let files = table["files"].as_object().unwrap();
    assert!(files.len() >= 8);
    for (name, figures) in files {
        let Expected { ids, logits: reference } = expected(name);
        let ours = logits(open_fixture(name), &ids, Setup::default()).unwrap();
        let n = reference.len() as f64;
        let kl_mean = reference.iter().zip(&ours).map(|(r, o)| kl(r, o)).sum::<f64>() / n;
        let theirs = figures["llama_cpp"]["default"]["kl_mean"].as_f64().unwrap();
        println!("{name}: KL {kl_mean:.3e}, llama.cpp {theirs:.3e}, ratio {:.3}", kl_mean / theirs);
        assert!(kl_mean <= 1.1 * theirs, "{name}: KL {kl_mean:e}, llama.cpp {theirs:e}");

        let squares: f64 =
            reference.iter().flatten().zip(ours.iter().flatten()).map(|(r, o)| f64::from(r - o).powi(2)).sum();
        let rms = (squares / (n * reference[0].len() as f64)).sqrt();
        for (i, (r, o)) in reference.iter().zip(&ours).enumerate() {
            let (token, margin) = best_two(r);
            assert!(
                f64::from(margin) <= 5.0 * rms || best_two(o).0 == token,
                "{name}: position {i} chose another token"
            );
        }
    }
}
