//! Sampling against others: what `transformers` and llama.cpp leave of the same logits, and what chance makes of it.

mod oracle;
mod statistics;
