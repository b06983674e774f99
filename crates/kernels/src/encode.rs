//! Packing and decoding whole matrices: the scalar code of the format room, compiled for this CPU and shared by the team.
//!
//! That code uses no fused operations and fixed lanes, so every instruction set writes the same bytes; here it only gets
//! wider registers.

use hublabio_gguf::blocks::{Encode, Format, simple};
use hublabio_gguf::{Error, GgmlType, Importance, decode_blocks, encode_blocks, with_encoder, with_format};

use crate::simd::{Isa, Operation, Simd};
use crate::team::{SharedMut, ThreadTeam};

/// Weights that a thread packs at a time, about.
const WEIGHTS_PER_CHUNK: usize = 16 * 1024;

/// Packs `weights` `[rows, cols]` into `out`, in parallel over rows.
///
/// # Errors
/// Those of [`encode_row`](hublabio_gguf::encode_row); of several bad weights the first is named, its index counted from
/// the start of `weights`. [`Error::ImportanceSize`] unless there is one importance for each column.
///
/// # Panics
/// When `weights` is no whole number of rows, or `out` is not exactly as long as its blocks.
pub fn encode_rows(
    team: &ThreadTeam,
    isa: Isa,
    (ty, cols): (GgmlType, usize),
    weights: &[f32],
    importance: Option<&Importance>,
    out: &mut [u8],
) -> Result<(), Error> {
    assert!(cols > 0 && weights.len().is_multiple_of(cols), "{} weights are no rows of {cols}", weights.len());
    let row_bytes = ty.row_bytes(cols).ok_or(Error::RowSize { ty, bytes: out.len(), weights: cols })?;
    let rows = weights.len() / cols;
    assert_eq!(out.len(), rows * row_bytes, "bytes for exactly these rows");
    check_importance(importance, cols)?;
    let shared = SharedMut::new(out);
    in_chunks(team, rows, cols, |first, n| {
        // SAFETY: chunks are disjoint runs of rows.
        let bytes = unsafe { shared.slice(first * row_bytes, n * row_bytes) };
        encode(isa, ty, &weights[first * cols..(first + n) * cols], importance, bytes)?;
        Ok(ErrorSums::default())
    })
    .map(drop)
}

fn check_importance(importance: Option<&Importance>, cols: usize) -> Result<(), Error> {
    match importance.map(|importance| importance.values().len()) {
        Some(found) if found != cols => Err(Error::ImportanceSize { found, expected: cols }),
        _ => Ok(()),
    }
}

fn encode(
    isa: Isa,
    ty: GgmlType,
    weights: &[f32],
    importance: Option<&Importance>,
    bytes: &mut [u8],
) -> Result<(), Error> {
    with_encoder!(
        ty, F => isa.run(EncodeRows::<F> { weights, importance, bytes, format: std::marker::PhantomData }),
        else simple::encode(ty, weights, bytes)
    )
}

struct EncodeRows<'a, F> {
    weights: &'a [f32],
    importance: Option<&'a Importance>,
    bytes: &'a mut [u8],
    format: std::marker::PhantomData<F>,
}

impl<F: Encode> Operation for EncodeRows<'_, F> {
    type Output = Result<(), Error>;

    #[inline(always)]
    fn eval<S: Simd>(self, _s: S) -> Self::Output {
        encode_blocks::<F>(self.weights, self.importance, self.bytes)
    }
}

fn decode(isa: Isa, ty: GgmlType, bytes: &[u8], weights: &mut [f32]) -> Result<(), Error> {
    with_format!(
        ty, F => isa.run(DecodeRows::<F> { bytes, weights, format: std::marker::PhantomData }),
        else return isa.run(DecodePlain { ty, bytes, weights })
    );
    Ok(())
}

struct DecodeRows<'a, F> {
    bytes: &'a [u8],
    weights: &'a mut [f32],
    format: std::marker::PhantomData<F>,
}

impl<F: Format> Operation for DecodeRows<'_, F> {
    type Output = ();

    #[inline(always)]
    fn eval<S: Simd>(self, _s: S) {
        decode_blocks::<F>(self.bytes, self.weights);
    }
}

struct DecodePlain<'a> {
    ty: GgmlType,
    bytes: &'a [u8],
    weights: &'a mut [f32],
}

impl Operation for DecodePlain<'_> {
    type Output = Result<(), Error>;

    #[inline(always)]
    fn eval<S: Simd>(self, _s: S) -> Self::Output {
        simple::decode(self.ty, self.bytes, self.weights)
    }
}

/// Rows that change their type.
#[derive(Clone, Copy, Debug)]
pub struct Recode<'a> {
    /// The type that they have.
    pub from: GgmlType,
    /// The type that they get.
    pub to: GgmlType,
    /// Weights in a row.
    pub cols: usize,
    /// One entry for each column.
    pub importance: Option<&'a Importance>,
}

/// How far weights moved when they were packed: sums over weights, from which the caller takes means and roots.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ErrorSums {
    /// Of squared weights.
    pub squares: f64,
    /// Of squared differences between the weights before and after.
    pub errors: f64,
    /// Of squared weights times the importance of their columns; as `squares` without importance.
    pub weighted_squares: f64,
    /// Of squared differences times the importance of their columns; as `errors` without importance.
    pub weighted_errors: f64,
}

impl std::ops::AddAssign for ErrorSums {
    fn add_assign(&mut self, other: Self) {
        self.squares += other.squares;
        self.errors += other.errors;
        self.weighted_squares += other.weighted_squares;
        self.weighted_errors += other.weighted_errors;
    }
}

/// Decodes `source`, packs it into `out`, and measures the error, chunk by chunk while the weights are in the cache: in
/// memory there are never more than a few thousand decoded weights for each thread. The sums do not depend on threads
/// or instruction set.
///
/// # Errors
/// Those of [`decode_row`](hublabio_gguf::decode_row) and [`encode_row`](hublabio_gguf::encode_row); also
/// [`Error::NotEncodable`] for a weight that is not finite before or after, in plain number types too. Of several bad
/// weights the first is named, its index counted from the start of `source`.
///
/// # Panics
/// When `source` is no whole number of rows, or `out` is not exactly as long as their blocks.
pub fn recode_rows(
    team: &ThreadTeam,
    isa: Isa,
    recode: &Recode,
    source: &[u8],
    out: &mut [u8],
) -> Result<ErrorSums, Error> {
    let Recode { from, to, cols, importance } = *recode;
    let row_bytes = |ty: GgmlType, bytes| ty.row_bytes(cols).ok_or(Error::RowSize { ty, bytes, weights: cols });
    let (source_row, out_row) = (row_bytes(from, source.len())?, row_bytes(to, out.len())?);
    if !from.can_decode() {
        return Err(Error::CannotDecode { ty: from });
    }
    if !to.can_encode() {
        return Err(Error::CannotEncode { ty: to });
    }
    assert!(cols > 0 && source.len().is_multiple_of(source_row), "{} bytes are no rows of {cols}", source.len());
    let rows = source.len() / source_row;
    assert_eq!(out.len(), rows * out_row, "bytes for exactly these rows");
    check_importance(importance, cols)?;
    let shared = SharedMut::new(out);
    in_chunks(team, rows, cols, |first, n| {
        // SAFETY: chunks are disjoint runs of rows.
        let bytes = unsafe { shared.slice(first * out_row, n * out_row) };
        let mut before = vec![0.0; n * cols];
        decode(isa, from, &source[first * source_row..][..n * source_row], &mut before)?;
        encode(isa, to, &before, importance, bytes)?;
        let mut after = vec![0.0; n * cols];
        decode(isa, to, bytes, &mut after)?;
        let sums = isa.run(MeasureError { before: &before, after: &after, importance });
        if sums.errors.is_finite() {
            return Ok(sums);
        }
        let finite = |i: &usize| before[*i].is_finite() && after[*i].is_finite();
        let index = (0..before.len()).find(|i| !finite(i)).expect("a sum of finite squares in f64 is finite");
        Err(Error::NotEncodable { ty: to, index, value: before[index] })
    })
}

/// Looks for a weight that is not finite.
///
/// # Errors
/// [`Error::NotEncodable`] for the first, its index counted from the start of `bytes`; [`Error::CannotDecode`].
///
/// # Panics
/// When `bytes` is no whole number of rows.
pub fn check_rows(team: &ThreadTeam, isa: Isa, (ty, cols): (GgmlType, usize), bytes: &[u8]) -> Result<(), Error> {
    let row_bytes = ty.row_bytes(cols).ok_or(Error::RowSize { ty, bytes: bytes.len(), weights: cols })?;
    assert!(cols > 0 && bytes.len().is_multiple_of(row_bytes), "{} bytes are no rows of {cols}", bytes.len());
    in_chunks(team, bytes.len() / row_bytes, cols, |first, n| {
        let mut weights = vec![0.0; n * cols];
        decode(isa, ty, &bytes[first * row_bytes..][..n * row_bytes], &mut weights)?;
        match weights.iter().position(|weight| !weight.is_finite()) {
            Some(index) => Err(Error::NotEncodable { ty, index, value: weights[index] }),
            None => Ok(ErrorSums::default()),
        }
    })
    .map(drop)
}

/// Runs `work(first row, rows)` over chunks of rows and adds up what it gives in the order of the rows, so that the sum
/// does not depend on who did what. Of several errors that of the first chunk counts, its index counted from row 0.
fn in_chunks(
    team: &ThreadTeam,
    rows: usize,
    cols: usize,
    work: impl Fn(usize, usize) -> Result<ErrorSums, Error> + Sync,
) -> Result<ErrorSums, Error> {
    let per_chunk = (WEIGHTS_PER_CHUNK / cols).max(1);
    let mut results: Vec<Result<ErrorSums, Error>> = Vec::new();
    results.resize_with(rows.div_ceil(per_chunk), || Ok(ErrorSums::default()));
    team.run_chunks_mut(&mut results, 1, |chunk, result| {
        let first = chunk * per_chunk;
        result[0] = work(first, per_chunk.min(rows - first)).map_err(|error| match error {
            Error::NotEncodable { ty, index, value } => Error::NotEncodable { ty, index: index + first * cols, value },
            other => other,
        });
    });
    let mut total = ErrorSums::default();
    for result in results {
        total += result?;
    }
    Ok(total)
}

struct MeasureError<'a> {
    before: &'a [f32],
    after: &'a [f32],
    importance: Option<&'a Importance>,
}

impl Operation for MeasureError<'_> {
    type Output = ErrorSums;

    #[inline(always)]
    fn eval<S: Simd>(self, _s: S) -> ErrorSums {
        let Self { before, after, importance } = self;
        let [squares, errors] = sums(before, after, |_| 1.0);
        let Some(columns) = importance.map(Importance::values) else {
            return ErrorSums { squares, errors, weighted_squares: squares, weighted_errors: errors };
        };
        let mut total = ErrorSums { squares, errors, ..ErrorSums::default() };
        for (before, after) in before.chunks_exact(columns.len()).zip(after.chunks_exact(columns.len())) {
            let [squares, errors] = sums(before, after, |i| columns[i]);
            total.weighted_squares += squares;
            total.weighted_errors += errors;
        }
        total
    }
}

/// `Σ factor · before²` and `Σ factor · (before - after)²`. In double precision, because squares of single precision
/// overflow it; in fixed lanes, so that vectors of any width give the same sums.
#[inline(always)]
fn sums(before: &[f32], after: &[f32], factor: impl Fn(usize) -> f32) -> [f64; 2] {
    const LANES: usize = 16;
    let (mut squares, mut errors) = ([0.0f64; LANES], [0.0f64; LANES]);
    let mut add = |lane: usize, at: usize, before: f32, after: f32| {
        let (factor, before, after) = (f64::from(factor(at)), f64::from(before), f64::from(after));
        let error = before - after;
        squares[lane] += factor * before * before;
        errors[lane] += factor * error * error;
    };
    let (before_lanes, before_rest) = before.as_chunks::<LANES>();
    let (after_lanes, after_rest) = after.as_chunks::<LANES>();
    for (group, (before, after)) in before_lanes.iter().zip(after_lanes).enumerate() {
        for lane in 0..LANES {
            add(lane, group * LANES + lane, before[lane], after[lane]);
        }
    }
    for (lane, (&before, &after)) in before_rest.iter().zip(after_rest).enumerate() {
        add(lane, before_lanes.len() * LANES + lane, before, after);
    }
    [squares.iter().sum(), errors.iter().sum()]
}

#[cfg(test)]
mod tests {
    use hublabio_gguf::{decode_row, encode_row};

    use super::*;

    /// Bit for bit the same file, whatever CPU and number of threads made it.
    #[test]
    fn every_isa_and_thread_count_packs_the_same_bytes() {
        let cols = 512;
        let mut state = 7u64;
        let mut normal = || {
            let mut sum = -6.0;
            for _ in 0..12 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                sum += (state >> 40) as f32 / (1 << 24) as f32;
            }
            sum
        };
        // Ordinary rows, tiny and large ones, constants, spikes, two values, and rows without anything.
        let mut weights: Vec<f32> = (0..8 * cols).map(|_| normal() * 0.03).collect();
        for scale in [1e-40, 1e-20, 1e-6, 100.0] {
            weights.extend((0..cols).map(|_| normal() * scale));
        }
        weights.extend((0..cols).map(|_| 0.7));
        weights.extend((0..cols).map(|i| if i % 100 == 3 { -50.0 } else { 1e-3 }));
        weights.extend((0..cols).map(|_| normal().signum() * 0.25));
        weights.extend((0..cols).map(|_| 0.0));
        let columns: Vec<f32> = (0..cols).map(|_| normal().powi(2)).collect();
        let columns = Importance::new(&columns).unwrap();
        for &ty in GgmlType::ALL.iter().filter(|ty| ty.can_encode()) {
            for importance in [None, Some(&columns)] {
                let mut expected = Vec::new();
                encode_row(ty, &weights, importance, &mut expected).unwrap();
                for isa in Isa::available() {
                    for threads in [1, 2] {
                        let mut found = vec![0; expected.len()];
                        encode_rows(&ThreadTeam::new(threads), isa, (ty, cols), &weights, importance, &mut found)
                            .unwrap();
                        assert!(found == expected, "{ty} on {} with {threads} threads", isa.name());
                    }
                }
            }
        }
    }

    #[test]
    fn importance_for_another_matrix_is_refused() {
        let weights = [0.25f32; 1024];
        for columns in [256, 1024] {
            let importance = Importance::new(&vec![1.0; columns]).unwrap();
            for ty in [GgmlType::Q4_K, GgmlType::F16] {
                let mut out = vec![0; ty.row_bytes(weights.len()).unwrap()];
                let team = ThreadTeam::new(1);
                let error =
                    encode_rows(&team, Isa::best(), (ty, 512), &weights, Some(&importance), &mut out).unwrap_err();
                assert!(matches!(error, Error::ImportanceSize { expected: 512, .. }), "{error}");
            }
        }
    }

    /// Packing from another type is packing what it decodes to, and the sums are those of the definition.
    #[test]
    fn recoding_is_decoding_and_encoding() {
        let (cols, rows) = (256, 70);
        let weights: Vec<f32> = (0..rows * cols).map(|i| ((i * 7919 % 1013) as f32 - 506.0) / 4096.0).collect();
        let columns: Vec<f32> = (0..cols).map(|i| 0.5 + (i % 7) as f32).collect();
        let columns = Importance::new(&columns).unwrap();
        for from in [GgmlType::F32, GgmlType::F16, GgmlType::BF16, GgmlType::Q8_0] {
            let mut source = Vec::new();
            encode_row(from, &weights, None, &mut source).unwrap();
            let mut before = vec![0.0; weights.len()];
            decode_row(from, &source, &mut before).unwrap();
            for &to in GgmlType::ALL.iter().filter(|ty| ty.can_encode() && ty.can_decode()) {
                for importance in [None, Some(&columns)] {
                    let mut expected = Vec::new();
                    encode_row(to, &before, importance, &mut expected).unwrap();
                    let mut after = vec![0.0; weights.len()];
                    decode_row(to, &expected, &mut after).unwrap();
                    let factor = |i: usize| importance.map_or(1.0, |columns| f64::from(columns.values()[i % cols]));
                    let error = |i: usize| (f64::from(before[i]) - f64::from(after[i])).powi(2);
                    let plain: f64 = (0..before.len()).map(error).sum();
                    let weighted: f64 = (0..before.len()).map(|i| factor(i) * error(i)).sum();
                    let mut first = None;
                    for isa in Isa::available() {
                        for threads in [1, 3] {
                            let mut found = vec![0; expected.len()];
                            let recode = Recode { from, to, cols, importance };
                            let team = ThreadTeam::new(threads);
                            let sums = recode_rows(&team, isa, &recode, &source, &mut found).unwrap();
                            assert!(found == expected, "{from} to {to} on {}", isa.name());
                            assert!((sums.errors - plain).abs() <= plain * 1e-9, "{from} to {to}: {sums:?}, {plain}");
                            assert!((sums.weighted_errors - weighted).abs() <= weighted * 1e-9, "{sums:?}, {weighted}");
                            assert_eq!(*first.get_or_insert(sums), sums, "{from} to {to} on {}", isa.name());
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn the_first_weight_that_is_not_finite_is_named() {
        let (cols, rows) = (64, 1000);
        let mut weights = vec![0.5f32; rows * cols];
        weights[40_000] = f32::NAN;
        weights[50_000] = f32::INFINITY;
        let source: Vec<u8> = weights.iter().flat_map(|weight| weight.to_le_bytes()).collect();
        let team = ThreadTeam::new(2);
        for to in [GgmlType::Q8_0, GgmlType::F16, GgmlType::F32] {
            let recode = Recode { from: GgmlType::F32, to, cols, importance: None };
            let mut out = vec![0; to.row_bytes(weights.len()).unwrap()];
            let error = recode_rows(&team, Isa::best(), &recode, &source, &mut out).unwrap_err();
            assert!(matches!(error, Error::NotEncodable { index: 40_000, .. }), "{to}: {error}");
        }
        let error = check_rows(&team, Isa::best(), (GgmlType::F32, cols), &source).unwrap_err();
        assert!(matches!(error, Error::NotEncodable { index: 40_000, .. }), "{error}");
        // What half precision cannot hold becomes infinite: refused as well.
        weights.fill(0.5);
        weights[7] = 1e6;
        let source: Vec<u8> = weights.iter().flat_map(|weight| weight.to_le_bytes()).collect();
        let recode = Recode { from: GgmlType::F32, to: GgmlType::F16, cols, importance: None };
        let mut out = vec![0; weights.len() * 2];
        let error = recode_rows(&team, Isa::best(), &recode, &source, &mut out).unwrap_err();
        assert!(matches!(error, Error::NotEncodable { index: 7, value: 1e6, .. }), "{error}");
    }
}
