//! Making smaller files out of models: what type each tensor gets, and packing them without ever holding the model.
//!
//! `mix.rs` says what the names of quantized files promise, `plan.rs` applies that to the tensors of a model, `run.rs`
//! streams them from file to file through the kernels, `output.rs` makes files appear whole or not at all. Nothing here
//! knows how weights are packed: that is `hublabio_gguf::encode`.

mod mix;
mod output;
mod plan;
mod run;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use hublabio_gguf::{GgmlType, GgufFile, SplitLimit, TensorInfo};

pub use mix::{MIXES, Mix};
pub(in crate::ai) use output::partial_name;
pub use plan::{PlannedTensor, TensorTypeRule, tensor_type};

use crate::ai::ImportanceMatrix;
use crate::{Error, Result};

/// How to quantize a model.
#[derive(Debug)]
pub struct QuantizeOptions {
    /// Which types the matrices get.
    pub mix: &'static Mix,
    /// The mix's base type for all matrices.
    pub pure: bool,
    /// The first rule that matches a matrix's name decides; the mix decides about the others.
    pub tensor_types: Vec<TensorTypeRule>,
    /// For the output, which is the token embedding in models that have no other. Goes before `tensor_types`.
    pub output_type: Option<GgmlType>,
    /// For the token embedding. Goes before all others.
    pub token_embedding_type: Option<GgmlType>,
    /// Whether matrices that have lost precision already may lose more.
    pub allow_requantize: bool,
    /// Which columns matter how much, and the file that said so.
    pub importance: Option<(PathBuf, ImportanceMatrix)>,
    /// Threads; all cores without it.
    pub threads: Option<usize>,
    /// Cuts the output into several files.
    pub split: Option<SplitLimit>,
    /// Whether existing files may be replaced.
    pub overwrite: bool,
}

impl QuantizeOptions {
    /// Nothing but the mix.
    #[must_use]
    pub fn new(mix: &'static Mix) -> Self {
        Self {
            mix,
            pure: false,
            tensor_types: Vec::new(),
            output_type: None,
            token_embedding_type: None,
            allow_requantize: false,
            importance: None,
            threads: None,
            split: None,
            overwrite: false,
        }
    }
}

/// Why a tensor is no candidate for another type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeptReason {
    /// One row: a norm or a bias.
    Vector,
    /// Whole numbers.
    Integers,
    /// Known to be small or delicate: a router, positions.
    Name,
}

/// What [`quantize`] will do, found out without reading a weight.
#[derive(Clone, Debug)]
pub struct QuantizePlan {
    /// In the order of the file.
    pub tensors: Vec<PlannedTensor>,
    /// What the user should know.
    pub notices: Vec<String>,
}

/// How far the work is.
#[derive(Clone, Copy, Debug)]
pub struct QuantizeProgress<'a> {
    /// The tensor that is worked on.
    pub tensor: &'a str,
    /// Its number, from 1.
    pub number: usize,
    /// Tensors in all.
    pub tensors: usize,
    /// Bytes of the source that are done.
    pub bytes_done: u64,
    /// Bytes of the source in all.
    pub bytes_total: u64,
}

/// How one tensor came out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TensorError {
    /// Root mean square of the differences between weights before and after, as a share of that of the weights.
    pub rmse: f64,
    /// The same with each column counting by its importance, where that is known.
    pub weighted_rmse: Option<f64>,
}

/// What [`quantize`] did.
#[derive(Clone, Debug)]
pub struct QuantizeReport {
    /// The plan that was carried out.
    pub plan: QuantizePlan,
    /// For each tensor; `None` where the bytes were copied.
    pub errors: Vec<Option<TensorError>>,
    /// The files written, in order.
    pub files: Vec<PathBuf>,
    /// Their size.
    pub file_bytes: u64,
    /// How long it took.
    pub seconds: f64,
}

impl QuantizePlan {
    /// Plans for all tensors of `file`.
    ///
    /// # Errors
    /// When a tensor cannot be read or written in its type, would lose precision again without leave, does not fit its
    /// importance (embeddings then do without), the importance is another model's, or a rule matches nothing.
    pub fn new(file: &GgufFile, options: &QuantizeOptions) -> Result<Self> {
        let tensors = plan::plan(file, options)?;
        let mut notices = Vec::new();
        if let Some((path, importance)) = &options.importance {
            let packed = || tensors.iter().filter(|tensor| !tensor.is_copied() && tensor.to.block_len() > 1);
            if importance.n_entries() > 0 && importance.names().all(|name| file.tensor_index(name).is_none()) {
                return Err(Error::ImportanceMatrix {
                    path: path.clone(),
                    problem: "it names no matrix of this model: it was made for another one".to_owned(),
                });
            }
            let mut missing = 0;
            for tensor in packed() {
                let found = run::importance_of(importance, tensor)?;
                // That nothing is known of embeddings is as it should be; that what is known does not fit is not.
                let expected = !plan::is_embedding(&tensor.name) || importance.sums(&tensor.name).is_some();
                missing += usize::from(found.is_none() && expected);
            }
            if missing > 0 {
                let n = packed().count();
                notices.push(format!("{} says nothing about {missing} of {n} packed matrices", path.display()));
            }
        } else if options.mix.wants_importance() {
            notices.push(format!(
                "{} has so few bits that quality suffers much without an importance matrix: give one, or a larger type",
                options.mix.name
            ));
        }
        let replaced = tensors.iter().filter(|tensor| tensor.wanted.is_some()).count();
        if replaced > 0 {
            let first = tensors.iter().find(|tensor| tensor.wanted.is_some()).expect("one was counted");
            notices.push(format!(
                "{replaced} of {} tensors get another type than planned, because their rows are no whole number of \
                 blocks (the first is {}: rows of {}, {} instead of {})",
                tensors.len(),
                first.name,
                first.dims[0],
                first.to,
                first.wanted.expect("it was found by that"),
            ));
        }
        Ok(Self { tensors, notices })
    }

    /// Writes `file` to `output` as planned. Files appear under their names when all of them are complete and on the
    /// disk; on any error, and when `progress` says to stop, none is left behind. Memory holds a few rows for each
    /// thread, whatever the size of the model.
    ///
    /// A split output is named `STEM-00001-of-0000N.gguf` after the stem of `output`.
    ///
    /// # Errors
    /// [`Error::OutputIsInput`], [`Error::OutputExists`] and [`Error::OutputIsNoFile`]; a weight that is not finite, by
    /// tensor and index; what the disk answers; [`Error::Cancelled`].
    ///
    /// # Panics
    /// When the plan was made for another file.
    pub fn carry_out(
        self,
        file: &GgufFile,
        output: &Path,
        options: &QuantizeOptions,
        progress: &mut dyn FnMut(QuantizeProgress) -> ControlFlow<()>,
    ) -> Result<QuantizeReport> {
        let fits = |(planned, tensor): (&PlannedTensor, &TensorInfo)| {
            (&planned.name, &planned.dims, planned.from) == (&tensor.name, &tensor.dims, tensor.ty)
        };
        let same_length = self.tensors.len() == file.tensors().len();
        assert!(same_length && self.tensors.iter().zip(file.tensors()).all(fits), "the plan is another file's");
        run::run(self, file, output, options, progress)
    }

    /// Bytes of all tensors in the source.
    #[must_use]
    pub fn bytes_before(&self) -> u64 {
        self.tensors.iter().map(PlannedTensor::bytes_before).sum()
    }

    /// Bytes of all tensors in the output.
    #[must_use]
    pub fn bytes_after(&self) -> u64 {
        self.tensors.iter().map(PlannedTensor::bytes_after).sum()
    }

    /// Weights in all.
    #[must_use]
    pub fn n_elements(&self) -> u64 {
        self.tensors.iter().map(PlannedTensor::n_elements).sum()
    }
}

/// Plans and carries the plan out: [`QuantizePlan::new`] and [`QuantizePlan::carry_out`].
///
/// # Errors
/// Those of the two.
pub fn quantize(
    file: &GgufFile,
    output: &Path,
    options: &QuantizeOptions,
    progress: &mut dyn FnMut(QuantizeProgress) -> ControlFlow<()>,
) -> Result<QuantizeReport> {
    QuantizePlan::new(file, options)?.carry_out(file, output, options, progress)
}
