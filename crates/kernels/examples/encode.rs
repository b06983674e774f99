//! Packs raw weights, so that scripts in other languages can compare the encoders:
//! `encode TYPE COLUMNS WEIGHTS.f32 OUT.bin [IMPORTANCE.f32]`, little-endian `f32` in, blocks out. Says how long it took.

use std::time::Instant;

use hublabio_gguf::{GgmlType, Importance};
use hublabio_kernels::{Isa, ThreadTeam, encode_rows};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [ty, columns, input, output, importance @ ..] = arguments.as_slice() else {
        eprintln!("usage: encode TYPE COLUMNS WEIGHTS.f32 OUT.bin [IMPORTANCE.f32]");
        std::process::exit(2);
    };
    let ty = GgmlType::from_name(ty).expect("a ggml type");
    let columns = columns.parse().expect("a number of columns");
    let floats = |path: &String| -> Vec<f32> {
        let bytes = std::fs::read(path).expect("a readable file");
        bytes.as_chunks().0.iter().map(|&chunk| f32::from_le_bytes(chunk)).collect()
    };
    let weights = floats(input);
    let importance = importance.first().map(|path| Importance::new(&floats(path)).expect("an importance"));
    let threads = std::env::var("THREADS").map_or(1, |n| n.parse().expect("a number of threads"));
    let isa =
        std::env::var("ISA").map_or_else(|_| Isa::best(), |name| Isa::by_name(&name).expect("an instruction set"));
    let team = ThreadTeam::new(threads);
    let mut packed = vec![0; ty.row_bytes(weights.len()).expect("whole blocks")];
    let start = Instant::now();
    encode_rows(&team, isa, (ty, columns), &weights, importance.as_ref(), &mut packed).expect("weights that fit");
    let seconds = start.elapsed().as_secs_f64();
    println!("{ty} {seconds:.4} s, {:.2} million weights/s", weights.len() as f64 / seconds / 1e6);
    std::fs::write(output, packed).expect("a writable file");
}
