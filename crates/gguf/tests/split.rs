//! Models in several files: those of the PyPI package `gguf` (`oracle_files.py`), our own, and sets that do not fit together.

use std::path::{Path, PathBuf};

use hublabio_gguf::{Error, GgmlType, GgufFile, Head, SplitLimit, TensorInfo, Value, Writer, split_file_name};

fn fixture(part: usize) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(split_file_name("split", part, 3))
}

/// A folder of its own for each test, with a copy of the fixture's parts; removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(test: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("hublab-gguf-split-{test}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        for part in 0..3 {
            std::fs::copy(fixture(part), folder.join(split_file_name("split", part, 3))).unwrap();
        }
        Self(folder)
    }

    fn part(&self, part: usize) -> PathBuf {
        self.0.join(split_file_name("split", part, 3))
    }

    #[track_caller]
    fn refused(&self, part: usize, words: &[&str]) {
        let message = GgufFile::open(&self.part(part)).expect_err("must be refused").to_string();
        for word in words {
            assert!(message.contains(word), "{word:?} is not in: {message}");
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A part with the given split keys, one tensor, and one entry more.
fn write_part(path: &Path, keys: [Option<u64>; 3], tensor: &str, extra: (&str, Value)) {
    let mut writer = Writer::new();
    for (key, value) in ["split.no", "split.count", "split.tensors.count"].into_iter().zip(keys) {
        if let Some(value) = value {
            writer.metadata_mut().insert(key, value);
        }
    }
    writer.metadata_mut().insert(extra.0, extra.1);
    writer.add_tensor(tensor, &[1], GgmlType::F32).unwrap();
    std::fs::write(path, writer.to_bytes([&[0; 4][..]]).unwrap()).unwrap();
}

#[test]
fn any_part_opens_the_whole() {
    for opened in 0..3 {
        let file = GgufFile::open(&fixture(opened)).unwrap();
        assert_eq!(file.path(), Some(fixture(0).as_path()));
        assert_eq!(file.parts().iter().map(hublabio_gguf::Part::n_tensors).collect::<Vec<_>>(), [2, 2, 1]);
        assert_eq!(file.parts()[2].path(), Some(fixture(2).as_path()));
        let sizes: u64 = (0..3).map(|part| std::fs::metadata(fixture(part)).unwrap().len()).sum();
        assert_eq!(file.total_bytes(), sizes);
        assert_eq!(file.metadata().u32("fixture.answer").unwrap(), Some(42));
        assert!(!file.metadata().contains("split.count"), "the joined model is not split");
        let names: Vec<&str> = file.tensors().iter().map(|info| info.name.as_str()).collect();
        assert_eq!(names, ["t.0", "t.1", "t.2", "t.3", "t.4"]);
        for i in 0..5u16 {
            let view = file.tensor(&format!("t.{i}")).unwrap();
            assert_eq!(view.info.part(), usize::from(i) / 2);
            assert_eq!(view.to_f32().unwrap(), vec![f32::from(i); 3 + usize::from(i)]);
        }
    }
}

#[test]
fn writes_the_same_parts() {
    let file = GgufFile::open(&fixture(0)).unwrap();
    let mut writer = Writer::with_metadata(file.metadata().clone());
    for info in file.tensors() {
        writer.add_tensor(&info.name, &info.dims, info.ty).unwrap();
    }
    let parts = writer.split(SplitLimit::Tensors(2)).unwrap();
    assert_eq!(parts.len(), 3);
    let mut views = file.views();
    for (index, part) in parts.iter().enumerate() {
        let bytes = part.to_bytes(views.by_ref().take(part.n_tensors()).map(|view| view.data)).unwrap();
        assert_eq!(bytes, std::fs::read(fixture(index)).unwrap(), "part {index}");
    }
}

#[test]
fn splits_by_bytes() {
    let plan = |limit| {
        let mut writer = Writer::new();
        writer.metadata_mut().insert("general.alignment", 64u32);
        for (i, n) in [10u64, 100, 10, 20, 10].into_iter().enumerate() {
            writer.add_tensor(&format!("t.{i}"), &[n], GgmlType::F32).unwrap();
        }
        writer.split(limit).map(|parts| parts.iter().map(Writer::n_tensors).collect::<Vec<_>>())
    };
    assert_eq!(plan(SplitLimit::Bytes(120)).unwrap(), [1, 1, 2, 1]);
    assert_eq!(plan(SplitLimit::Bytes(u64::MAX)).unwrap(), [5]);
    assert_eq!(plan(SplitLimit::Tensors(4)).unwrap(), [4, 1]);
    assert!(plan(SplitLimit::Tensors(0)).is_err());
    assert!(plan(SplitLimit::Bytes(0)).is_err());
}

#[test]
fn missing_parts_are_named() {
    let folder = Folder::new("missing");
    std::fs::remove_file(folder.part(1)).unwrap();
    folder.refused(0, &["1 of 3 parts", "split-00002-of-00003.gguf", "fetch"]);
    folder.refused(2, &["split-00002-of-00003.gguf"]);
    std::fs::remove_file(folder.part(0)).unwrap();
    folder.refused(2, &["2 of 3 parts", "split-00001-of-00003.gguf"]);
}

#[test]
fn renamed_parts_are_refused() {
    let folder = Folder::new("renamed");
    let renamed = folder.0.join("model.gguf");
    std::fs::copy(folder.part(1), &renamed).unwrap();
    let message = GgufFile::open(&renamed).unwrap_err().to_string();
    assert!(message.contains("part 2 of 3") && message.contains("original names"), "{message}");
    std::fs::copy(folder.part(2), folder.part(1)).unwrap();
    folder.refused(1, &["name says part 2", "part 3 of 3"]);
    folder.refused(0, &["split-00002-of-00003.gguf", "part 3 of 3", "expected part 2 of 3"]);
}

#[test]
fn parts_of_other_models_are_refused() {
    let folder = Folder::new("foreign");
    let note = || ("note", Value::U8(1));
    write_part(&folder.part(1), [Some(1), Some(3), Some(6)], "x", note());
    folder.refused(0, &["00002-of-00003", "6 tensors", "expected part 2 of 3 with 5 tensors"]);
    write_part(&folder.part(1), [Some(1), Some(3), Some(5)], "x", note());
    folder.refused(0, &["4 tensors", "split.tensors.count says 5"]);
    write_part(&folder.part(1), [Some(1), Some(3), Some(5)], "t.0", note());
    folder.refused(0, &["`t.0` appears twice"]);
    write_part(&folder.part(1), [Some(1), Some(3), Some(5)], "x", ("fixture.answer", Value::U32(41)));
    folder.refused(0, &["different values", "fixture.answer"]);
    write_part(&folder.part(1), [None, None, None], "x", note());
    folder.refused(0, &["not split"]);
}

#[test]
fn impossible_split_keys_are_refused() {
    let folder = Folder::new("keys");
    let note = || ("note", Value::U8(1));
    write_part(&folder.part(1), [None, Some(3), Some(5)], "x", note());
    folder.refused(1, &["split.no is missing"]);
    write_part(&folder.part(1), [Some(3), Some(3), Some(5)], "x", note());
    folder.refused(1, &["split.no is 3", "only 3 parts"]);
    write_part(&folder.part(1), [Some(1), Some(u64::MAX), Some(5)], "x", note());
    folder.refused(1, &["split.count", "99999"]);
    // One part of one is an ordinary file under any name, and keeps its keys.
    write_part(&folder.part(1), [Some(0), Some(1), Some(1)], "x", note());
    assert_eq!(GgufFile::open(&folder.part(1)).unwrap().metadata().u32("split.count").unwrap(), Some(1));
}

#[test]
fn parts_may_differ_in_alignment_and_add_keys() {
    let folder = Folder::new("alignment");
    write_part(&folder.part(0), [Some(0), Some(3), Some(4)], "x", ("general.alignment", Value::U32(64)));
    write_part(&folder.part(1), [Some(1), Some(3), Some(4)], "y", ("general.alignment", Value::U32(256)));
    write_part(&folder.part(2), [Some(2), Some(3), Some(4)], "z", ("note", Value::U8(1)));
    // The third part lacks a tensor: 3 in all.
    folder.refused(0, &["3 tensors", "says 4"]);
    for (part, tensor, extra) in [
        (0, "x", ("general.alignment", Value::U32(64))),
        (1, "y", ("general.alignment", Value::U32(256))),
        (2, "z", ("note", Value::U8(1))),
    ] {
        write_part(&folder.part(part), [Some(part as u64), Some(3), Some(3)], tensor, extra);
    }
    let file = GgufFile::open(&folder.part(2)).unwrap();
    assert_eq!(file.alignment(), 64);
    assert_eq!(file.metadata().u32("note").unwrap(), Some(1));
    assert_eq!(file.metadata().u32("general.alignment").unwrap(), Some(64));
    let offsets: Vec<u64> = file.tensors().iter().map(hublabio_gguf::TensorInfo::file_offset).collect();
    assert!(offsets[0].is_multiple_of(64) && offsets[1].is_multiple_of(256), "{offsets:?}");
}

#[test]
fn a_part_in_memory_is_refused() {
    let error = GgufFile::from_vec(std::fs::read(fixture(1)).unwrap()).unwrap_err();
    assert!(matches!(error, Error::Split { .. }) && error.to_string().contains("part 2 of 3"), "{error}");
}

#[test]
fn a_split_writer_sets_the_keys_itself() {
    let mut writer = Writer::new();
    writer.metadata_mut().insert("split.count", 7u16);
    for name in ["a", "b"] {
        writer.add_tensor(name, &[1], GgmlType::F32).unwrap();
    }
    let parts = writer.split(SplitLimit::Tensors(1)).unwrap();
    let message = parts[0].begin(Vec::new()).unwrap_err().to_string();
    assert!(message.contains("split.count") && message.contains("remove"), "{message}");
}

#[test]
fn a_model_is_described_by_the_first_bytes_of_its_files() {
    let whole = GgufFile::open(&fixture(0)).unwrap();
    let files: Vec<Vec<u8>> = (0..3).map(|part| std::fs::read(fixture(part)).unwrap()).collect();
    // Up to the first weight, which is what describes a file.
    let head = |part: usize| {
        let first = whole.tensors().iter().filter(|tensor| tensor.part() == part).map(TensorInfo::file_offset);
        &files[part][..first.min().unwrap_or(files[part].len() as u64) as usize]
    };
    let heads = |parts: &[usize]| {
        let heads = parts.iter().map(|&part| Head::parse(head(part), files[part].len() as u64));
        GgufFile::from_heads(heads.collect::<Result<_, _>>().unwrap())
    };
    let described = heads(&[0, 1, 2]).unwrap();
    assert!(whole.has_weights() && !described.has_weights());
    assert_eq!(described.tensors(), whole.tensors());
    assert!(described.metadata().iter().eq(whole.metadata().iter()));
    assert_eq!(described.total_bytes(), whole.total_bytes());
    assert!(described.views().all(|view| view.data.iter().all(|byte| *byte == 0)));
    for parts in [&[][..], &[0], &[0, 2, 1], &[1, 0, 2], &[0, 1, 2, 2]] {
        assert!(matches!(heads(parts), Err(Error::Split { .. })), "{parts:?}");
    }
    // What is cut, or is larger than its file, is none.
    let bytes = head(0);
    for n in (0..bytes.len()).step_by(7) {
        if let Ok(head) = Head::parse(&bytes[..n], files[0].len() as u64) {
            assert!(bytes.len() - n < 64, "only padding may be missing: {head:?}");
        }
    }
    assert!(Head::parse(&files[1], files[1].len() as u64 - 64).is_err());
    // A size that nobody can have.
    let mut writer = Writer::new();
    writer.add_tensor("t", &[1], GgmlType::F32).unwrap();
    let huge = Head::parse(&writer.to_bytes([&[0; 4][..]]).unwrap(), u64::MAX).unwrap();
    assert!(matches!(GgufFile::from_heads(vec![huge]), Err(Error::NoRoom { bytes: u64::MAX, .. })));
}
