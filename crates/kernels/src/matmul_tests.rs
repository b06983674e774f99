use super::*;
use hublabio_gguf::decode_row;

/// Everything that can be a weight.
fn types() -> impl Iterator<Item = GgmlType> {
    GgmlType::ALL.iter().copied().filter(|&ty| has_kernel(ty))
}

/// A small deterministic generator (splitmix64): tests need no other source of bytes.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    fn float(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

/// Where the half-precision scales of a block lie.
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

/// Random bytes that decode to moderate, finite weights: every scale is overwritten.
fn random_weights(random: &mut Random, ty: GgmlType, rows: usize, cols: usize) -> Vec<u8> {
    let n_bytes = ty.row_bytes(cols).unwrap() * rows;
    let mut bytes: Vec<u8> = (0..n_bytes).map(|_| random.next() as u8).collect();
    match ty {
        GgmlType::F64 => {
            for value in bytes.chunks_exact_mut(8) {
                value.copy_from_slice(&f64::from(random.float()).to_le_bytes());
            }
            return bytes;
        }
        GgmlType::F32 | GgmlType::BF16 => {
            let width = ty.block_bytes();
            for value in bytes.chunks_exact_mut(width) {
                let x = random.float().to_bits().to_le_bytes();
                value.copy_from_slice(&x[4 - width..]);
            }
            return bytes;
        }
        _ => {}
    }
    for block in bytes.chunks_exact_mut(ty.block_bytes()) {
        // Half precision with exponents around 2^-8 … 2^-5, either sign.
        let half = ((random.next() as u16) & 0x83ff) | ((7 + (random.next() as u16 & 3)) << 10);
        for &at in half_scales(ty) {
            block[at..at + 2].copy_from_slice(&half.to_le_bytes());
        }
        match ty {
            GgmlType::Q8_K => block[..4].copy_from_slice(&(random.float() / 64.0).to_le_bytes()),
            GgmlType::MXFP4 => block[0] = 118 + (block[0] & 3),
            GgmlType::NVFP4 => block[..4].iter_mut().for_each(|scale| *scale = 8 + (*scale & 15)),
            GgmlType::IQ1_M => {
                // The scale's nibbles are the top nibbles of four words.
                for (i, top) in block[48..56].iter_mut().skip(1).step_by(2).enumerate() {
                    *top = *top & 15 | ((half >> (4 * i)) as u8 & 15) << 4;
                }
            }
            _ => {}
        }
    }
    bytes
}

fn product(isa: Isa, threads: usize, ty: GgmlType, data: &[u8], (rows, cols): (usize, usize), x: &[f32]) -> Vec<f32> {
    let team = ThreadTeam::new(threads);
    let weights = WeightMatrix::new(ty, data, rows, cols).unwrap();
    let mut activations = Activations::new();
    activations.set(&team, isa, x, cols, weights.forms());
    let mut out = vec![f32::NAN; x.len() / cols * rows];
    matmul(&team, isa, &mut [Product { x: &activations, weights, bias: None, out: &mut out }]);
    out
}

/// Decoded weights times activations in f64, and the sum of magnitudes that bounds the error.
fn definition(ty: GgmlType, data: &[u8], (rows, cols): (usize, usize), x: &[f32]) -> Vec<(f64, f64)> {
    let row_bytes = ty.row_bytes(cols).unwrap();
    let mut out = Vec::new();
    for x in x.chunks_exact(cols) {
        for row in 0..rows {
            let mut w = vec![0.0; cols];
            decode_row(ty, &data[row * row_bytes..(row + 1) * row_bytes], &mut w).unwrap();
            let terms = || w.iter().zip(x).map(|(&w, &x)| f64::from(w) * f64::from(x));
            out.push((terms().sum(), w.iter().map(|&w| f64::from(w).powi(2)).sum::<f64>().sqrt()));
        }
    }
    out
}

#[test]
fn every_type_on_every_isa_equals_the_decoded_weights() {
    println!("instruction sets: {:?}", Isa::available().iter().map(|i| i.name()).collect::<Vec<_>>());
    let mut random = Random(1);
    for ty in types() {
        for (rows, cols) in [(1, 256), (16, 512), (33, 256), (100, 768)] {
            let data = random_weights(&mut random, ty, rows, cols);
            for n in [1usize, 2, 3, 5, 13, 31] {
                let x: Vec<f32> = (0..n * cols).map(|_| random.float()).collect();
                let exact = definition(ty, &data, (rows, cols), &x);
                let mut first: Option<Vec<f32>> = None;
                for isa in Isa::available() {
                    let out = product(isa, 1, ty, &data, (rows, cols), &x);
                    // Rounding an activation to 8 bits errs by at most 1/254 of its block's largest (≤ 1);
                    // the errors are independent, so the sum stays within a few σ = ‖w‖ / 254 / √3.
                    let tolerance = if WeightMatrix::new(ty, &data, rows, cols).unwrap().forms().float {
                        1e-5
                    } else {
                        6.0 / 254.0 / 3f64.sqrt()
                    };
                    for (i, (&o, &(e, norm))) in out.iter().zip(&exact).enumerate() {
                        assert!(
                            (f64::from(o) - e).abs() <= tolerance * norm.max(1.0),
                            "{} {} {rows}×{cols}, n {n}, value {i}: {o} is not {e}",
                            isa.name(),
                            ty.name()
                        );
                    }
                    let same = *first.get_or_insert(out.clone()) == out;
                    assert!(same, "{} differs from {}: {}", isa.name(), Isa::best().name(), ty.name());
                }
            }
        }
    }
}

/// The largest quants, scales and activations together: no integer sum may overflow, and every type must stay within what
/// its route assumes. Activations of ±1 quantize exactly, so the result is that of the decoded weights.
#[test]
fn extreme_blocks_stay_exact() {
    let mut random = Random(6);
    let (rows, cols) = (16, 512);
    let signs: Vec<f32> = (0..cols).map(|_| random.float().signum()).collect();
    for ty in types().filter(|ty| ty.block_len() > 1) {
        for pattern in [0xff, 0x00, 0x80, 0x7f, 0xf0, 0x0f, 0x55, 0xaa] {
            let moderate = random_weights(&mut random, ty, rows, cols);
            let mut data = vec![pattern; moderate.len()];
            let scales = scale_bytes(ty);
            for (block, moderate) in
                data.chunks_exact_mut(ty.block_bytes()).zip(moderate.chunks_exact(ty.block_bytes()))
            {
                for &at in &scales {
                    block[at] = moderate[at];
                }
            }
            for x in [vec![1.0; cols], vec![-1.0; cols], signs.clone()] {
                let exact = definition(ty, &data, (rows, cols), &x);
                for isa in Isa::available() {
                    let out = product(isa, 1, ty, &data, (rows, cols), &x);
                    for (&o, &(e, norm)) in out.iter().zip(&exact) {
                        // Of the sum of magnitudes, because large terms cancel: norm · √cols bounds that of the weights.
                        // A weight itself may be the difference of a scale and a minimum ten times as large.
                        let allowed = 2e-6 * norm.max(1.0) * (cols as f64).sqrt();
                        assert!(
                            (f64::from(o) - e).abs() <= allowed,
                            "{} {ty} {pattern:#x}: {o} is not {e}",
                            isa.name()
                        );
                    }
                }
            }
        }
    }
}

/// The bytes of a block that hold float scales.
fn scale_bytes(ty: GgmlType) -> Vec<usize> {
    match ty {
        GgmlType::Q8_K | GgmlType::NVFP4 => (0..4).collect(),
        GgmlType::MXFP4 => vec![0],
        GgmlType::IQ1_M => vec![49, 51, 53, 55],
        _ => half_scales(ty).iter().flat_map(|&at| [at, at + 1]).collect(),
    }
}

/// The scalar twin, straight from the rule: integer weights times integer activations, summed per
/// scale block, one fused multiply-add per block.
#[test]
fn flat_formats_follow_the_rule_to_the_bit() {
    let mut random = Random(2);
    for (ty, zero) in [(GgmlType::Q8_0, 0i32), (GgmlType::Q4_0, 8), (GgmlType::Q5_0, 16)] {
        let (rows, cols) = (21, 32 * 11);
        let data = random_weights(&mut random, ty, rows, cols);
        let x: Vec<f32> = (0..cols).map(|_| random.float() * 3.0).collect();
        let expected: Vec<f32> = data
            .chunks_exact(ty.row_bytes(cols).unwrap())
            .map(|row| {
                let mut acc = 0.0f32;
                for (block, x) in row.chunks_exact(ty.block_bytes()).zip(x.chunks_exact(32)) {
                    let amax = x.iter().fold(0.0f32, |m, v| m.max(v.abs()));
                    let q: Vec<i32> = x.iter().map(|v| (v * (127.0 / amax)).round_ties_even() as i32).collect();
                    let d = hublabio_gguf::F16(u16::from_le_bytes([block[0], block[1]])).to_f32();
                    let w = |i: usize| -> i32 {
                        let nibble = |qs: &[u8]| i32::from(if i < 16 { qs[i] & 15 } else { qs[i - 16] >> 4 });
                        match ty {
                            GgmlType::Q8_0 => i32::from(block[2 + i] as i8),
                            GgmlType::Q4_0 => nibble(&block[2..]) - zero,
                            _ => (nibble(&block[6..]) | i32::from(block[2 + i / 8] >> (i % 8) & 1) << 4) - zero,
                        }
                    };
                    let sum: i32 = (0..32).map(|i| w(i) * q[i]).sum();
                    acc = (d * (amax / 127.0)).mul_add(sum as f32, acc);
                }
                acc
            })
            .collect();
        for isa in Isa::available() {
            assert_eq!(product(isa, 2, ty, &data, (rows, cols), &x), expected, "{} {}", isa.name(), ty.name());
        }
    }
}

#[test]
fn neighbours_and_threads_change_nothing() {
    let mut random = Random(3);
    for ty in types() {
        let shape = (77, 1024);
        let data = random_weights(&mut random, ty, shape.0, shape.1);
        let x: Vec<f32> = (0..40 * shape.1).map(|_| random.float()).collect();
        for isa in Isa::available() {
            let whole = product(isa, 1, ty, &data, shape, &x);
            for threads in [2, 4] {
                assert!(product(isa, threads, ty, &data, shape, &x) == whole, "{} on {threads} threads", ty.name());
            }
            for (first, n) in [(0, 1), (7, 1), (3, 5), (11, 29)] {
                let part = product(isa, 2, ty, &data, shape, &x[first * shape.1..(first + n) * shape.1]);
                assert!(part == whole[first * shape.0..(first + n) * shape.0], "{} rows {first}+{n}", ty.name());
            }
        }
    }
}

#[test]
fn several_products_share_their_activations() {
    let mut random = Random(4);
    let team = ThreadTeam::new(2);
    let isa = Isa::best();
    let (a, b) =
        (random_weights(&mut random, GgmlType::Q4_K, 40, 512), random_weights(&mut random, GgmlType::Q5_0, 7, 512));
    let x: Vec<f32> = (0..3 * 512).map(|_| random.float()).collect();
    let wa = WeightMatrix::new(GgmlType::Q4_K, &a, 40, 512).unwrap();
    let wb = WeightMatrix::new(GgmlType::Q5_0, &b, 7, 512).unwrap();
    let mut activations = Activations::new();
    activations.set(&team, isa, &x, 512, ActivationForms { float: false, per32: true, per256: true });
    let bias: Vec<f32> = (0..7).map(|_| random.float()).collect();
    let (mut out_a, mut out_b) = (vec![0.0; 3 * 40], vec![0.0; 3 * 7]);
    matmul(
        &team,
        isa,
        &mut [
            Product { x: &activations, weights: wa, bias: None, out: &mut out_a },
            Product { x: &activations, weights: wb, bias: Some(&bias), out: &mut out_b },
        ],
    );
    assert_eq!(out_a, product(isa, 1, GgmlType::Q4_K, &a, (40, 512), &x));
    let without = product(isa, 1, GgmlType::Q5_0, &b, (7, 512), &x);
    for (i, (with, without)) in out_b.iter().zip(without).enumerate() {
        assert_eq!(*with, without + bias[i % 7]);
    }
}

/// Experts with rows of their own, beside one another in a stack: one call gives what a call for each gives.
#[test]
fn products_of_different_activations_share_a_call() {
    let mut random = Random(7);
    for ty in [GgmlType::Q4_K, GgmlType::Q8_0, GgmlType::F16, GgmlType::IQ2_XS] {
        let (rows, cols) = (72, 512);
        let counts = [5usize, 0, 1, 40, 13, 2];
        let stack = random_weights(&mut random, ty, counts.len() * rows, cols);
        let stack_matrix = WeightMatrix::new(ty, &stack, counts.len() * rows, cols).unwrap();
        let narrow = random_weights(&mut random, GgmlType::Q5_0, 24, 96);
        let narrow_matrix = WeightMatrix::new(GgmlType::Q5_0, &narrow, 24, 96).unwrap();
        let narrow_x: Vec<f32> = (0..3 * 96).map(|_| random.float()).collect();
        let xs: Vec<Vec<f32>> = counts.iter().map(|n| (0..n * cols).map(|_| random.float()).collect()).collect();
        for isa in Isa::available() {
            for threads in [1, 3] {
                let team = ThreadTeam::new(threads);
                let mut activations: Vec<Activations> = Vec::new();
                for x in &xs {
                    activations.push(Activations::new());
                    activations.last_mut().unwrap().set(&team, isa, x, cols, stack_matrix.forms());
                }
                let mut narrow_activations = Activations::new();
                narrow_activations.set(&team, isa, &narrow_x, 96, narrow_matrix.forms());
                let mut outs: Vec<Vec<f32>> = counts.iter().map(|n| vec![f32::NAN; n * rows]).collect();
                let mut narrow_out = vec![f32::NAN; 3 * 24];
                let mut products: Vec<Product<'_>> = outs
                    .iter_mut()
                    .zip(&activations)
                    .enumerate()
                    .map(|(expert, (out, x))| {
                        let weights = stack_matrix.rows_range(expert * rows, rows);
                        Product { x, weights, bias: None, out }
                    })
                    .collect();
                let narrow_product =
                    Product { x: &narrow_activations, weights: narrow_matrix, bias: None, out: &mut narrow_out };
                products.insert(2, narrow_product);
                matmul(&team, isa, &mut products);
                drop(products);
                let bytes = stack.len() / counts.len();
                for (expert, (x, out)) in xs.iter().zip(&outs).enumerate() {
                    let data = &stack[expert * bytes..(expert + 1) * bytes];
                    assert!(*out == product(isa, 1, ty, data, (rows, cols), x), "{} {ty} {expert}", isa.name());
                }
                assert_eq!(narrow_out, product(isa, 1, GgmlType::Q5_0, &narrow, (24, 96), &narrow_x));
            }
        }
    }
}

/// A range of rows is those rows of the whole product, wherever it begins.
#[test]
fn a_range_of_rows_is_a_part_of_the_product() {
    let mut random = Random(8);
    let (rows, cols, n) = (77, 512, 3);
    for ty in types() {
        let data = random_weights(&mut random, ty, rows, cols);
        let x: Vec<f32> = (0..n * cols).map(|_| random.float()).collect();
        let isa = Isa::best();
        let whole = product(isa, 1, ty, &data, (rows, cols), &x);
        let matrix = WeightMatrix::new(ty, &data, rows, cols).unwrap();
        let team = ThreadTeam::new(1);
        let mut activations = Activations::new();
        activations.set(&team, isa, &x, cols, matrix.forms());
        for (first, len) in [(0, 77), (0, 1), (5, 33), (76, 1), (40, 0)] {
            let mut out = vec![f32::NAN; n * len];
            let weights = matrix.rows_range(first, len);
            assert_eq!((weights.rows(), weights.bytes()), (len, len * data.len() / rows));
            matmul(&team, isa, &mut [Product { x: &activations, weights, bias: None, out: &mut out }]);
            for c in 0..n {
                assert_eq!(out[c * len..(c + 1) * len], whole[c * rows + first..][..len], "{ty} {first}+{len}");
            }
        }
    }
}

#[test]
#[should_panic(expected = "rows 70+8 of 77")]
fn a_range_past_the_end_is_refused() {
    let data = vec![0; 77 * 18];
    let _ = WeightMatrix::new(GgmlType::Q4_0, &data, 77, 32).unwrap().rows_range(70, 8);
}

#[test]
fn non_finite_numbers_are_not_lost() {
    let mut random = Random(5);
    for ty in types() {
        let data = random_weights(&mut random, ty, 16, 256);
        for bad in [f32::NAN, f32::INFINITY] {
            let mut x: Vec<f32> = (0..256).map(|_| random.float()).collect();
            x[100] = bad;
            for isa in Isa::available() {
                let out = product(isa, 1, ty, &data, (16, 256), &x);
                assert!(out.iter().any(|v| !v.is_finite()), "{} {} hid {bad}", isa.name(), ty.name());
            }
        }
    }
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    assert!(matches!(WeightMatrix::new(GgmlType::Q4_0, &[0; 18], 1, 33), Err(Error::BadRow { .. })));
    assert!(matches!(WeightMatrix::new(GgmlType::Q4_0, &[0; 17], 1, 32), Err(Error::BadSize { .. })));
    assert!(matches!(WeightMatrix::new(GgmlType::I8, &[0; 36], 1, 36), Err(Error::UnsupportedType { .. })));
}
