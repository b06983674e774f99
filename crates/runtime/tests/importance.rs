//! Importance matrices against llama.cpp's: the fixtures were made by `tests/oracles/make_imatrix.py` with
//! `llama-imatrix`; nothing of them was computed by this project.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use hublabio_gguf::GgufFile;
use hublabio_runtime::Error;
use hublabio_runtime::ai::tokenizer::EncodeOptions;
use hublabio_runtime::ai::{CollectionOptions, ImportanceMatrix, InferenceEngine, Isa, KvType, ModelConfig};

const CHUNK: usize = 32;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/oracles/fixtures")
}

fn fixture(name: &str) -> PathBuf {
    fixtures().join("imatrix").join(name)
}

fn open(name: &str) -> ImportanceMatrix {
    ImportanceMatrix::open(&fixture(name)).unwrap()
}

/// A file in a test's own folder, which is empty before.
fn scratch(test: &str, name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("importance").join(test);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    folder.join(name)
}

fn open_bytes(test: &str, bytes: &[u8]) -> Result<ImportanceMatrix, Error> {
    let path = scratch(test, "hostile.dat");
    fs::write(&path, bytes).unwrap();
    ImportanceMatrix::open(&path)
}

/// The largest difference between two sums as a share of the second.
fn difference(ours: &ImportanceMatrix, theirs: &ImportanceMatrix) -> f64 {
    assert!(ours.names().eq(theirs.names()), "the same tensors");
    let mut largest = 0f64;
    for name in theirs.names() {
        let ((a, a_counts), (b, b_counts)) = (ours.sums(name).unwrap(), theirs.sums(name).unwrap());
        assert_eq!(a_counts, b_counts, "{name}");
        assert_eq!(a.len(), b.len(), "{name}");
        for (a, b) in a.iter().zip(b) {
            largest = largest.max((a - b).abs() / b);
        }
    }
    largest
}

/// As `hublab imatrix` does it.
fn collect(model: &str, process_output: bool, config: &ModelConfig) -> ImportanceMatrix {
    let mut engine = InferenceEngine::open(&fixtures().join(format!("{model}.gguf")), config).unwrap();
    let text = fs::read(fixture("text.txt")).unwrap();
    let options = EncodeOptions { add_eos: Some(false), ..EncodeOptions::default() };
    let tokens = engine.tokenizer().unwrap().encode_bytes(&text, options).unwrap();
    let mut matrix = ImportanceMatrix::new(CHUNK as u64);
    let options = CollectionOptions { chunk_size: CHUNK, chunks_max: None, process_output };
    let chunks = engine
        .collect_importance(&tokens, options, "text.txt", &mut matrix, &mut |_, _| ControlFlow::Continue(()))
        .unwrap();
    assert_eq!(chunks, tokens.len() / CHUNK);
    assert!(!tokens.len().is_multiple_of(CHUNK), "the fixture has a tail to leave out");
    matrix
}

#[test]
fn sums_equal_llama_cpp() {
    let config = ModelConfig { threads: Some(2), kv: Some(KvType::F32), ..ModelConfig::default() };
    // In Q8_0 products both round activations to 8 bits, each in its own way; sums come from before the rounding.
    for (model, process_output, expected, tolerance) in [
        ("llama-gqa-F32", false, "dense.gguf", 1e-4),
        ("llama-gqa-F32", true, "output.gguf", 1e-4),
        ("llama-mha-tied-F32", true, "tied.gguf", 1e-4),
        ("qwen2-gqa-F32", false, "biased.gguf", 1e-4),
        ("quant-llama-Q8_0", false, "q8.gguf", 0.02),
    ] {
        let (ours, theirs) = (collect(model, process_output, &config), open(expected));
        let largest = difference(&ours, &theirs);
        println!("{model}: {} entries, largest relative difference {largest:.2e}", ours.n_entries());
        assert!(largest <= tolerance, "{model}: {largest:e}");
        assert_eq!(ours.chunk_count(), theirs.chunk_count(), "{model}");
        assert_eq!(ours.chunk_size(), theirs.chunk_size(), "{model}");
        assert_eq!(ours.datasets(), theirs.datasets(), "{model}");
    }
}

#[test]
fn neither_threads_nor_instruction_sets_change_a_bit() {
    for model in ["llama-gqa-F32", "quant-llama-Q8_0"] {
        let collected = |threads, isa| {
            collect(model, true, &ModelConfig { threads: Some(threads), isa: Some(isa), ..ModelConfig::default() })
        };
        let reference = collected(1, Isa::best());
        for isa in Isa::available() {
            assert!(collected(3, isa) == reference, "{model}, {isa:?}");
        }
    }
}

#[test]
fn gguf_files_of_llama_cpp_are_written_again_to_the_byte() {
    for name in ["dense.gguf", "output.gguf", "tied.gguf", "biased.gguf", "q8.gguf", "experts.gguf"] {
        let matrix = open(name);
        let path = scratch("again", name);
        matrix.save(&path).unwrap();
        assert!(fs::read(&path).unwrap() == fs::read(fixture(name)).unwrap(), "{name}");
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing else is left in the folder");
        assert_eq!((matrix.datasets(), matrix.chunk_count(), matrix.chunk_size()), (&["text.txt".into()][..], 11, 32));
    }
}

#[test]
fn means_are_sums_by_counts() {
    let matrix = open("experts.gguf");
    let file = GgufFile::open(&fixture("experts.gguf")).unwrap();
    let values = |name: &str| file.tensor(name).unwrap().to_f32().unwrap();
    let mut unused = 0;
    for name in matrix.names() {
        let (sums, counts) = (values(&format!("{name}.in_sum2")), values(&format!("{name}.counts")));
        let means = matrix.mean_squares(name).unwrap();
        assert_eq!(means.len(), if name.contains("_exps") { 7 } else { 1 });
        for ((means, sums), &count) in means.iter().zip(sums.chunks_exact(sums.len() / counts.len())).zip(&counts) {
            for (mean, sum) in means.iter().zip(sums) {
                // An expert that was never chosen: every column matters alike.
                let expected = if count == 0.0 { 1.0 } else { sum / count };
                assert_eq!(*mean, expected, "{name}");
            }
            unused += usize::from(count == 0.0);
        }
    }
    assert_eq!(unused, 6, "one expert of each expert tensor");
    assert_eq!(matrix.mean_squares("blk.9.attn_q.weight"), None);
}

#[test]
fn the_older_format_says_the_same() {
    for (dat, gguf, tensors) in [("dense.dat", "dense.gguf", 14), ("experts.dat", "experts.gguf", 16)] {
        let (old, new) = (open(dat), open(gguf));
        assert_eq!((old.n_entries(), old.chunk_count(), old.chunk_size()), (tensors, 11, 0));
        assert!(old.counts_chunks() && !new.counts_chunks());
        assert_eq!(old.datasets(), ["text.txt"]);
        assert!(old.names().eq(new.names()));
        for name in new.names() {
            let means = new.mean_squares(name).unwrap();
            let cut = old.mean_squares_by_columns(name, means[0].len(), means.len()).unwrap().unwrap();
            assert_eq!(cut.len(), means.len(), "{name}");
            for (cut, mean) in cut.iter().flatten().zip(means.iter().flatten()) {
                assert!((cut - mean).abs() <= 1e-6 * mean, "{name}: {cut}, {mean}");
            }
        }
    }
    let error = open("experts.dat").mean_squares_by_columns("blk.0.ffn_up_exps.weight", 64, 8).unwrap_err();
    assert!(error.to_string().contains("448 columns"), "{error}");
    assert!(open("dense.gguf").mean_squares_by_columns("blk.0.attn_q.weight", 0, 1).is_err());
    assert!(open("dense.gguf").mean_squares_by_columns("blk.0.attn_q.weight", usize::MAX, 2).is_err());
}

#[test]
fn matrices_add_up() {
    let dense = open("dense.gguf");
    let mut sum = ImportanceMatrix::new(CHUNK as u64);
    sum.add(&dense).unwrap();
    assert_eq!(difference(&sum, &dense), 0.0);
    sum.add(&dense).unwrap();
    assert_eq!((sum.chunk_count(), sum.datasets().len()), (22, 2));
    let name = "blk.1.ffn_down.weight";
    assert_eq!(sum.sums(name).unwrap().1, [704]);
    assert_eq!(sum.mean_squares(name), dense.mean_squares(name));
    assert_eq!(sum.sums(name).unwrap().0[5], 2.0 * dense.sums(name).unwrap().0[5]);

    // A .dat file weighs by its chunks, which are taken to be of the size of the others.
    let mut mixed = ImportanceMatrix::new(CHUNK as u64);
    mixed.add(&open("dense.dat")).unwrap();
    assert_eq!(mixed.sums(name).unwrap().1, [352]);
    mixed.add(&dense).unwrap();
    assert!(difference(&mixed, &sum) < 1e-6);
    assert_eq!(mixed.chunk_count(), 22);
    // Experts: one count for all of them in the one file, one for each in the other.
    let mut experts = open("experts.gguf");
    experts.add(&open("experts.dat")).unwrap();
    assert_eq!(experts.sums("blk.0.ffn_up_exps.weight").unwrap().1.len(), 7);
    // Only .dat files: chunks stay chunks.
    let mut old = open("dense.dat");
    old.add(&open("dense.dat")).unwrap();
    assert_eq!((old.chunk_count(), old.sums(name).unwrap().1), (22, &[22][..]));

    let before = sum.clone();
    let error = sum.add(&open("q8.gguf")).unwrap_err();
    assert!(matches!(&error, Error::ImportanceShape { .. }), "{error}");
    assert!(sum == before, "nothing was added");
}

#[test]
fn experts_are_recorded_one_by_one() {
    let mut matrix = ImportanceMatrix::new(4);
    matrix.record("blk.0.ffn_up_exps.weight", (1, 3), &[2.0, 8.0], 2).unwrap();
    matrix.record("blk.0.ffn_up_exps.weight", (2, 3), &[1.0, 1.0], 4).unwrap();
    matrix.record("blk.0.ffn_up_exps.weight", (1, 3), &[2.0, 0.0], 2).unwrap();
    matrix.finish_dataset("a.txt", 2);
    assert!(matrix.record("blk.0.ffn_up_exps.weight", (0, 2), &[1.0, 1.0], 1).is_err());
    assert!(matrix.record("blk.0.ffn_up_exps.weight", (0, 3), &[1.0], 1).is_err());
    let path = scratch("experts", "experts.gguf");
    matrix.save(&path).unwrap();
    let read = ImportanceMatrix::open(&path).unwrap();
    assert!(read == matrix);
    assert_eq!(
        read.mean_squares("blk.0.ffn_up_exps.weight").unwrap(),
        [[1.0, 1.0], [1.0, 2.0], [0.25, 0.25]],
        "the first expert was never reached"
    );
}

#[test]
fn what_cannot_be_saved_leaves_the_old_file() {
    let path = scratch("keeps", "old.gguf");
    fs::write(&path, b"old").unwrap();
    let mut matrix = ImportanceMatrix::new(4);
    assert!(matrix.save(&path).unwrap_err().to_string().contains("no entries"));
    matrix.record("blk.0.attn_q.weight", (0, 1), &[1e300], 1).unwrap();
    assert!(matrix.save(&path).unwrap_err().to_string().contains("exceeds single precision"));
    assert_eq!(fs::read(&path).unwrap(), b"old");
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    let nowhere = path.with_file_name("none").join("x.gguf");
    assert!(open("dense.gguf").save(&nowhere).is_err());
    open("dense.gguf").save(&path).unwrap();
    assert!(ImportanceMatrix::open(&path).is_ok(), "and a good one replaces it");
}

#[test]
fn other_files_are_refused_by_name() {
    let told = |path: &Path| ImportanceMatrix::open(path).unwrap_err().to_string();
    let model = told(&fixtures().join("llama-gqa-F32.gguf"));
    assert!(model.contains("llama-gqa-F32.gguf") && model.contains("holds no entries"), "{model}");
    assert!(told(&fixture("text.txt")).contains("begins like neither"), "{}", told(&fixture("text.txt")));
    assert!(told(&fixtures()).contains("not a regular file"));
    assert!(told(&fixture("none")).contains("cannot open"));
    assert!(open_bytes("empty", b"").unwrap_err().to_string().contains("shorter"));
}

/// One entry of a `.dat` file.
fn dat_entry(name: &[u8], chunks: i32, n_values: i32, values: &[f32]) -> Vec<u8> {
    let mut bytes = (name.len() as i32).to_le_bytes().to_vec();
    bytes.extend_from_slice(name);
    bytes.extend(chunks.to_le_bytes());
    bytes.extend(n_values.to_le_bytes());
    bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    bytes
}

fn dat(n_entries: i32, rest: &[&[u8]]) -> Vec<u8> {
    [&n_entries.to_le_bytes()[..], &rest.concat()].concat()
}

#[test]
fn hostile_bytes_are_refused() {
    let entry = dat_entry(b"a", 2, 2, &[1.0, 4.0]);
    let good = open_bytes("good", &dat(1, &[&entry])).unwrap();
    assert_eq!(good.mean_squares("a").unwrap(), [[0.5, 2.0]]);
    assert_eq!((good.chunk_count(), good.datasets().len()), (0, 0), "the end of the file is optional");
    let unscaled = open_bytes("unscaled", &dat(1, &[&dat_entry(b"a", 0, 1, &[3.0])])).unwrap();
    assert_eq!(unscaled.mean_squares("a").unwrap(), [[3.0]]);

    let huge_name = [&i32::MAX.to_le_bytes()[..], &[b'a'; 64]].concat();
    let negative_name = [&(-1i32).to_le_bytes()[..], &[b'a'; 64]].concat();
    for (what, bytes, part) in [
        ("no entries", dat(0, &[&entry]), "begins like neither"),
        ("negative entries", dat(-1, &[&entry]), "begins like neither"),
        ("entries beyond the file", dat(i32::MAX, &[&entry]), "begins like neither"),
        ("one entry missing", dat(2, &[&entry, &[0; 8]]), "entry 2 has no name"),
        ("huge name", dat(1, &[&huge_name]), "a length of 2147483647"),
        ("negative name", dat(1, &[&negative_name]), "a length of -1"),
        ("name of no text", dat(1, &[&dat_entry(b"\xff\xfe", 1, 1, &[1.0])]), "not UTF-8"),
        ("no name", dat(1, &[&dat_entry(b"", 1, 1, &[1.0])]), "no name"),
        ("no values", dat(1, &[&dat_entry(b"a", 1, 0, &[])]), "no values"),
        ("negative values", dat(1, &[&dat_entry(b"a", 1, -4, &[1.0])]), "-4 values"),
        ("huge values", dat(1, &[&dat_entry(b"a", 1, i32::MAX, &[1.0])]), "8589934588 bytes are needed"),
        ("negative chunks", dat(1, &[&dat_entry(b"a", -2, 1, &[1.0])]), "-2 chunks"),
        ("negative sum", dat(1, &[&dat_entry(b"a", 1, 1, &[-1.0])]), "no sum of squares"),
        ("infinite sum", dat(1, &[&dat_entry(b"a", 1, 1, &[f32::INFINITY])]), "no sum of squares"),
        ("no number", dat(1, &[&dat_entry(b"a", 1, 1, &[f32::NAN])]), "no sum of squares"),
        ("twice", dat(2, &[&entry, &entry]), "occurs twice"),
        ("negative total", dat(1, &[&entry, &(-7i32).to_le_bytes()]), "-7 chunks"),
        ("text cut short", dat(1, &[&entry, &3i32.to_le_bytes(), &9i32.to_le_bytes(), b"abc"]), "name of the text"),
    ] {
        let error = open_bytes("hostile", &bytes).map(|_| what).unwrap_err().to_string();
        assert!(error.contains(part) && error.contains("hostile.dat"), "{what}: {error}");
    }
}

#[test]
fn damaged_files_never_panic() {
    let whole = fs::read(fixture("dense.dat")).unwrap();
    for len in (0..whole.len()).step_by(31).chain(whole.len() - 20..whole.len()) {
        let opened = open_bytes("damaged", &whole[..len]);
        // Without its end, the number of chunks and the name of the text, the file is whole.
        assert!(opened.is_err() || len + 16 >= whole.len(), "{len}");
    }
    for name in ["dense.dat", "experts.gguf"] {
        let whole = fs::read(fixture(name)).unwrap();
        for at in (0..400).chain((400..whole.len()).step_by(97)) {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x81;
            let _ = open_bytes("damaged", &bytes);
        }
    }
}

#[test]
fn gguf_numbers_that_cannot_be_are_refused() {
    use hublabio_gguf::{GgmlType, Writer};
    let build = |tensors: &[(&str, &[u64], &[f32])]| {
        let mut writer = Writer::new();
        writer.metadata_mut().insert("general.type", "imatrix");
        for (name, dims, _) in tensors {
            writer.add_tensor(name, dims, GgmlType::F32).unwrap();
        }
        let data: Vec<Vec<u8>> =
            tensors.iter().map(|(_, _, values)| values.iter().flat_map(|v| v.to_le_bytes()).collect()).collect();
        writer.to_bytes(data.iter().map(Vec::as_slice)).unwrap()
    };
    let two: (&str, &[u64], &[f32]) = ("a.in_sum2", &[2], &[1.0, 2.0]);
    type Tensors<'a> = &'a [(&'a str, &'a [u64], &'a [f32])];
    let cases: [(Tensors<'_>, &str); 7] = [
        (&[], "no entries"),
        (&[two], "has no `a.counts`"),
        (&[("a.counts", &[1], &[1.0])], "has no `a.in_sum2`"),
        (&[two, ("a.counts", &[3], &[1.0, 1.0, 1.0])], "2 sums for 3 counts"),
        (&[two, ("a.counts", &[1], &[-1.0])], "no count"),
        (&[two, ("a.counts", &[1], &[f32::NAN])], "no count"),
        (&[("a.in_sum2", &[2], &[1.0, f32::NAN]), ("a.counts", &[1], &[1.0])], "no sum of squares"),
    ];
    for (tensors, part) in cases {
        let error = open_bytes("numbers", &build(tensors)).unwrap_err().to_string();
        assert!(error.contains(part), "{part}: {error}");
    }
    let mut writer = Writer::new();
    writer.metadata_mut().insert("general.type", "model");
    let error = open_bytes("numbers", &writer.to_bytes([]).unwrap()).unwrap_err().to_string();
    assert!(error.contains("`general.type` is `model`"), "{error}");
    let other: Tensors<'_> = &[two, ("a.counts", &[1], &[2.0]), ("b.extra", &[1], &[1.0])];
    let matrix = open_bytes("numbers", &build(other)).unwrap();
    assert_eq!(matrix.mean_squares("a").unwrap(), [[0.5, 1.0]], "tensors of other kinds are none of ours");
}
