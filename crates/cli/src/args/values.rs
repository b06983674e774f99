//! The values that flags take: each parser says what it wants in words that follow the flag's name.

use hublabio_runtime::ai::quantization::{MIXES, Mix};
use hublabio_runtime::ai::sampling::SamplerStep;
use hublabio_runtime::ai::{AdapterConfig, Architecture, Isa, KvType, LOGPROBS_MAX, read_architecture};

use super::shared::Samplers;

/// A finite number that `valid` accepts.
fn number(text: &str, expected: &str, valid: impl Fn(f32) -> bool) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(value) if value.is_finite() && valid(value) => Ok(value),
        _ => Err(format!("give {expected}")),
    }
}

pub fn temperature(text: &str) -> Result<f32, String> {
    number(text, "a number from 0 to 100", |value| (0.0..=100.0).contains(&value))
}

pub fn top_p(text: &str) -> Result<f32, String> {
    number(text, "a number above 0 and not above 1", |value| value > 0.0 && value <= 1.0)
}

pub fn min_p(text: &str) -> Result<f32, String> {
    number(text, "a number from 0 to 1", |value| (0.0..=1.0).contains(&value))
}

pub fn repeat_penalty(text: &str) -> Result<f32, String> {
    number(text, "a number above 0 and not above 100 (1 is off)", |value| value > 0.0 && value <= 100.0)
}

pub fn additive_penalty(text: &str) -> Result<f32, String> {
    number(text, "a number from -1000000 to 1000000 (0 is off)", |value| value.abs() <= 1e6)
}

pub fn top_n_sigma(text: &str) -> Result<f32, String> {
    number(text, "a number from 0 to 1000 (0 is off)", |value| (0.0..=1000.0).contains(&value))
}

pub fn xtc_threshold(text: &str) -> Result<f32, String> {
    number(text, "a number above 0 and not above 0.5", |value| value > 0.0 && value <= 0.5)
}

pub fn exponent(text: &str) -> Result<f32, String> {
    number(text, "a number above 0 and not above 100", |value| value > 0.0 && value <= 100.0)
}

pub fn dry_multiplier(text: &str) -> Result<f32, String> {
    number(text, "a number from 0 to 1000000 (0 is off)", |value| (0.0..=1e6).contains(&value))
}

pub fn dry_base(text: &str) -> Result<f32, String> {
    number(text, "a number from 1 to 100", |value| (1.0..=100.0).contains(&value))
}

/// llama.cpp's -1 for the whole context.
pub fn last_n(text: &str) -> Result<usize, String> {
    if text == "-1" {
        Ok(usize::MAX)
    } else {
        text.parse().map_err(|_| "give a whole number, or -1 for all".to_owned())
    }
}

pub fn logit_bias(text: &str) -> Result<(u32, f32), String> {
    let parsed = text.split_once('=').and_then(|(id, bias)| {
        let bias = if bias == "-inf" { f32::NEG_INFINITY } else { additive_penalty(bias).ok()? };
        Some((id.parse().ok()?, bias))
    });
    parsed.ok_or_else(|| "give a token id and a number, as in 1234=-2.5, or 1234=-inf".to_owned())
}

pub fn samplers(text: &str) -> Result<Samplers, String> {
    SamplerStep::parse_order(text).map(Samplers).map_err(|error| error.to_string())
}

pub fn logprobs(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(n) if n <= LOGPROBS_MAX => Ok(n),
        _ => Err(format!("give a whole number from 0 to {LOGPROBS_MAX}")),
    }
}

pub fn whole(text: &str) -> Result<usize, String> {
    text.parse().map_err(|_| "give a whole number that is not negative".to_owned())
}

pub fn seed(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("give a whole number from 0 to {}", u64::MAX))
}

pub fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(value) if value >= 1 => Ok(value),
        _ => Err("give a whole number of at least 1".to_owned()),
    }
}

/// A whole number from 1 to `max`.
pub fn up_to(text: &str, max: usize) -> Result<usize, String> {
    match text.parse() {
        Ok(value) if (1..=max).contains(&value) => Ok(value),
        _ => Err(format!("give a whole number from 1 to {max}")),
    }
}

/// The most that a thread team takes.
pub fn threads(text: &str) -> Result<usize, String> {
    up_to(text, 1024)
}

pub fn repeat(text: &str) -> Result<usize, String> {
    up_to(text, 1_000_000)
}

/// A window is scored in its second half, and each token is predicted from one before it.
pub fn window(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(value) if value >= 4 => Ok(value),
        _ => Err("give a whole number of at least 4".to_owned()),
    }
}

/// Files keep the size of a chunk in 32 bits.
pub fn chunk(text: &str) -> Result<usize, String> {
    up_to(text, 1 << 30)
}

pub fn kv(text: &str) -> Result<KvType, String> {
    KvType::by_name(text).ok_or_else(|| "give f16 or f32".to_owned())
}

/// `FILE`, `FILE:0.5`: what follows the last colon is the scale if it is a number.
pub fn lora(text: &str) -> Result<AdapterConfig, String> {
    let parsed = text.rsplit_once(':').and_then(|(path, scale)| Some((path, scale.parse::<f32>().ok()?)));
    let (path, scale) = parsed.filter(|_| !std::path::Path::new(text).exists()).unwrap_or((text, 1.0));
    if path.is_empty() || !scale.is_finite() {
        return Err("give a file, or FILE:SCALE with a number".to_owned());
    }
    Ok(AdapterConfig { path: path.into(), scale })
}

pub fn description(text: &str) -> Result<Architecture, String> {
    read_architecture(std::path::Path::new(text)).map_err(|error| error.to_string())
}

pub fn mix(text: &str) -> Result<&'static Mix, String> {
    Mix::from_name(text).ok_or_else(|| {
        let names: Vec<_> = MIXES.iter().map(|mix| mix.name).collect();
        format!("give one of {}", names.join(", "))
    })
}

/// `2G`, `500M`, `1048576`: powers of 1000, as file sizes are shown.
pub fn byte_count(text: &str) -> Result<u64, String> {
    let (digits, unit) = match text.chars().last().map(|last| last.to_ascii_uppercase()) {
        Some('K') => (&text[..text.len() - 1], 1000),
        Some('M') => (&text[..text.len() - 1], 1_000_000),
        Some('G') => (&text[..text.len() - 1], 1_000_000_000),
        _ => (text, 1),
    };
    match digits.parse::<u64>().ok().and_then(|n| n.checked_mul(unit)) {
        Some(bytes) if bytes > 0 => Ok(bytes),
        _ => Err("give a size such as 2G, 500M or a number of bytes".to_owned()),
    }
}

pub fn isa(text: &str) -> Result<Isa, String> {
    Isa::by_name(text).ok_or_else(|| {
        let names: Vec<_> = Isa::available().into_iter().map(Isa::name).collect();
        format!("this CPU has {}", names.join(", "))
    })
}
