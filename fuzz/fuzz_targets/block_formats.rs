//! Every block format on any bytes of any length: decoding, the integer form, and packing what the bytes mean as floats.
#![no_main]

use hublabio_gguf::blocks::{Format, Integers};
use hublabio_gguf::{GgmlType, Importance, decode_row, encode_row, with_format};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&selector, bytes)) = data.split_first() else { return };
    let ty = GgmlType::ALL[usize::from(selector) % GgmlType::ALL.len()];

    let whole = bytes.len() / ty.block_bytes();
    let mut weights = vec![0.0; whole * ty.block_len()];
    let decoded = decode_row(ty, bytes, &mut weights);
    assert_eq!(decoded.is_ok(), bytes.len().is_multiple_of(ty.block_bytes()), "{ty}: {decoded:?}");
    decode_row(ty, &bytes[..whole * ty.block_bytes()], &mut weights).expect("whole blocks of a type that decodes");
    with_format!(ty, F => unpack::<F>(bytes), else ());

    if ty.can_encode() {
        let floats: Vec<f32> = bytes.as_chunks().0.iter().map(|&chunk| f32::from_le_bytes(chunk)).collect();
        // The encoders search: a few blocks are enough.
        let n = floats.len().min(2 * 256) / ty.block_len() * ty.block_len();
        pack(ty, &floats[..n], None);
        let importance = Importance::new(&floats[..n]).ok();
        pack(ty, &floats[..n], importance.as_ref());
    }
});

/// The integer form multiplies out to the decoded weights, wherever those are ordinary numbers.
fn unpack<F: Format>(bytes: &[u8]) {
    let mut parts = vec![Integers::default(); F::TYPE.block_len() / 32];
    let mut weights = vec![0.0f32; F::TYPE.block_len()];
    for block in bytes.chunks_exact(F::TYPE.block_bytes()) {
        F::unpack(block, &mut parts);
        F::decode(block, &mut weights);
        for (i, &weight) in weights.iter().enumerate() {
            let (part, half) = (&parts[i / 32], i % 32 / 16);
            let scaled = f64::from(part.scale) * f64::from(part.steps[half]) * f64::from(part.quants[i % 32]);
            let min = f64::from(part.min_scale) * f64::from(part.mins[half]);
            let allowed = 4.0 * f64::from(f32::EPSILON) * (scaled.abs() + min.abs()) + 1e-37;
            let close = (scaled + min - f64::from(weight)).abs() <= allowed;
            assert!(close || !weight.is_finite(), "{} weight {i}: {weight} is {scaled} + {min}", F::TYPE);
        }
    }
}

/// What was accepted decodes to numbers; what was refused leaves nothing behind.
fn pack(ty: GgmlType, weights: &[f32], importance: Option<&Importance>) {
    let mut packed = Vec::new();
    let mut decoded = vec![0.0; weights.len()];
    match encode_row(ty, weights, importance, &mut packed) {
        Ok(()) => {
            decode_row(ty, &packed, &mut decoded).expect("what was packed decodes");
            assert!(ty.block_len() == 1 || decoded.iter().all(|weight| weight.is_finite()), "{ty}: {weights:?}");
        }
        Err(_) => assert!(packed.is_empty()),
    }
}
