//! Writes a plan: a temporary file beside the output, which takes the output's name when it is whole.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use hublabio_gguf::{GgmlType, decode_row, encode_row};

use crate::checkpoint;
use crate::error::Error;
use crate::plan::Plan;
use crate::safetensors::{DType, TensorInfo};
use crate::tensors::{Change, Source, Tensor};

/// Weights that are held at once, unless one row or one head has more.
const CHUNK_WEIGHTS: u64 = 1 << 20;

/// Above this a float becomes infinite in F16: it is half way from the largest number to the next one that would be.
const F16_OVERFLOW: f32 = 65_520.0;

/// The same for BF16: the largest number has the upper bits `7F7F`, the half way to the next rounds up, to even.
const BF16_OVERFLOW: f32 = f32::from_bits(0x7F7F_8000);

/// How many names are tried for the temporary file. Others of the same process number are left by a crash, or belong to
/// another conversion.
const TEMPORARY_NAMES: u32 = 100;

/// How far a conversion is.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// The tensor that is being written.
    pub tensor: &'a str,
    /// Tensors that are written.
    pub tensors_done: usize,
    /// Tensors in all.
    pub n_tensors: usize,
}

/// A temporary file, gone unless it was kept.
struct Temporary {
    path: PathBuf,
    kept: bool,
}

impl Temporary {
    /// A new file beside `out`, hidden. Errors name `out`: it is what the user gave.
    fn create(out: &Path, name: &str) -> Result<(File, Self), Error> {
        let folder = folder_of(out);
        if fs::metadata(folder).is_err_and(|cause| cause.kind() == io::ErrorKind::NotFound) {
            let problem = format!("cannot create {}: there is no folder {}", out.display(), folder.display());
            return Err(Error::malformed(problem, "make it first, or give another name"));
        }
        let mut number = 0;
        loop {
            let path = out.with_file_name(format!(".{name}.{}.{number}.part", std::process::id()));
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(file) => return Ok((file, Self { path, kept: false })),
                Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists && number < TEMPORARY_NAMES => number += 1,
                Err(cause) => return Err(Error::io("create", out)(cause)),
            }
        }
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.kept {
            // The error that led here is the one to report.
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Plan {
    /// Writes the file. It appears under its name when it is whole and on the disk; before that, and after any error,
    /// there is none. `progress` is called before each stretch of some million weights and may stop the work.
    ///
    /// # Errors
    /// [`Error::Exists`] unless `replace`; [`Error::Stopped`]; [`Error::Tensor`] for weights that are not finite or do
    /// not fit the type; what reading and writing raise.
    pub fn write(
        &self,
        out: &Path,
        replace: bool,
        progress: &mut dyn FnMut(Progress<'_>) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        let refuse_existing = || match fs::symlink_metadata(out) {
            Ok(found) if found.is_dir() => {
                let problem = format!("{} is a folder", out.display());
                Err(Error::malformed(problem, "give the name of the file to write"))
            }
            Ok(_) if checkpoint::is_input(&self.folder, &self.weights, out) => {
                let problem = format!("{} is a file of the checkpoint", out.display());
                Err(Error::malformed(problem, "give another name for the file to write"))
            }
            Ok(_) if !replace => Err(Error::Exists { path: out.to_path_buf() }),
            _ => Ok(()),
        };
        refuse_existing()?;
        let Some(name) = out.file_name() else {
            let problem = format!("{} is no file name", out.display());
            return Err(Error::malformed(problem, "give the name of the file to write"));
        };
        let (file, mut temporary) = Temporary::create(out, &name.to_string_lossy())?;
        let in_file = |error: Error| match error {
            Error::Gguf(error) => Error::Gguf(error).in_file(out),
            other => other,
        };
        let file = self.write_to(file, progress).map_err(in_file)?;
        file.sync_all().map_err(Error::io("write", out))?;
        drop(file);
        refuse_existing()?;
        fs::rename(&temporary.path, out).map_err(Error::io("create", out))?;
        temporary.kept = true;
        sync_folder(out);
        Ok(())
    }

    fn write_to(&self, file: File, progress: &mut dyn FnMut(Progress<'_>) -> ControlFlow<()>) -> Result<File, Error> {
        let mut data = self.writer.begin(BufWriter::with_capacity(1 << 20, file))?;
        for (number, (tensor, ty)) in self.tensors.iter().enumerate() {
            let mut step = || {
                let now = Progress { tensor: &tensor.name, tensors_done: number, n_tensors: self.tensors.len() };
                if progress(now).is_break() { Err(Error::Stopped) } else { Ok(()) }
            };
            // What is no error of the output takes a way around the writer.
            let mut failure = None;
            let written = data.tensor_with(|sink| {
                self.put(tensor, *ty, sink, &mut step).map_err(|error| {
                    failure = Some(error);
                    io::Error::other("told in `failure`")
                })
            });
            match failure {
                Some(error) => return Err(error),
                None => written?,
            }
        }
        let buffered = data.finish()?;
        buffered.into_inner().map_err(|error| hublabio_gguf::Error::Write { cause: error.into_error() }.into())
    }

    /// Writes one tensor, stretch by stretch.
    fn put(
        &self,
        tensor: &Tensor,
        ty: GgmlType,
        sink: &mut dyn Write,
        step: &mut dyn FnMut() -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut bytes = Vec::new();
        let mut emit = |weights: &[f32]| {
            bytes.clear();
            encode_row(ty, weights, None, &mut bytes).map_err(|error| Error::Tensor {
                name: tensor.name.clone(),
                problem: error.to_string(),
                advice: "choose another --type",
            })?;
            sink.write_all(&bytes).map_err(|cause| hublabio_gguf::Error::Write { cause })?;
            Ok::<(), Error>(())
        };
        let (parts, change) = match &tensor.source {
            Source::Values(values) => {
                check_computed(&tensor.name, values)?;
                return emit(values);
            }
            Source::Checkpoint { parts, change } => (parts, *change),
        };
        let (mut raw, mut weights) = (Vec::new(), Vec::new());
        for part in parts {
            let info = self.weights.info(part.place);
            // A bias is reordered like the rows of its matrix: each entry is a row.
            let (columns, first_row, n_rows) = match (change, info.shape.as_slice()) {
                (Change::Interleave { .. }, [entries]) => (1, 0, *entries),
                (_, shape) => (*shape.last().expect("a rule's shape has a dimension"), part.first_row, part.rows),
            };
            let rows_at_once = match change {
                Change::Interleave { rows_per_head } => rows_per_head,
                _ => (CHUNK_WEIGHTS / columns).max(1),
            };
            let mut row = 0;
            while row < n_rows {
                step()?;
                let rows = rows_at_once.min(n_rows - row);
                let n = (rows * columns) as usize;
                let before = (first_row + row) * columns;
                raw.resize(n * info.dtype.bytes() as usize, 0);
                self.weights.read(part.place, before * info.dtype.bytes(), &mut raw)?;
                weights.resize(n, 0.0);
                decode_row(float_type(info.dtype), &raw, &mut weights)?;
                check_range(info, ty, &weights, before)?;
                match change {
                    Change::Keep => emit(&weights)?,
                    Change::AddOne => {
                        weights.iter_mut().for_each(|weight| *weight += 1.0);
                        emit(&weights)?;
                    }
                    Change::Interleave { .. } => emit(&interleaved(&weights, columns as usize))?,
                }
                row += rows;
            }
        }
        Ok(())
    }
}

/// The rows of one head, first half and second half in turn.
fn interleaved(head: &[f32], columns: usize) -> Vec<f32> {
    let (first, second) = head.split_at(head.len() / 2);
    first.chunks(columns).zip(second.chunks(columns)).flat_map(|(a, b)| [a, b]).flatten().copied().collect()
}

fn float_type(dtype: DType) -> GgmlType {
    match dtype {
        DType::F64 => GgmlType::F64,
        DType::F16 => GgmlType::F16,
        DType::BF16 => GgmlType::BF16,
        _ => GgmlType::F32, // `arrange` lets floats through only
    }
}

/// Refuses numbers that the configuration's own make infinite.
fn check_computed(name: &str, values: &[f32]) -> Result<(), Error> {
    let Some(index) = values.iter().position(|value| !value.is_finite()) else { return Ok(()) };
    let problem = format!("number {index} is {}", values[index]);
    let advice = "it is computed from the rope settings of config.json, fetch the checkpoint again";
    Err(Error::Tensor { name: name.to_owned(), problem, advice })
}

/// Refuses weights that are broken, or that would become infinite. `before` weights of the tensor came before these.
fn check_range(info: &TensorInfo, ty: GgmlType, weights: &[f32], before: u64) -> Result<(), Error> {
    let (limit, too_large) = match ty {
        GgmlType::F16 => (F16_OVERFLOW, "too large for F16: convert to BF16 or F32"),
        GgmlType::BF16 => (BF16_OVERFLOW, "too large for BF16: convert to F32"),
        _ => (f32::INFINITY, ""),
    };
    // NaN is not below any limit.
    let Some(index) =
        weights.iter().position(|weight| !matches!(weight.abs().partial_cmp(&limit), Some(std::cmp::Ordering::Less)))
    else {
        return Ok(());
    };
    let problem = format!("weight {} is {}", before + index as u64, weights[index]);
    let advice = if weights[index].is_finite() { too_large } else { "the checkpoint is damaged, fetch it again" };
    Err(Error::Tensor { name: info.name.clone(), problem, advice })
}

/// Makes the new name survive a crash where the system lets us. Where it does not, the file itself is on the disk
/// already.
fn sync_folder(out: &Path) {
    if let Ok(folder) = File::open(folder_of(out)) {
        let _ = folder.sync_all();
    }
}

fn folder_of(file: &Path) -> &Path {
    file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_interleaved() {
        assert_eq!(interleaved(&[0.0, 1.0, 2.0, 3.0], 1), [0.0, 2.0, 1.0, 3.0]);
        assert_eq!(interleaved(&[0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5], 2), [0.0, 0.5, 2.0, 2.5, 1.0, 1.5, 3.0, 3.5]);
    }

    /// The limit is where this workspace's own encoder goes over.
    #[test]
    fn bf16_overflows_at_the_limit() {
        let encoded = |weight: f32| {
            let (mut bytes, mut back) = (Vec::new(), [0.0]);
            encode_row(GgmlType::BF16, &[weight], None, &mut bytes).unwrap();
            decode_row(GgmlType::BF16, &bytes, &mut back).unwrap();
            back[0]
        };
        assert!(encoded(BF16_OVERFLOW.next_down()).is_finite());
        assert_eq!(encoded(BF16_OVERFLOW), f32::INFINITY);
    }

    #[test]
    fn weights_that_a_file_cannot_hold_are_named() {
        let info = TensorInfo { name: "a".into(), dtype: DType::F32, shape: vec![2], begin: 0, end: 8 };
        let check = |ty, weight: f32| check_range(&info, ty, &[0.0, weight], 10).map_err(|error| error.to_string());
        assert_eq!(check(GgmlType::F16, 65_519.0), Ok(()));
        assert!(check(GgmlType::F16, -65_520.0).unwrap_err().contains("tensor `a`: weight 11 is -65520: too large"));
        assert_eq!(check(GgmlType::BF16, 65_520.0), Ok(()));
        assert_eq!(check(GgmlType::BF16, BF16_OVERFLOW.next_down()), Ok(()));
        assert!(check(GgmlType::BF16, -BF16_OVERFLOW).unwrap_err().contains("too large for BF16: convert to F32"));
        assert_eq!(check(GgmlType::F32, f32::MAX), Ok(()));
        assert!(check(GgmlType::F32, f32::NAN).unwrap_err().contains("damaged"));
        assert!(check(GgmlType::F32, f32::NEG_INFINITY).unwrap_err().contains("damaged"));
    }
}
