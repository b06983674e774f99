//! LoRA adapters (Hu et al., 2021, arXiv:2106.09685): for some matrices of a model, two thin ones whose product is added.
//!
//! An adapter is a GGUF file of its own, in the form of llama.cpp's converter: `NAME.lora_a` `[rank, columns]` and
//! `NAME.lora_b` `[rows, rank]` for the base's tensor `NAME`. The base's weights stay as they are: a product with an adapted
//! matrix gets `scale · B · (A · x)` on top, so that adapters come and go between two batches.

use std::collections::HashMap;
use std::sync::Arc;

use hublabio_gguf::{GgufFile, TensorInfo};
use hublabio_kernels::WeightMatrix;

use crate::error::{Error, Result};
use crate::model::{Model, first_non_finite};

/// An adapter whose every pair of matrices fits a model.
pub struct Adapter {
    file: Arc<GgufFile>,
    /// By the index of the base's tensor.
    pairs: HashMap<usize, Pair>,
    /// `adapter.lora.alpha`; what is added is multiplied by alpha / rank. 0 where the file says none: then by 1.
    alpha: f32,
}

/// The two matrices for one tensor of the base.
struct Pair {
    a: usize,
    b: usize,
    rank: usize,
    rows: usize,
    cols: usize,
}

/// An adapter and how much of it is added.
#[derive(Clone)]
pub struct ActiveAdapter {
    /// The adapter, made for the model that it is used with.
    pub adapter: Arc<Adapter>,
    /// 1 for all of it.
    pub scale: f32,
}

impl Adapter {
    /// Reads and checks an adapter for `model`.
    ///
    /// # Errors
    /// When the file is no LoRA adapter, was made for another architecture, or a matrix has no counterpart in the model
    /// or another shape.
    pub fn open(file: Arc<GgufFile>, model: &Model) -> Result<Self> {
        let metadata = file.metadata();
        let kind = metadata.str("general.type")?.unwrap_or("model");
        if kind != "adapter" {
            return bad(format!("the file is of type `{kind}`, not `adapter`"));
        }
        match metadata.str("adapter.type")? {
            Some("lora") => {}
            other => return bad(format!("`adapter.type` is {}, only `lora` is known", other.unwrap_or("missing"))),
        }
        if metadata.contains("adapter.alora.invocation_tokens") {
            return bad("it begins at certain tokens of the prompt (aLoRA), which is not supported".into());
        }
        let base = model.hyperparameters().architecture.name.as_ref();
        if let Some(found) = metadata.str("general.architecture")?.filter(|&found| found != base) {
            return bad(format!("it was made for architecture `{found}`, the model is `{base}`"));
        }
        let alpha = metadata.f32("adapter.lora.alpha")?.unwrap_or(0.0);
        if !alpha.is_finite() || alpha < 0.0 {
            return bad(format!("`adapter.lora.alpha` is {alpha}"));
        }
        let mut pairs = HashMap::new();
        for (index, info) in file.tensors().iter().enumerate() {
            if let Some(name) = info.name.strip_suffix(".lora_a") {
                let (tensor, pair) = pair(&file, model, name, index)?;
                pairs.insert(tensor, pair);
            } else if let Some(name) = info.name.strip_suffix(".lora_b") {
                if file.tensor(&format!("{name}.lora_a")).is_none() {
                    return bad(format!("`{}` has no `{name}.lora_a` beside it", info.name));
                }
            } else {
                return bad(format!("`{}` is no part of a LoRA adapter", info.name));
            }
        }
        if pairs.is_empty() {
            return bad("it holds no matrices".into());
        }
        Ok(Self { file, pairs, alpha })
    }

    /// Matrices of the base that it changes.
    #[must_use]
    pub fn n_matrices(&self) -> usize {
        self.pairs.len()
    }

    /// Whether the matrices that it changes have the shapes of this model's.
    pub(crate) fn fits(&self, model: &Model) -> bool {
        self.pairs.iter().all(|(&tensor, pair)| {
            let base = model.file().tensors().get(tensor).map(matrix_shape);
            base == Some(Some((pair.rows, pair.cols)))
        })
    }

    /// Its first tensor with a weight that is not finite.
    pub(crate) fn first_non_finite(&self) -> Option<String> {
        first_non_finite(&self.file, 0..self.file.tensors().len())
    }

    fn weights(&self, tensor: usize, rows: usize, cols: usize) -> WeightMatrix<'_> {
        let view = self.file.tensor_at(tensor).expect("the index comes from this file");
        WeightMatrix::new(view.info.ty, view.data, rows, cols).expect("checked when the adapter was opened")
    }
}

impl ActiveAdapter {
    /// A, B and the factor for tensor `tensor` of the base, if the adapter changes it.
    pub(crate) fn pair(&self, tensor: usize) -> Option<(WeightMatrix<'_>, WeightMatrix<'_>, f32)> {
        let adapter = &*self.adapter;
        let pair = adapter.pairs.get(&tensor)?;
        let share = if adapter.alpha == 0.0 { 1.0 } else { adapter.alpha / pair.rank as f32 };
        let a = adapter.weights(pair.a, pair.rank, pair.cols);
        Some((a, adapter.weights(pair.b, pair.rows, pair.rank), self.scale * share))
    }
}

fn bad<T>(problem: String) -> Result<T> {
    Err(Error::BadAdapter { problem })
}

/// Rows and columns of a matrix.
fn matrix_shape(info: &TensorInfo) -> Option<(usize, usize)> {
    let [cols, rows] = info.dims[..] else { return None };
    Some((usize::try_from(rows).ok()?, usize::try_from(cols).ok()?))
}

/// The pair for the base's tensor `name`, whose A is tensor `a` of the adapter. Returns that tensor's index.
fn pair(file: &GgufFile, model: &Model, name: &str, a: usize) -> Result<(usize, Pair)> {
    let Some(tensor) = model.file().tensor_index(name) else {
        return bad(format!("the model has no tensor `{name}`: the adapter was made for another base"));
    };
    let Some(b) = file.tensor_index(&format!("{name}.lora_b")) else {
        return bad(format!("`{name}.lora_a` has no `{name}.lora_b` beside it"));
    };
    if !model.adapts(tensor) {
        return bad(format!("`{name}` is no plain matrix of a layer or of the output: it cannot be adapted here"));
    }
    let base = &model.file().tensors()[tensor];
    let (a_info, b_info) = (&file.tensors()[a], &file.tensors()[b]);
    let shapes = matrix_shape(base).zip(matrix_shape(a_info)).zip(matrix_shape(b_info));
    let Some((((rows, cols), (rank, a_cols)), (b_rows, b_cols))) = shapes else {
        return bad(format!("`{name}` and its two matrices are not all of two dimensions"));
    };
    if a_cols != cols || b_rows != rows || b_cols != rank || rank == 0 {
        return bad(format!(
            "for `{name}` {:?} it has matrices of {:?} and {:?}: it was made for another base",
            base.dims, a_info.dims, b_info.dims
        ));
    }
    for (index, rows, cols) in [(a, rank, cols), (b, rows, rank)] {
        let view = file.tensor_at(index).expect("the index comes from this file");
        WeightMatrix::new(view.info.ty, view.data, rows, cols)
            .map_err(|cause| Error::Tensor { tensor: view.info.name.clone(), cause })?;
    }
    Ok((tensor, Pair { a, b, rank, rows, cols }))
}
