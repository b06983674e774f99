//! Packers: weights to blocks, one file per family.
//!
//! Each minimises `Σ importance · (weight - decoded)²` over everything the format leaves open. The arithmetic is plain
//! IEEE single precision in a fixed order, without fused operations, so that a file has the same bytes whatever machine
//! packed it; sums run in fixed lanes, so that compilers can use vectors of any width for them.

pub mod few_bits;
pub mod float4;
mod grid_search;
pub mod iq1;
pub mod iq2;
pub mod iq3;
pub mod iq4;
pub mod k_quants;
mod lanes;
pub mod legacy;
pub mod ternary;
