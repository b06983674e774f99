//! Numbers on this CPU: matrix products with every block format, attention, norms, rotary
//! embeddings, activation functions, softmax, and the thread team that runs them.
//!
//! This room knows no model and no file: it gets slices and shapes. It is the only room with
//! `unsafe` (next to the one file that maps memory). Everything is written once over
//! sixteen lanes and stamped out per instruction set, chosen at run time through [`Isa`].
//!
//! **Promise.** A result depends on its own inputs only: not on the thread count, the other rows of
//! the batch, or the instruction set. `matmul.rs` begins with the rule that makes it so.
//!
//! Where to go next: `simd/` (the sixteen lanes), `panel.rs` and `integer_form.rs` (the formats), `matmul.rs` and `stream.rs` (products of many
//! columns, and of one), `attention.rs`, `norm.rs`, `ops.rs` (all else that goes row by row), `team.rs`.

#[cfg(target_endian = "big")]
compile_error!("kernels read little-endian files as they lie in memory: there is no port to big-endian machines");

mod activations;
mod attention;
mod encode;
mod float_matmul;
mod integer_form;
mod math;
mod matmul;
mod norm;
mod ops;
mod panel;
mod simd;
mod stream;
mod team;

pub use activations::{ActivationForms, Activations};
pub use attention::{AttentionRow, AttentionShape, KvType, PAGE_POSITIONS, attention, page_len, write_page};
pub use encode::{ErrorSums, Recode, check_rows, encode_rows, recode_rows};
pub use math::{exp, log_sum_exp, sigmoid, softmax};
pub use matmul::{Product, WeightMatrix, has_kernel, matmul};
pub use norm::{NormKind, layer_norm, norm_heads, rms_norm};
pub use ops::{
    Activation, RopePairing, RopeTable, activate, add_assign, add_rows_scaled, add_scaled, gated, rope, scale, soft_cap,
};
pub use simd::Isa;
pub use team::{THREADS_MAX, ThreadTeam, Turn};

/// What a kernel refuses.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no kernel for this tensor type yet.
    #[error("there are no kernels for tensors of type {ty}: convert the file to another type")]
    UnsupportedType {
        /// The type's name.
        ty: &'static str,
    },
    /// A row is no whole number of blocks.
    #[error("rows of {cols} weights are no whole number of {ty} blocks")]
    BadRow {
        /// The type's name.
        ty: &'static str,
        /// Weights per row.
        cols: usize,
    },
    /// The data do not have the size of the shape.
    #[error("{bytes} bytes are not {rows} rows of {cols} weights of type {ty}")]
    BadSize {
        /// The type's name.
        ty: &'static str,
        /// Rows of the shape.
        rows: usize,
        /// Weights per row.
        cols: usize,
        /// Bytes given.
        bytes: usize,
    },
}

/// The result of a kernel's constructor.
pub type Result<T> = std::result::Result<T, Error>;
