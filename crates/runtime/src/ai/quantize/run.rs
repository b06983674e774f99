//! The streaming run: slabs of rows from file to file.
//!
//! The calling thread reads a slab, the team recodes it, a writer thread puts it into the file while the next is made.
//! Slabs are read, not mapped: mapped pages would count as this process's memory until the system takes them back.

use std::fs::File;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Instant;

use hublabio_gguf::{DataWriter, GgufFile, Importance, Metadata, TensorView, Writer};
use hublabio_kernels::{ErrorSums, Isa, Recode, ThreadTeam, check_rows, recode_rows};

use super::output::{Pending, io};
use super::plan::{PlannedTensor, is_embedding};
use super::{QuantizeOptions, QuantizePlan, QuantizeProgress, QuantizeReport, TensorError};
use crate::ai::ImportanceMatrix;
use crate::{Error, Result};

/// Weights of a slab for each thread: enough chunks that no thread waits long for the last, few enough that Ctrl-C is
/// heard soon in the slowest format.
const SLAB_WEIGHTS_PER_THREAD: usize = 512 * 1024;
const SLAB_WEIGHTS_MAX: usize = 16 * 1024 * 1024;
/// Slabs that wait for the disk.
const SLABS_WAITING: usize = 2;
/// Bytes that a thread reads at a time.
const READ_PIECE: usize = 256 * 1024;

pub(super) fn run(
    plan: QuantizePlan,
    file: &GgufFile,
    output: &Path,
    options: &QuantizeOptions,
    progress: &mut dyn FnMut(QuantizeProgress) -> ControlFlow<()>,
) -> Result<QuantizeReport> {
    let start = Instant::now();
    let mut writer = Writer::with_metadata(metadata(file, options));
    for tensor in &plan.tensors {
        writer.add_tensor(&tensor.name, &tensor.dims, tensor.to)?;
    }
    let parts = match options.split {
        Some(limit) => writer.split(limit)?,
        None => vec![writer],
    };
    let pending = Pending::new(output, parts.len(), file, options.overwrite)?;
    // The first file is made before any work, so that a folder that cannot be written is known at once.
    let first = pending.create(0)?;

    let team = options.threads.map_or_else(ThreadTeam::with_all_cores, ThreadTeam::new);
    let (slabs, to_write) = sync_channel(SLABS_WAITING);
    let (give_back, free) = sync_channel(SLABS_WAITING + 2);
    let (made, written) = thread::scope(|scope| {
        let sizes: Vec<u64> = plan.tensors.iter().map(|tensor| tensor.bytes_after).collect();
        let (parts, pending) = (&parts, &pending);
        let writing = scope.spawn(move || write(parts, pending, first, &sizes, &to_write, &give_back));
        let made = Maker { file, plan: &plan, options, team: &team, slabs, free }.make_all(progress);
        (made, writing.join().expect("the writer does not panic"))
    });
    // When writing fails the maker only learns that nobody listens any more.
    let errors = match (made, written) {
        (Ok(errors), Ok(())) => errors,
        (Err(Stopped::Failed(error)), _) | (_, Err(error)) => return Err(error),
        (Err(Stopped::NobodyListens), Ok(())) => unreachable!("the writer leaves early only with an error"),
    };
    let files = pending.finish()?;
    let file_bytes = files.iter().map(|path| path.metadata().map_or(0, |metadata| metadata.len())).sum();
    Ok(QuantizeReport { plan, errors, files, file_bytes, seconds: start.elapsed().as_secs_f64() })
}

/// The source's metadata and what quantizing adds, under the keys and types of llama.cpp.
fn metadata(file: &GgufFile, options: &QuantizeOptions) -> Metadata {
    let mut metadata = file.metadata().clone();
    for key in ["split.no", "split.count", "split.tensors.count"] {
        metadata.remove(key);
    }
    metadata.insert("general.quantization_version", 2u32);
    metadata.insert("general.file_type", options.mix.file_type);
    if let Some((path, importance)) = &options.importance {
        metadata.insert("quantize.imatrix.file", path.to_string_lossy().into_owned());
        if let Some(dataset) = importance.datasets().first() {
            metadata.insert("quantize.imatrix.dataset", dataset.clone());
        }
        let count = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        metadata.insert("quantize.imatrix.entries_count", count(importance.n_entries() as u64));
        if importance.chunk_count() > 0 {
            metadata.insert("quantize.imatrix.chunks_count", count(importance.chunk_count()));
        }
    }
    metadata
}

/// The importance of a tensor's matrices, one for each; `None` where nothing is known.
pub(super) fn importance_of(matrix: &ImportanceMatrix, tensor: &PlannedTensor) -> Result<Option<Vec<Importance>>> {
    let columns = tensor.shape().0 as usize;
    let matrices = tensor.dims.iter().skip(2).product::<u64>() as usize;
    let lists = match matrix.mean_squares_by_columns(&tensor.name, columns, matrices) {
        // What does not fit says nothing about an embedding, as in llama.cpp; anywhere else it is a mistake to tell.
        Err(Error::ImportanceShape { .. }) if is_embedding(&tensor.name) => return Ok(None),
        lists => lists?,
    };
    let Some(lists) = lists else { return Ok(None) };
    let lists: std::result::Result<_, _> = lists.iter().map(|list| Importance::new(list)).collect();
    lists.map(Some).map_err(|cause| in_tensor(&tensor.name, cause))
}

fn in_tensor(name: &str, cause: hublabio_gguf::Error) -> Error {
    hublabio_gguf::Error::InTensor { name: name.to_owned(), cause: Box::new(cause) }.into()
}

/// Why no more slabs come.
enum Stopped {
    Failed(Error),
    NobodyListens,
}

impl<E: Into<Error>> From<E> for Stopped {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// Makes the slabs of all tensors, in order.
struct Maker<'a> {
    file: &'a GgufFile,
    plan: &'a QuantizePlan,
    options: &'a QuantizeOptions,
    team: &'a ThreadTeam,
    slabs: SyncSender<Vec<u8>>,
    /// Buffers that were written.
    free: Receiver<Vec<u8>>,
}

impl Maker<'_> {
    fn make_all(
        self,
        progress: &mut dyn FnMut(QuantizeProgress) -> ControlFlow<()>,
    ) -> std::result::Result<Vec<Option<TensorError>>, Stopped> {
        let source = Source::open(self.file)?;
        let bytes_total = self.plan.bytes_before();
        let mut bytes_done = 0;
        let mut buffer = Vec::new();
        let mut errors = Vec::with_capacity(self.plan.tensors.len());
        for (index, tensor) in self.plan.tensors.iter().enumerate() {
            let view = self.file.tensor_at(index).expect("the plan has the file's tensors");
            let importance = match &self.options.importance {
                Some((_, matrix)) if !tensor.is_copied() => importance_of(matrix, tensor)?,
                _ => None,
            };
            let mut sums = ErrorSums::default();
            for slab in slabs(tensor, importance.as_deref(), self.team.n_threads()) {
                let told = QuantizeProgress {
                    tensor: &tensor.name,
                    number: index + 1,
                    tensors: self.plan.tensors.len(),
                    bytes_done,
                    bytes_total,
                };
                if progress(told).is_break() {
                    return Err(Error::Cancelled.into());
                }
                let bytes = source.read(self.team, &view, &slab, &mut buffer)?;
                bytes_done += bytes.len() as u64;
                let mut out = self.free.try_recv().unwrap_or_default();
                sums += self.recode(tensor, &slab, bytes, &mut out)?;
                self.slabs.send(out).map_err(|_| Stopped::NobodyListens)?;
            }
            errors.push((!tensor.is_copied()).then(|| TensorError::from_sums(&sums, importance.is_some())));
        }
        Ok(errors)
    }

    /// One slab in its new type, or checked and copied.
    fn recode(&self, tensor: &PlannedTensor, slab: &Slab, bytes: &[u8], out: &mut Vec<u8>) -> Result<ErrorSums> {
        let (cols, isa) = (tensor.shape().0 as usize, Isa::best());
        let result = if tensor.is_copied() {
            out.clear();
            out.extend_from_slice(bytes);
            if tensor.from.can_decode() {
                check_rows(self.team, isa, (tensor.from, cols), bytes).map(|()| ErrorSums::default())
            } else {
                Ok(ErrorSums::default())
            }
        } else {
            let row_bytes = tensor.to.row_bytes(cols).expect("the plan has types that fit");
            out.resize(slab.rows * row_bytes, 0);
            let recode = Recode { from: tensor.from, to: tensor.to, cols, importance: slab.importance };
            recode_rows(self.team, isa, &recode, bytes, out)
        };
        result.map_err(|error| match error {
            hublabio_gguf::Error::NotEncodable { ty, index, value } => Error::BadWeight {
                tensor: tensor.name.clone(),
                index: slab.first as u64 * cols as u64 + index as u64,
                value,
                ty: ty.name(),
            },
            other => in_tensor(&tensor.name, other),
        })
    }
}

impl TensorError {
    fn from_sums(sums: &ErrorSums, weighted: bool) -> Self {
        // Weights that are all zero are packed without error.
        let share = |errors: f64, squares: f64| if squares > 0.0 { (errors / squares).sqrt() } else { 0.0 };
        Self {
            rmse: share(sums.errors, sums.squares),
            weighted_rmse: weighted.then(|| share(sums.weighted_errors, sums.weighted_squares)),
        }
    }
}

/// Rows that are worked on together; they lie in one matrix if that matrix has an importance of its own.
struct Slab<'a> {
    first: usize,
    rows: usize,
    importance: Option<&'a Importance>,
}

fn slabs<'a>(
    tensor: &PlannedTensor,
    importance: Option<&'a [Importance]>,
    threads: usize,
) -> impl Iterator<Item = Slab<'a>> {
    let (cols, rows) = tensor.shape();
    let (cols, rows) = (cols as usize, rows as usize);
    let weights = threads.saturating_mul(SLAB_WEIGHTS_PER_THREAD).min(SLAB_WEIGHTS_MAX);
    let step = (weights / cols).max(1);
    let matrix_rows = importance.map_or(rows, |matrices| rows / matrices.len());
    (0..rows / matrix_rows).flat_map(move |matrix| {
        (0..matrix_rows).step_by(step).map(move |row| Slab {
            first: matrix * matrix_rows + row,
            rows: step.min(matrix_rows - row),
            importance: importance.map(|matrices| &matrices[matrix]),
        })
    })
}

/// Where the source's bytes come from: its files, or memory that is there anyway.
struct Source {
    /// One for each part; empty for bytes in memory.
    #[cfg_attr(not(unix), allow(dead_code))]
    files: Vec<File>,
}

impl Source {
    fn open(file: &GgufFile) -> Result<Self> {
        let paths = file.parts().iter().filter_map(|part| part.path());
        let files = paths.map(|path| File::open(path).map_err(|cause| io("open", path, cause)));
        Ok(Self { files: files.collect::<Result<_>>()? })
    }

    /// The bytes of a slab, by the whole team.
    #[cfg(unix)]
    fn read<'a>(
        &self,
        team: &ThreadTeam,
        view: &TensorView<'a>,
        slab: &Slab,
        buffer: &'a mut Vec<u8>,
    ) -> Result<&'a [u8]> {
        use std::os::unix::fs::FileExt;
        let row_bytes = view.row_bytes();
        let range = slab.first * row_bytes..(slab.first + slab.rows) * row_bytes;
        let Some(file) = self.files.get(view.info.part()) else { return Ok(&view.data[range]) };
        let offset = view.info.file_offset() + range.start as u64;
        buffer.resize(range.len(), 0);
        let failed = std::sync::Mutex::new(None);
        team.run_chunks_mut(buffer, READ_PIECE, |i, piece| {
            if let Err(cause) = file.read_exact_at(piece, offset + (i * READ_PIECE) as u64) {
                *failed.lock().expect("nothing panics while it is held") = Some(cause);
            }
        });
        match failed.into_inner().expect("nothing panics while it is held") {
            Some(cause) => Err(Error::ReadTensor { tensor: view.info.name.clone(), cause }),
            None => Ok(buffer),
        }
    }

    /// The bytes of a slab, from the map.
    #[cfg(not(unix))]
    fn read<'a>(
        &self,
        _team: &ThreadTeam,
        view: &TensorView<'a>,
        slab: &Slab,
        _buffer: &'a mut Vec<u8>,
    ) -> Result<&'a [u8]> {
        let row_bytes = view.row_bytes();
        Ok(&view.data[slab.first * row_bytes..(slab.first + slab.rows) * row_bytes])
    }
}

/// Writes the slabs into the parts, and gives their buffers back.
fn write(
    parts: &[Writer],
    pending: &Pending,
    first: File,
    sizes: &[u64],
    slabs: &Receiver<Vec<u8>>,
    give_back: &SyncSender<Vec<u8>>,
) -> Result<()> {
    let mut first = Some(first);
    let mut sizes = sizes.iter();
    for (part, writer) in parts.iter().enumerate() {
        let failed = |error| match error {
            hublabio_gguf::Error::Write { cause } => io("write", pending.place(part), cause),
            other => other.into(),
        };
        let file = match first.take() {
            Some(file) => file,
            None => pending.create(part)?,
        };
        let mut data: DataWriter<File> = writer.begin(file).map_err(failed)?;
        for &size in sizes.by_ref().take(writer.n_tensors()) {
            let mut left = size;
            let mut gone = false;
            let written = data.tensor_with(|sink| {
                while left > 0 {
                    let Ok(slab) = slabs.recv() else {
                        gone = true;
                        return Err(std::io::Error::other("the rows stopped coming"));
                    };
                    sink.write_all(&slab)?;
                    left -= slab.len() as u64;
                    // When the maker has left it needs no buffers.
                    let _ = give_back.try_send(slab);
                }
                Ok(())
            });
            if gone {
                // The maker knows why and says so.
                return Ok(());
            }
            written.map_err(failed)?;
        }
        let file = data.finish().map_err(failed)?;
        file.sync_all().map_err(|cause| io("write", pending.place(part), cause))?;
    }
    Ok(())
}
