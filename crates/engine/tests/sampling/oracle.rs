//! Equal support, and equal probabilities, for equal logits: `tests/oracles/make_sampling.py` asked the others.

use hublabio_engine::TokenIndex;
use hublabio_engine::sampling::{Dry, DynamicTemperature, Mirostat, Sampler, SamplerStep, SamplingConfig, Xtc};
use serde_json::Value;

/// The rows of `make_sampling.py`.
fn row(seed: u64, n_vocab: usize) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    (0..n_vocab).map(|_| (next() >> 40) as f32 / (1 << 20) as f32 - 8.0).collect()
}

fn float(value: &Value) -> f32 {
    if value.as_str() == Some("-inf") { f32::NEG_INFINITY } else { value.as_f64().unwrap() as f32 }
}

fn index(value: &Value) -> usize {
    value.as_u64().unwrap() as usize
}

fn ids(value: &Value) -> Vec<TokenIndex> {
    value.as_array().unwrap().iter().map(|id| index(id) as TokenIndex).collect()
}

fn config(settings: &Value) -> SamplingConfig {
    let mut c = SamplingConfig { seed: Some(0), ..SamplingConfig::plain() };
    for (name, value) in settings.as_object().unwrap() {
        match name.as_str() {
            "temperature" => c.temperature = float(value),
            "top_k" => c.top_k = index(value),
            "top_p" => c.top_p = float(value),
            "min_p" => c.min_p = float(value),
            "typical_p" => c.typical_p = float(value),
            "top_n_sigma" => c.top_n_sigma = float(value),
            "repetition_penalty" => c.repetition_penalty = float(value),
            "frequency_penalty" => c.frequency_penalty = float(value),
            "presence_penalty" => c.presence_penalty = float(value),
            "penalty_window" => c.penalty_window = index(value),
            "min_keep" => c.min_keep = index(value),
            "order" => c.order = SamplerStep::parse_order(value.as_str().unwrap()).unwrap(),
            "xtc" => c.xtc = Some(Xtc { probability: float(&value[0]), threshold: float(&value[1]) }),
            "dynamic" => {
                c.dynamic_temperature = Some(DynamicTemperature { range: float(&value[0]), exponent: float(&value[1]) })
            }
            "mirostat" => c.mirostat = Some(Mirostat { target: float(&value[0]), rate: float(&value[1]) }),
            "logit_bias" => {
                let biases = value.as_array().unwrap().iter();
                c.logit_bias = biases.map(|b| (index(&b[0]) as TokenIndex, float(&b[1]))).collect();
            }
            "dry" => {
                c.dry = Some(Dry {
                    multiplier: float(&value[0]),
                    base: float(&value[1]),
                    allowed_length: index(&value[2]),
                    range: Some(index(&value[3])),
                    breakers: value[4].as_array().unwrap().iter().map(ids).collect(),
                })
            }
            other => panic!("the fixture has a setting `{other}` that this test does not know"),
        }
    }
    c
}

/// Whether both have the same tokens with the same probabilities.
fn same(found: &[(TokenIndex, f32)], expected: &Value, tolerance: f64) -> Result<(), String> {
    let mut found = found.to_vec();
    found.sort_unstable_by_key(|f| f.0);
    let expected = expected.as_array().unwrap();
    let tokens: Vec<_> = expected.iter().map(|e| index(&e[0]) as TokenIndex).collect();
    let found_tokens: Vec<_> = found.iter().map(|f| f.0).collect();
    if found_tokens != tokens {
        return Err(format!("{found_tokens:?} are left, not {tokens:?}"));
    }
    for (f, e) in found.iter().zip(expected) {
        let e = e[1].as_f64().unwrap();
        if (f64::from(f.1) - e).abs() > tolerance {
            return Err(format!("token {} has {}, not {e}", f.0, f.1));
        }
    }
    Ok(())
}

#[test]
fn others_leave_the_same_tokens_with_the_same_probabilities() {
    let fixture: Value =
        serde_json::from_str(include_str!("../../../../tests/oracles/fixtures/sampling.json")).unwrap();
    let n_vocab = index(&fixture["n_vocab"]);
    let (mut n_rows, mut refused) = (0, 0);
    let cases = fixture["cases"].as_array().unwrap();
    for (i, case) in cases.iter().enumerate().filter(|(_, c)| c["settings"].get("mirostat").is_none()) {
        // llama.cpp computes in single precision.
        let tolerance = if case["oracle"] == "transformers" { 1e-6 } else { 4e-6 };
        let history = ids(&case["history"]);
        let possible = |settings: &Value, seed: &Value| {
            let mut sampler = Sampler::new(config(settings)).unwrap();
            history.iter().for_each(|&token| sampler.accept(token));
            sampler.probabilities(&row(seed.as_u64().unwrap(), n_vocab), None).unwrap()
        };
        for r in case["rows"].as_array().unwrap() {
            same(&possible(&case["settings"], &r[0]), &r[1], tolerance)
                .unwrap_or_else(|problem| panic!("{}, seed {}: {problem}", case["name"], r[0]));
            n_rows += 1;
            // And this comparison can fail: the settings of the next case do not pass for these.
            let other = &cases[(i + 1) % cases.len()]["settings"];
            refused += usize::from(same(&possible(other, &r[0]), &r[1], tolerance).is_err());
        }
    }
    assert!(n_rows > 200, "{n_rows}");
    // A few cases are neighbours of others that leave the same, such as XTC where no two tokens are likely enough.
    assert!(refused * 100 > n_rows * 85, "{refused} of {n_rows}");
}

/// Mirostat's limit depends on what was drawn before: our draws are repeated with other seeds until they are those of
/// llama.cpp, then what is left for the next token has to be the same.
#[test]
fn mirostat_moves_its_limit_as_llama_cpp_does() {
    let fixture: Value =
        serde_json::from_str(include_str!("../../../../tests/oracles/fixtures/sampling.json")).unwrap();
    let n_vocab = index(&fixture["n_vocab"]);
    let mut n = 0;
    for case in fixture["cases"].as_array().unwrap() {
        if case["settings"].get("mirostat").is_none() {
            continue;
        }
        let rows: Vec<_> = case["rows"].as_array().unwrap().iter().collect();
        let logits: Vec<_> = rows.iter().map(|r| row(r[0].as_u64().unwrap(), n_vocab)).collect();
        let found = (0..1_000_000).find_map(|seed| {
            let mut sampler = Sampler::new(SamplingConfig { seed: Some(seed), ..config(&case["settings"]) }).unwrap();
            let mut left = Vec::new();
            for (r, logits) in rows.iter().zip(&logits) {
                left.push(sampler.clone());
                if sampler.sample(logits, None).unwrap() as u64 != r[2].as_u64().unwrap() {
                    return None;
                }
            }
            Some(left)
        });
        for ((mut sampler, r), logits) in found.expect("a seed with these draws").into_iter().zip(&rows).zip(&logits) {
            same(&sampler.probabilities(logits, None).unwrap(), &r[1], 4e-6)
                .unwrap_or_else(|problem| panic!("{}, seed {}: {problem}", case["name"], r[0]));
            n += 1;
        }
    }
    assert_eq!(n, 36);
}
