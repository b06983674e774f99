//! The reader on a file that the PyPI package `gguf` made (`oracle_files.py`) and on damaged files.

use std::path::Path;

use hublabio_gguf::{Array, Error, GgmlType, GgufFile, Value, Writer, decode_row};

const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/all-types.gguf");

fn open(bytes: Vec<u8>) -> Result<GgufFile, Error> {
    GgufFile::from_vec(bytes)
}

/// A file of the given version built by hand: metadata entries and tensor descriptions as raw bytes, then data.
fn raw_file(version: u32, entries: &[Vec<u8>], tensors: &[Vec<u8>], data_bytes: usize) -> Vec<u8> {
    let mut out = b"GGUF".to_vec();
    out.extend(version.to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((entries.len() as u64).to_le_bytes());
    for part in entries.iter().chain(tensors) {
        out.extend(part);
    }
    out.resize(out.len().next_multiple_of(32), 0);
    out.resize(out.len() + data_bytes, 0);
    out
}

fn raw_string(text: &[u8]) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text].concat()
}

fn raw_entry(key: &str, kind: u32, value: &[u8]) -> Vec<u8> {
    [&raw_string(key.as_bytes()), &kind.to_le_bytes()[..], value].concat()
}

fn raw_tensor(name: &str, dims: &[u64], ty: u32, offset: u64) -> Vec<u8> {
    let mut out = raw_string(name.as_bytes());
    out.extend((dims.len() as u32).to_le_bytes());
    for dim in dims {
        out.extend(dim.to_le_bytes());
    }
    out.extend(ty.to_le_bytes());
    out.extend(offset.to_le_bytes());
    out
}

/// The file must be refused with a message that contains every one of `words`.
#[track_caller]
fn refused(bytes: Vec<u8>, words: &[&str]) {
    let message = open(bytes).expect_err("must be refused").to_string();
    for word in words {
        assert!(message.contains(word), "{word:?} is not in: {message}");
    }
}

#[track_caller]
fn tensor_refused(tensor: Vec<u8>, words: &[&str]) {
    refused(raw_file(3, &[], &[tensor], 64), words);
}

#[test]
fn reads_every_metadata_type() {
    let file = GgufFile::open(Path::new(FIXTURE)).unwrap();
    assert_eq!((file.version(), file.alignment(), file.parts().len()), (3, 64, 1));
    assert_eq!(file.path(), Some(Path::new(FIXTURE)));
    assert_eq!(file.total_bytes(), std::fs::metadata(FIXTURE).unwrap().len());

    let text = |items: &[&str]| items.iter().map(|&item| item.to_owned()).collect::<Vec<_>>();
    let expected: Vec<(&str, Value)> = vec![
        ("general.architecture", "fixture".into()),
        ("general.alignment", 64u32.into()),
        ("t.u8", 200u8.into()),
        ("t.i8", (-100i8).into()),
        ("t.u16", 60000u16.into()),
        ("t.i16", (-30000i16).into()),
        ("t.u32", 4_000_000_000u32.into()),
        ("t.i32", (-2_000_000_000i32).into()),
        ("t.f32", 0.1f32.into()),
        ("t.bool", true.into()),
        ("t.string", "▁grüß Gott\n\0 🦀".into()),
        ("t.u64", ((1u64 << 63) + 1).into()),
        ("t.i64", i64::MIN.into()),
        ("t.f64", 0.1f64.into()),
        ("a.u8", vec![0u8, 255].into()),
        ("a.i8", vec![-128i8, 127].into()),
        ("a.u16", vec![65535u16].into()),
        ("a.i16", vec![-32768i16, 1, 2].into()),
        ("a.u32", vec![1u32, u32::MAX].into()),
        ("a.i32", vec![-1i32, 7].into()),
        ("a.f32", vec![1.5f32, -0.25].into()),
        ("a.bool", vec![true, false, true].into()),
        ("a.string", text(&["", "a", "Ġthe", "日本"]).into()),
        ("a.u64", vec![u64::MAX].into()),
        ("a.i64", vec![i64::MIN].into()),
        ("a.f64", vec![1e300f64].into()),
        ("a.nested", vec![Array::I32(vec![1, 2]), Array::I32(vec![3])].into()),
        (
            "a.mixed",
            vec![
                Array::String(text(&["x", "y"])),
                Array::Array(vec![Array::F32(vec![0.5]), Array::Bool(vec![true, false])]),
            ]
            .into(),
        ),
    ];
    let found: Vec<(&str, Value)> = file.metadata().iter().map(|(key, value)| (key, value.clone())).collect();
    assert_eq!(found, expected);
}

#[test]
fn reads_tensors() {
    let file = GgufFile::open(Path::new(FIXTURE)).unwrap();
    let scalar = file.tensor("scalar").unwrap();
    assert_eq!((scalar.info.dims.as_slice(), scalar.info.n_elements(), scalar.info.n_rows()), (&[][..], 1, 1));
    assert_eq!(scalar.to_f32().unwrap(), [2.5]);
    assert_eq!(file.tensor("vector").unwrap().to_f32().unwrap(), [0.0, 1.0, 2.0, 3.0, 4.0]);

    let four = file.tensor("four").unwrap();
    assert_eq!((four.info.dims.as_slice(), four.info.ty), (&[4, 1, 3, 2][..], GgmlType::I16));
    assert_eq!((four.info.row_len(), four.info.n_rows(), four.info.n_bytes()), (4, 6, 48));
    assert_eq!(four.row(5).unwrap(), [20, 0, 21, 0, 22, 0, 23, 0]);
    assert_eq!(four.row(6), None);
    assert_eq!(four.to_f32().unwrap()[20..], [20.0, 21.0, 22.0, 23.0]);

    let order: Vec<&str> = file.tensors().iter().map(|info| info.name.as_str()).collect();
    assert_eq!(order, ["scalar", "vector", "four", "w.f16", "w.bf16", "w.q8_0", "w.q4_0", "w.q5_0", "w.q4_1"]);
    assert!(file.tensors().iter().all(|info| info.file_offset().is_multiple_of(64)));
    assert!(file.tensor("w").is_none());
    assert_eq!(file.tensor_at(2).unwrap().data, four.data);
    assert!(file.tensor_at(9).is_none());

    // What the fixture's script quantized, within half a quantization step of each type.
    for (name, tolerance) in [("w.f16", 0.0), ("w.bf16", 0.02), ("w.q8_0", 0.03), ("w.q4_0", 0.72), ("w.q5_0", 0.36)] {
        let view = file.tensor(name).unwrap();
        let mut row = [0.0; 64];
        for r in 0..3 {
            decode_row(view.info.ty, view.row(r).unwrap(), &mut row).unwrap();
            for (i, weight) in row.iter().enumerate() {
                let expected = ((r * 64 + i) as f32 - 90.0) / 16.0;
                assert!((weight - expected).abs() <= tolerance, "{name} [{r}, {i}]: {weight}, expected {expected}");
            }
        }
    }
}

#[test]
fn a_file_in_memory_reads_like_the_mapped_one() {
    let mapped = GgufFile::open(Path::new(FIXTURE)).unwrap();
    let owned = open(std::fs::read(FIXTURE).unwrap()).unwrap();
    let fixed = GgufFile::from_static(include_bytes!("fixtures/all-types.gguf")).unwrap();
    for other in [&owned, &fixed] {
        assert_eq!(other.path(), None);
        assert_eq!(other.metadata(), mapped.metadata());
        assert_eq!(other.tensors(), mapped.tensors());
        assert!(other.views().zip(mapped.views()).all(|(a, b)| a.data == b.data));
    }
}

#[test]
fn models_can_be_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<GgufFile>();
}

#[test]
fn reads_version_2() {
    let entries = [raw_entry("t.answer", 4, &42u32.to_le_bytes())];
    let file = open(raw_file(2, &entries, &[raw_tensor("w", &[4, 2], 0, 32)], 64)).unwrap();
    assert_eq!((file.version(), file.metadata().u32("t.answer").unwrap()), (2, Some(42)));
    assert_eq!(file.tensor("w").unwrap().data.len(), 32);
}

#[test]
fn a_vocabulary_without_tensors_needs_no_padding() {
    let mut bytes = raw_file(3, &[raw_entry("k", 0, &[7])], &[], 0);
    bytes.truncate(24 + 8 + 1 + 4 + 1);
    assert_eq!(open(bytes).unwrap().metadata().u32("k").unwrap(), Some(7));
}

#[test]
fn refuses_what_is_not_gguf() {
    refused(Vec::new(), &["not a GGUF file"]);
    refused(b"GG".to_vec(), &["not a GGUF file", "GG"]);
    refused(b"PK\x03\x04 a zip archive".to_vec(), &["not a GGUF file", "PK\\x03\\x04", "check"]);
    refused(b"ggml\x01\0\0\0".to_vec(), &["not a GGUF file", "ggml"]);
}

#[test]
fn refuses_other_versions_by_name() {
    let version = |version: u32| raw_file(version, &[], &[], 0);
    refused(version(1), &["version 1", "convert"]);
    refused(version(0), &["version 0"]);
    refused(version(4), &["version 4", "update"]);
    refused(version(3u32.swap_bytes()), &["big-endian", "version 3", "little-endian"]);
    refused(version(2u32.swap_bytes()), &["big-endian", "version 2"]);
    let mut swapped = version(3u32.swap_bytes());
    swapped[..4].reverse();
    refused(swapped, &["big-endian"]);
}

#[test]
fn refuses_types_by_name() {
    for (id, words) in [
        (4, ["Q4_2", "removed"]),
        (5, ["Q4_3", "removed"]),
        (31, ["Q4_0_4_4", "removed"]),
        (32, ["Q4_0_4_8", "removed"]),
        (33, ["Q4_0_8_8", "removed"]),
        (36, ["IQ4_NL_4_4", "I2_S"]),
        (37, ["IQ4_NL_4_8", "removed"]),
        (38, ["IQ4_NL_8_8", "removed"]),
        (137, ["IQ2_K", "ik_llama.cpp"]),
        (212, ["Q4_K_R4", "ik_llama.cpp"]),
        (399, ["Q8_K_R8", "ik_llama.cpp"]),
        (43, ["unknown", "newer"]),
        (u32::MAX, ["unknown", "4294967295"]),
    ] {
        tensor_refused(raw_tensor("blk.0.w", &[256], id, 0), &[&["tensor `blk.0.w`"], &words[..]].concat());
    }
}

#[test]
fn refuses_impossible_tensors() {
    tensor_refused(raw_tensor("w", &[33], 2, 0), &["`w`", "33 weights", "Q4_0"]);
    tensor_refused(raw_tensor("w", &[16, 2], 8, 0), &["16 weights", "Q8_0 blocks of 32"]);
    tensor_refused(raw_tensor("w", &[4, 0], 0, 0), &["empty dimension"]);
    tensor_refused(raw_tensor("w", &[1; 5], 0, 0), &["5 dimensions"]);
    tensor_refused(raw_tensor("w", &[1 << 32, 1 << 32], 0, 0), &["too large"]);
    tensor_refused(raw_tensor("w", &[u64::MAX - 255], 12, 0), &["too large"]);
    tensor_refused(raw_tensor("w", &[1 << 40], 24, 0), &["beyond the file"]);
    tensor_refused(raw_tensor("w", &[4], 0, 16), &["offset 16", "alignment 32"]);
    tensor_refused(raw_tensor("w", &[4], 0, 64), &["beyond the file"]);
    tensor_refused(raw_tensor("w", &[17], 0, 0), &["beyond the file"]);
    tensor_refused(raw_tensor("w", &[4], 0, u64::MAX - 31), &["beyond the file"]);
    tensor_refused(raw_tensor("", &[4], 0, 0), &["name of 0 bytes"]);
    tensor_refused(raw_tensor(&"n".repeat(65), &[4], 0, 0), &["name of 65 bytes"]);
    open(raw_file(3, &[], &[raw_tensor(&"n".repeat(64), &[4], 0, 0)], 64)).unwrap();
}

#[test]
fn refuses_tensors_that_share_bytes_or_names() {
    let overlapping = [raw_tensor("b", &[4], 0, 32), raw_tensor("a", &[9], 0, 0)];
    refused(raw_file(3, &[], &overlapping, 128), &["`a`", "overlap", "`b`"]);
    let equal = [raw_tensor("a", &[8], 0, 0), raw_tensor("b", &[8], 0, 0)];
    refused(raw_file(3, &[], &equal, 128), &["overlap"]);
    let named = [raw_tensor("a", &[4], 0, 0), raw_tensor("b", &[4], 0, 32), raw_tensor("a", &[4], 0, 64)];
    refused(raw_file(3, &[], &named, 128), &["`a` appears twice"]);
    let apart = [raw_tensor("b", &[8], 0, 32), raw_tensor("a", &[8], 0, 0)];
    open(raw_file(3, &[], &apart, 64)).unwrap();
}

#[test]
fn refuses_impossible_metadata() {
    let one = |entry: Vec<u8>| raw_file(3, &[entry], &[], 0);
    refused(one(raw_entry("k", 13, &[0; 16])), &["`k`", "value type 13"]);
    refused(one(raw_entry("k", 7, &[2])), &["`k`", "bool is 2"]);
    refused(one(raw_entry("k", 8, &raw_string(b"a\xff"))), &["`k`", "not UTF-8"]);
    refused(one(raw_entry("", 0, &[0; 16])), &["key of 0 bytes"]);
    refused(one(raw_entry(&"k".repeat(1 << 16), 0, &[0; 16])), &["key of 65536 bytes"]);
    let twice = [raw_entry("k", 0, &[1]), raw_entry("k", 0, &[1])];
    refused(raw_file(3, &twice, &[], 0), &["`k` appears twice"]);
    for alignment in [0u32, 1, 12, 33, 1 << 31] {
        refused(
            one(raw_entry("general.alignment", 4, &alignment.to_le_bytes())),
            &["general.alignment", "multiple of 8"],
        );
    }
    refused(one(raw_entry("general.alignment", 8, &raw_string(b"32"))), &["general.alignment", "string"]);
}

/// Counts that would need terabytes must be refused before anything is reserved for them.
#[test]
fn refuses_huge_counts() {
    let with_counts = |n_tensors: u64, n_entries: u64| {
        let mut bytes = raw_file(3, &[], &[], 1 << 16);
        bytes[8..16].copy_from_slice(&n_tensors.to_le_bytes());
        bytes[16..24].copy_from_slice(&n_entries.to_le_bytes());
        bytes
    };
    for huge in [u64::MAX, 1 << 62, 1 << 40, 1 << 20] {
        refused(with_counts(huge, 0), &["tensors", "cannot fit"]);
        refused(with_counts(0, huge), &["metadata entries", "cannot fit"]);
        refused(raw_file(3, &[raw_entry("k", 8, &huge.to_le_bytes())], &[], 0), &["truncated", "`k`"]);
        for kind in 0..13u32 {
            let array = [&kind.to_le_bytes()[..], &huge.to_le_bytes()].concat();
            refused(raw_file(3, &[raw_entry("k", 9, &array)], &[], 1000), &["`k`", "cannot fit"]);
        }
    }
}

#[test]
fn refuses_deep_nesting() {
    let nested = |depth: usize| {
        let mut array = Vec::new();
        for _ in 1..depth {
            array.extend(9u32.to_le_bytes());
            array.extend(1u64.to_le_bytes());
        }
        array.extend(0u32.to_le_bytes());
        array.extend(1u64.to_le_bytes());
        array.push(5);
        raw_file(3, &[raw_entry("k", 9, &array)], &[], 0)
    };
    open(nested(4)).unwrap();
    refused(nested(5), &["nested deeper"]);
    refused(nested(100_000), &["nested deeper"]);
}

/// A file with everything in it, small enough to damage at every byte.
fn small_file() -> Vec<u8> {
    let mut writer = Writer::new();
    let metadata = writer.metadata_mut();
    metadata.insert("general.architecture", "llama");
    metadata.insert("tokens", vec!["<s>".to_owned(), "a".to_owned()]);
    metadata.insert("scores", vec![0.5f32, 1.5]);
    metadata.insert("nested", vec![Array::U8(vec![1]), Array::Bool(vec![true])]);
    metadata.insert("flag", false);
    writer.add_tensor("a", &[4, 2], GgmlType::F32).unwrap();
    writer.add_tensor("b", &[32], GgmlType::Q4_0).unwrap();
    writer.to_bytes([&[1; 32][..], &[2; 18]]).unwrap()
}

#[test]
fn every_truncation_is_an_error() {
    let whole = small_file();
    let file = open(whole.clone()).unwrap();
    let needed = file.tensor("b").unwrap().info.file_offset() as usize + 18;
    for length in 0..needed {
        assert!(open(whole[..length].to_vec()).is_err(), "cut to {length} bytes");
    }
    // Only the padding behind the last tensor may be missing.
    for length in needed..=whole.len() {
        open(whole[..length].to_vec()).unwrap();
    }
}

#[test]
fn every_bit_flip_is_read_or_refused() {
    let whole = small_file();
    let mut opened = 0;
    for at in 0..whole.len() {
        for bit in 0..8 {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << bit;
            let Ok(file) = open(bytes) else { continue };
            opened += 1;
            for view in file.views() {
                assert_eq!(view.data.len() as u64, view.info.n_bytes());
                let _ = view.to_f32();
            }
            let _ = file.metadata().iter().map(|(key, value)| key.len() + value.to_string().len()).sum::<usize>();
        }
    }
    assert!(opened > 500, "flips in names, values and weights leave a readable file: {opened}");
}

#[test]
fn errors_of_the_system_name_the_file() {
    let folder = std::env::temp_dir().join(format!("hublab-gguf-reader-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let missing = folder.join("none.gguf");
    let message = GgufFile::open(&missing).unwrap_err().to_string();
    assert!(message.contains("cannot open") && message.contains("none.gguf"), "{message}");
    let message = GgufFile::open(&folder).unwrap_err().to_string();
    assert!(message.contains("not a regular file"), "{message}");
    let empty = folder.join("empty.gguf");
    std::fs::write(&empty, b"").unwrap();
    let message = GgufFile::open(&empty).unwrap_err().to_string();
    assert!(message.contains("empty.gguf: not a GGUF file"), "{message}");
    let cut = folder.join("cut.gguf");
    std::fs::write(&cut, &small_file()[..100]).unwrap();
    let message = GgufFile::open(&cut).unwrap_err().to_string();
    assert!(message.contains("cut.gguf: ") && message.contains("byte"), "{message}");
    std::fs::remove_dir_all(&folder).unwrap();
}
