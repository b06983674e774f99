//! Decoders and encoders against the PyPI package `gguf`, bit for bit. The data is made by `oracle_blocks.py`.

use std::path::PathBuf;

use hublabio_gguf::{Error, GgmlType, GgufFile, decode_row, encode_row};

/// The committed fixture, or a larger one named by `HUBLAB_GGUF_BLOCKS`.
fn fixture() -> GgufFile {
    let path = std::env::var_os("HUBLAB_GGUF_BLOCKS").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/blocks.gguf")),
        PathBuf::from,
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

fn check_decode(ty: GgmlType) {
    let file = fixture();
    let name = ty.name().to_lowercase();
    let blocks = file.tensor(&format!("{name}.blocks")).unwrap();
    let hashes = file.tensor(&format!("{name}.fnv")).unwrap();
    let first = file.tensor(&format!("{name}.first")).unwrap();
    assert_eq!(blocks.info.ty, ty);
    assert!(blocks.info.n_rows() >= 200, "the fixture is too small");

    let first_rows = first.info.n_rows() as usize;
    let expected = first.to_f32().unwrap();
    let mut decoded = vec![0.0; ty.block_len()];
    for row in 0..blocks.info.n_rows() as usize {
        decode_row(ty, blocks.row(row).unwrap(), &mut decoded).unwrap();
        if row < first_rows {
            assert_eq!(bits(&decoded), bits(&expected[row * ty.block_len()..][..ty.block_len()]), "{ty} block {row}");
        }
        let hash = u64::from_le_bytes(hashes.data[8 * row..8 * row + 8].try_into().unwrap());
        assert_eq!(fnv1a(&decoded), hash, "{ty} block {row}: {:?} decodes to {decoded:?}", blocks.row(row).unwrap());
    }

    // The whole tensor in one call is the same as row by row.
    let whole = blocks.to_f32().unwrap();
    assert_eq!(bits(&whole[whole.len() - decoded.len()..]), bits(&decoded));
}

fn check_encode(ty: GgmlType) {
    let file = fixture();
    let input = file.tensor("encode.input").unwrap().to_f32().unwrap();
    let expected = file.tensor(&format!("encode.{}", ty.name().to_lowercase())).unwrap();
    let mut packed = vec![7];
    encode_row(ty, &input, &mut packed).unwrap();
    assert_eq!(packed[0], 7, "encoding appends");
    for (row, (found, expected)) in
        packed[1..].chunks(expected.row_bytes()).zip(expected.data.chunks(expected.row_bytes())).enumerate()
    {
        assert_eq!(found, expected, "{ty} row {row}: {:?}", &input[32 * row..32 * (row + 1)]);
    }
    assert_eq!(packed.len() - 1, expected.data.len());
}

#[test]
fn decodes_f16() {
    check_decode(GgmlType::F16);
}

#[test]
fn decodes_bf16() {
    check_decode(GgmlType::BF16);
}

#[test]
fn decodes_q4_0() {
    check_decode(GgmlType::Q4_0);
}

#[test]
fn decodes_q5_0() {
    check_decode(GgmlType::Q5_0);
}

#[test]
fn decodes_q8_0() {
    check_decode(GgmlType::Q8_0);
}

#[test]
fn decodes_q4_k() {
    check_decode(GgmlType::Q4_K);
}

#[test]
fn decodes_q6_k() {
    check_decode(GgmlType::Q6_K);
}

#[test]
fn decodes_f32() {
    let weights = [0.0f32, -0.0, 1.5, f32::MIN_POSITIVE, f32::INFINITY];
    let bytes: Vec<u8> = weights.iter().flat_map(|weight| weight.to_le_bytes()).collect();
    let mut decoded = [1.0; 5];
    decode_row(GgmlType::F32, &bytes, &mut decoded).unwrap();
    assert_eq!(bits(&decoded), bits(&weights));
}

#[test]
fn encodes_f16() {
    check_encode(GgmlType::F16);
}

#[test]
fn encodes_bf16() {
    check_encode(GgmlType::BF16);
}

#[test]
fn encodes_q8_0() {
    check_encode(GgmlType::Q8_0);
}

#[test]
fn encodes_q4_0() {
    check_encode(GgmlType::Q4_0);
}

#[test]
fn refuses_rows_that_do_not_fit() {
    let mut out = [0.0; 32];
    for (bytes, weights) in [(17, 32), (19, 32), (18, 31), (0, 32), (18, 0)] {
        let error = decode_row(GgmlType::Q4_0, &vec![0; bytes], &mut out[..weights]).unwrap_err();
        assert!(matches!(error, Error::RowSize { .. }), "{error}");
    }
    decode_row(GgmlType::Q4_0, &[], &mut []).unwrap();
    let error = encode_row(GgmlType::Q8_0, &[0.0; 33], &mut Vec::new()).unwrap_err();
    assert!(matches!(error, Error::RowSize { .. }), "{error}");
}

#[test]
fn refuses_types_without_codec_by_name() {
    for &ty in GgmlType::ALL {
        let mut weights = vec![0.0; ty.block_len()];
        let decoded = decode_row(ty, &vec![0; ty.block_bytes()], &mut weights);
        match decoded {
            Ok(()) => assert!(ty.can_decode()),
            Err(error) => assert!(!ty.can_decode() && error.to_string().contains(ty.name()), "{error}"),
        }
        match encode_row(ty, &weights, &mut Vec::new()) {
            Ok(()) => assert!(ty.can_encode()),
            Err(error) => assert!(!ty.can_encode() && error.to_string().contains(ty.name()), "{error}"),
        }
    }
}

#[test]
fn block_formats_refuse_weights_they_cannot_hold() {
    for ty in [GgmlType::Q8_0, GgmlType::Q4_0] {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e30, -1e30] {
            let mut weights = [1.0; 64];
            weights[40] = bad;
            let mut out = vec![1, 2, 3];
            let error = encode_row(ty, &weights, &mut out).unwrap_err();
            assert!(matches!(error, Error::NotEncodable { index: 40, .. }), "{error}");
            assert_eq!(out, [1, 2, 3], "the output is as it was");
        }
    }
}
