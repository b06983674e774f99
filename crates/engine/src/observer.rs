//! What the forward pass shows to whoever wants to see its products: the rows that meet each weight matrix.
//!
//! Nothing is computed here. Who looks, and what becomes of it, is the business of the rooms above.

/// Sees the input of every matrix product of a forward pass.
pub trait ProductObserver {
    /// The matrices called `tensors` are about to be multiplied with `rows`, `[n, columns]`: one row for each row of the
    /// batch, in its order. They come in the order of the forward pass, whatever the number of threads.
    fn products(&mut self, tensors: &[&str], rows: &[f32], columns: usize);

    /// The matrices of expert `expert.0` of `expert.1` in the stacks called `tensors` are about to be multiplied with `rows`:
    /// those rows of the batch that go to it. Called for every expert that takes part, in the order of their numbers.
    fn expert_products(&mut self, tensors: &[&str], expert: (usize, usize), rows: &[f32], columns: usize);

    /// Whether the product of the output head is computed and shown: it is as large as the vocabulary.
    fn wants_head(&self) -> bool {
        false
    }
}
