//! Decoders against the PyPI package `gguf` and llama.cpp, bit for bit. The data is made by `oracle_blocks.py`.

use hublabio_gguf::blocks::{Format, Integers};
use hublabio_gguf::{Error, GgmlType, GgufFile, Importance, decode_row, encode_row, with_format};

/// Blocks that share a hash.
const RUN: usize = 64;

/// The committed fixture, or a larger one named by `HUBLAB_GGUF_BLOCKS`.
fn fixture() -> GgufFile {
    let path = std::env::var_os("HUBLAB_GGUF_BLOCKS").map_or_else(
        || std::path::PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/blocks.gguf")),
        std::path::PathBuf::from,
    );
    GgufFile::open(&path).unwrap()
}

fn fnv1a(weights: &[f32]) -> u64 {
    weights
        .iter()
        .flat_map(|weight| weight.to_le_bytes())
        .fold(0xcbf2_9ce4_8422_2325, |value, byte| (value ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

fn bits(weights: &[f32]) -> Vec<u32> {
    weights.iter().map(|weight| weight.to_bits()).collect()
}

/// The blocks that `oracle_blocks.py` draws: the words of splitmix64 seeded by the type's id, scales made finite.
fn random_blocks(ty: GgmlType, n: usize) -> Vec<u8> {
    let size = ty.block_bytes();
    let word = |i: u64| {
        let z = u64::from(ty.id()).wrapping_add(i.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let mut bytes: Vec<u8> = (1..=(n * size).div_ceil(8) as u64).flat_map(|i| word(i).to_le_bytes()).collect();
    bytes.truncate(n * size);
    for block in bytes.chunks_exact_mut(size) {
        for &at in half_scales(ty) {
            if block[at + 1] & 0x7c == 0x7c {
                block[at + 1] &= 0xbf;
            }
        }
        match ty {
            GgmlType::IQ1_M => block[55] &= 0xbf,
            GgmlType::Q8_K => block[3] &= 0xbf,
            GgmlType::MXFP4 if block[0] >= 252 => block[0] &= 0x7f,
            GgmlType::NVFP4 => {
                for scale in &mut block[..4] {
                    *scale = if *scale & 0x7f == 0x7f { 0 } else { *scale & 0x7f };
                }
            }
            _ => {}
        }
    }
    bytes
}

/// Byte positions of the half-precision scales in a block.
fn half_scales(ty: GgmlType) -> &'static [usize] {
    use GgmlType as T;
    match ty {
        T::Q4_1 | T::Q5_1 | T::Q8_1 | T::Q4_K | T::Q5_K => &[0, 2],
        T::Q2_K => &[80, 82],
        T::Q3_K => &[108],
        T::Q6_K => &[208],
        T::TQ1_0 => &[52],
        T::TQ2_0 => &[64],
        T::Q8_K | T::IQ1_M | T::MXFP4 | T::NVFP4 => &[],
        _ => &[0],
    }
}

#[test]
fn decodes_every_block_format_as_the_oracles_do() {
    let file = fixture();
    let mut checked = 0;
    for &ty in GgmlType::ALL.iter().filter(|ty| ty.block_len() > 1 || matches!(ty, GgmlType::F16 | GgmlType::BF16)) {
        let name = ty.name().to_lowercase();
        let hashes = file.tensor(&format!("{name}.hash")).unwrap();
        let hashes: Vec<u64> =
            hashes.data.chunks_exact(8).map(|bytes| u64::from_le_bytes(bytes.try_into().unwrap())).collect();
        assert!(RUN * hashes.len() >= 10_000, "the fixture is too small");
        let blocks = random_blocks(ty, RUN * hashes.len());
        let mut decoded = vec![0.0; RUN * hashes.len() * ty.block_len()];
        decode_row(ty, &blocks, &mut decoded).unwrap();

        let first = file.tensor(&format!("{name}.first")).unwrap().to_f32().unwrap();
        for (i, (found, expected)) in decoded.iter().zip(&first).enumerate() {
            assert_eq!(found.to_bits(), expected.to_bits(), "{ty} weight {i}: {found}, expected {expected}");
        }
        for (run, (found, &expected)) in decoded.chunks(RUN * ty.block_len()).zip(&hashes).enumerate() {
            assert_eq!(fnv1a(found), expected, "{ty}: a block from {} to {}", RUN * run, RUN * (run + 1));
        }
        checked += 1;
    }
    assert_eq!(checked, file.tensors().iter().filter(|t| t.name.strip_suffix(".hash").is_some()).count());
}

/// The integer form multiplies out to the decoded weights, up to the rounding of that expression.
#[test]
fn the_integer_form_says_the_same() {
    fn check<F: Format>() {
        let (len, size) = (F::TYPE.block_len(), F::TYPE.block_bytes());
        let mut weights = vec![0.0; len];
        let mut parts = vec![Integers::default(); len / 32];
        for block in random_blocks(F::TYPE, 500).chunks_exact(size) {
            F::decode(block, &mut weights);
            F::unpack(block, &mut parts);
            for (i, &weight) in weights.iter().enumerate() {
                let part = &parts[i / 32];
                let half = i % 32 / 16;
                let scaled = f64::from(part.scale) * f64::from(part.steps[half]) * f64::from(part.quants[i % 32]);
                let min = f64::from(part.min_scale) * f64::from(part.mins[half]);
                let allowed = 4.0 * f64::from(f32::EPSILON) * (scaled.abs() + min.abs()) + 1e-37;
                let difference = (scaled + min - f64::from(weight)).abs();
                assert!(difference <= allowed, "{} weight {i}: {weight} is {scaled} + {min}", F::TYPE);
            }
        }
    }
    for &ty in GgmlType::ALL {
        with_format!(ty, F => check::<F>(), else assert_eq!(ty.block_len(), 1, "{ty} has blocks and no decoder"));
    }
}

#[test]
fn decodes_plain_numbers() {
    fn check<const N: usize>(ty: GgmlType, values: &[[u8; N]], expected: &[f32]) {
        let mut decoded = vec![7.0; values.len()];
        decode_row(ty, values.as_flattened(), &mut decoded).unwrap();
        assert_eq!(bits(&decoded), bits(expected), "{ty}");
    }
    let weights = [0.0f32, -0.0, 1.5, f32::MIN_POSITIVE, f32::INFINITY];
    check(GgmlType::F32, &weights.map(f32::to_le_bytes), &weights);
    check(GgmlType::F64, &[1.5f64, -1e300, 0.1].map(f64::to_le_bytes), &[1.5, f32::NEG_INFINITY, 0.1]);
    check(GgmlType::I8, &[-128i8, 127].map(i8::to_le_bytes), &[-128.0, 127.0]);
    check(GgmlType::I16, &[i16::MIN, 5].map(i16::to_le_bytes), &[-32768.0, 5.0]);
    check(GgmlType::I32, &[i32::MIN, 16_777_217].map(i32::to_le_bytes), &[-2_147_483_648.0, 16_777_216.0]);
    check(GgmlType::I64, &[i64::MAX, -1].map(i64::to_le_bytes), &[9_223_372_036_854_775_808.0, -1.0]);
}

#[test]
fn rounds_to_16_bits_as_the_oracle_does() {
    let file = fixture();
    let input = file.tensor("encode.input").unwrap().to_f32().unwrap();
    for ty in [GgmlType::F16, GgmlType::BF16] {
        let expected = file.tensor(&format!("encode.{}", ty.name().to_lowercase())).unwrap();
        let mut packed = vec![7];
        encode_row(ty, &input, None, &mut packed).unwrap();
        assert_eq!(packed[0], 7, "encoding appends");
        assert_eq!(&packed[1..], expected.data, "{ty}");
    }
}

#[test]
fn refuses_rows_that_do_not_fit() {
    let mut out = [0.0; 32];
    for (bytes, weights) in [(17, 32), (19, 32), (18, 31), (0, 32), (18, 0)] {
        let error = decode_row(GgmlType::Q4_0, &vec![0; bytes], &mut out[..weights]).unwrap_err();
        assert!(matches!(error, Error::RowSize { .. }), "{error}");
    }
    decode_row(GgmlType::Q4_0, &[], &mut []).unwrap();
    let error = encode_row(GgmlType::Q8_0, &[0.0; 33], None, &mut Vec::new()).unwrap_err();
    assert!(matches!(error, Error::RowSize { .. }), "{error}");
    let three = Importance::new(&[1.0; 96]).unwrap();
    let error = encode_row(GgmlType::Q8_0, &[0.0; 64], Some(&three), &mut Vec::new()).unwrap_err();
    assert!(matches!(error, Error::ImportanceSize { found: 96, expected: 64 }), "{error}");
}

#[test]
fn every_type_decodes_and_what_is_not_for_weights_is_refused_by_name() {
    use GgmlType as T;
    for &ty in GgmlType::ALL {
        let mut weights = vec![0.0; ty.block_len()];
        decode_row(ty, &vec![0; ty.block_bytes()], &mut weights).unwrap();
        let stored = !matches!(ty, T::Q8_1 | T::Q8_K | T::I8 | T::I16 | T::I32 | T::I64);
        assert_eq!(ty.can_encode(), stored, "{ty}");
        match encode_row(ty, &weights, None, &mut Vec::new()) {
            Ok(()) => assert!(stored),
            Err(error) => assert!(!stored && error.to_string().contains(ty.name()), "{error}"),
        }
    }
}

/// Packed and read back, no block is worse than dropping its weights: zeros stay zeros, and no constant changes its sign.
/// Also near the largest weights that a format takes, and where one column is nearly all that matters.
#[test]
fn packs_edge_cases_sensibly() {
    for &ty in GgmlType::ALL.iter().filter(|ty| ty.can_encode() && ty.block_len() > 1) {
        let n = 2 * ty.block_len();
        let ramp: Vec<f32> = (0..n).map(|i| (i as f32 - n as f32 / 2.0) / n as f32).collect();
        let spike: Vec<f32> = (0..n).map(|i| if i == 5 { 100.0 } else { 0.0 }).collect();
        let tiny: Vec<f32> = ramp.iter().map(|w| w * 1e-30).collect();
        let largest = largest_weight(ty);
        let large: Vec<f32> = ramp.iter().map(|w| w * 2.0 * largest).collect();
        let mut one_large = ramp.clone();
        one_large[n / 2 + 3] = -largest;
        for (name, weights) in [
            ("zeros", vec![0.0; n]),
            ("ones", vec![1.0; n]),
            ("minus ones", vec![-1.0; n]),
            ("ramp", ramp),
            ("spike", spike),
            ("tiny", tiny),
            ("large", large),
            ("one large", one_large),
        ] {
            let importance =
                |value: &dyn Fn(usize) -> f32| Importance::new(&(0..n).map(value).collect::<Vec<f32>>()).unwrap();
            let several = importance(&|i| (i % 7) as f32);
            let one = importance(&|i| if i == 3 { 1e6 } else { 1e-3 });
            let middle = importance(&|i| if i == n / 2 + 1 { 1e6 } else { 1e-3 });
            for importance in [None, Some(&several), Some(&one), Some(&middle)] {
                let (mut packed, mut decoded) = (Vec::new(), vec![0.0; n]);
                encode_row(ty, &weights, importance, &mut packed).unwrap();
                decode_row(ty, &packed, &mut decoded).unwrap();
                let weight = |i: usize| importance.map_or(1.0, |columns| f64::from(columns.values()[i]));
                let sum = |f: &dyn Fn(usize) -> f32| (0..n).map(|i| weight(i) * f64::from(f(i)).powi(2)).sum::<f64>();
                let (error, power) = (sum(&|i| weights[i] - decoded[i]), sum(&|i| weights[i]));
                assert!(error <= power * 1.0001, "{ty} {name}: error {error}, of {power}; {decoded:?}");
            }
        }
    }
}

/// A little below the largest weight of either sign that rounding to the nearest can hold.
fn largest_weight(ty: GgmlType) -> f32 {
    use GgmlType as T;
    let steps = match ty {
        T::MXFP4 => return 12.0 * 2f32.powi(124),
        T::NVFP4 => return 2688.0,
        T::Q8_0 => 127.0,
        T::Q4_0 => 8.0,
        T::Q5_0 => 16.0,
        T::Q2_K => 15.0,
        T::Q3_K => 32.0 * 4.0,
        T::Q4_K | T::Q5_K => 63.0,
        T::Q6_K => 128.0 * 32.0,
        _ => 1.0,
    };
    0.98 * 65_504.0 * steps
}

/// What rounding to the nearest can hold is packed, though a better scale would overflow.
#[test]
fn weights_near_the_limit_are_packed() {
    use GgmlType as T;
    let types = [T::Q4_0, T::Q4_1, T::Q5_0, T::Q5_1, T::Q8_0, T::Q2_K, T::Q3_K, T::Q4_K, T::Q5_K, T::Q6_K];
    for ty in types {
        let n = ty.block_len();
        for share in [0.9, 0.95, 0.98, 0.9999, 1.0] {
            for sign in [1.0, -1.0] {
                let largest = share / 0.98 * sign * largest_weight(ty);
                let spike = |others: f32| -> Vec<f32> {
                    (0..n).map(|i| if i == 5 { largest } else { others * (i as f32 * 0.7).sin() }).collect()
                };
                for weights in [spike(0.0), spike(0.3), spike(largest / 3.0), spike(largest), vec![largest; n]] {
                    let (mut packed, mut decoded) = (Vec::new(), vec![0.0; n]);
                    encode_row(ty, &weights, None, &mut packed)
                        .unwrap_or_else(|error| panic!("{share} {sign}: {error}"));
                    decode_row(ty, &packed, &mut decoded).unwrap();
                    let lost = (decoded[5] / largest - 1.0).abs();
                    // Where others are as large, Q3_K reaches four steps to one side and three to the other.
                    assert!(lost < 0.26, "{ty} {share} {sign}: {} of {largest}", decoded[5]);
                }
            }
        }
    }
}

#[test]
fn block_formats_refuse_weights_they_cannot_hold() {
    for &ty in GgmlType::ALL.iter().filter(|ty| ty.can_encode() && ty.block_len() > 1) {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut weights = vec![1.0; 2 * ty.block_len()];
            let at = ty.block_len() + 9;
            weights[at] = bad;
            let mut out = vec![1, 2, 3];
            let error = encode_row(ty, &weights, None, &mut out).unwrap_err();
            assert!(matches!(error, Error::NotEncodable { index, .. } if index == at), "{ty}: {error}");
            assert_eq!(out, [1, 2, 3], "the output is as it was");
        }
    }
    // Too large for a half-precision scale.
    for ty in [GgmlType::Q8_0, GgmlType::Q4_0] {
        let error = encode_row(ty, &[1e30; 32], None, &mut Vec::new()).unwrap_err();
        assert!(matches!(error, Error::NotEncodable { index: 0, .. }), "{error}");
    }
}
