//! A sparse mixture of experts in place of the feed-forward half: which experts a row goes to, and their products.
//!
//! Shazeer et al., 2017 (arXiv:1701.06538), with the softmax over all experts that Mixtral and Qwen use. Rows are
//! gathered by expert, so that each expert's weights are read once per batch; a row's sum is made in the order of the
//! experts' numbers, whatever else is in the batch.

use hublabio_kernels::{
    Activations, Isa, Product, activate, add_rows_scaled, add_scaled, gated, matmul, sigmoid, softmax,
};

use crate::forward::Pass;
use crate::hyperparameters::ExpertNumbers;
use crate::model::{Experts, Matrix, SharedExpert};

/// What a mixture writes. Rows of "chosen" buffers are (expert, row of the batch) pairs, sorted by expert.
#[derive(Default)]
pub(crate) struct ExpertBuffers {
    /// `[rows, n_experts]`
    router: Vec<f32>,
    chosen: Vec<Chosen>,
    /// The inputs of the chosen rows, `[chosen, d_model]`.
    gathered: Vec<f32>,
    /// `[chosen, d_ff]`
    gate: Vec<f32>,
    /// `[chosen, d_ff]`
    up: Vec<f32>,
    /// `[chosen, d_model]`
    out: Vec<f32>,
    /// One for each expert that takes part.
    activations: Vec<Activations>,
    shared: Vec<f32>,
}

/// One expert for one row.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Chosen {
    expert: usize,
    row: usize,
    weight: f32,
}

impl Pass<'_, '_> {
    /// `out = Σ weight · expert(x)` over the experts of each row.
    pub fn mixture(&mut self, experts: &Experts, x: &[f32], out: &mut Vec<f32>) {
        let h = self.model.hyperparameters();
        let numbers = h.experts.expect("layers with experts come with their numbers");
        let d = h.d_model;
        out.clear();
        out.resize(x.len(), 0.0);
        // 1. Which experts, and how much of each.
        let mut buffers = std::mem::take(&mut self.b.experts);
        self.products(x, &mut [(experts.router, None, &mut buffers.router)]);
        buffers.chosen = choose(self.isa, &buffers.router, numbers);
        // 2. Their products, all experts in one go.
        self.gather(&mut buffers, x);
        let ExpertBuffers { chosen, gathered, gate, up, out: results, activations, .. } = &mut buffers;
        let width = experts.up.rows;
        let input = std::mem::take(gathered);
        if let Some(gates) = experts.gate {
            self.expert_products(chosen, &input, activations, &mut [(gates, gate), (experts.up, up)]);
            gated(self.team, self.isa, h.architecture.feed_forward.activation, gate, up, width);
        } else {
            self.expert_products(chosen, &input, activations, &mut [(experts.up, gate)]);
            activate(self.team, self.isa, h.architecture.feed_forward.activation, gate, width);
        }
        *gathered = input;
        self.expert_products(chosen, gate, activations, &mut [(experts.down, results)]);
        // 3. The weighted sum.
        let rows: Vec<usize> = chosen.iter().map(|c| c.row).collect();
        let weights: Vec<f32> = chosen.iter().map(|c| c.weight).collect();
        add_rows_scaled(self.team, out, &rows, results, &weights, d);
        self.b.experts = buffers;
        if let Some(shared) = &experts.shared {
            self.shared_expert(shared, x, out);
        }
    }

    fn gather(&self, buffers: &mut ExpertBuffers, x: &[f32]) {
        let d = self.model.hyperparameters().d_model;
        buffers.gathered.clear();
        for chosen in &buffers.chosen {
            buffers.gathered.extend_from_slice(&x[chosen.row * d..(chosen.row + 1) * d]);
        }
    }

    /// For every expert that takes part, its rows of `x` times its matrix of each stack.
    fn expert_products(
        &mut self,
        chosen: &[Chosen],
        x: &[f32],
        activations: &mut Vec<Activations>,
        targets: &mut [(Matrix, &mut Vec<f32>)],
    ) {
        let cols = targets[0].0.cols;
        let groups: Vec<&[Chosen]> = chosen.chunk_by(|a, b| a.expert == b.expert).collect();
        if activations.len() < groups.len() {
            activations.resize_with(groups.len(), Activations::default);
        }
        let forms = self.forms(targets.iter().map(|(stack, _)| *stack));
        for (stack, out) in targets.iter_mut() {
            out.resize(chosen.len() * stack.rows, 0.0);
        }
        let mut at = 0;
        for (group, activations) in groups.iter().zip(activations.iter_mut()) {
            let rows = &x[at * cols..(at + group.len()) * cols];
            if let Some(observer) = &mut self.observer {
                let names: Vec<&str> = targets.iter().map(|(stack, _)| self.model.name(*stack)).collect();
                let n_experts = targets[0].0.tensor_rows / targets[0].0.rows;
                observer.expert_products(&names, (group[0].expert, n_experts), rows, cols);
            }
            activations.set(self.team, self.isa, rows, cols, forms);
            at += group.len();
        }
        let mut products: Vec<Product<'_>> = Vec::with_capacity(groups.len() * targets.len());
        for (stack, out) in targets.iter_mut() {
            let mut rest = out.as_mut_slice();
            for (group, x) in groups.iter().zip(activations.iter()) {
                let (piece, after) = rest.split_at_mut(group.len() * stack.rows);
                rest = after;
                let weights = self.model.weights(stack.expert(group[0].expert));
                products.push(Product { x, weights, bias: None, out: piece });
            }
        }
        matmul(self.team, self.isa, &mut products);
    }

    fn shared_expert(&mut self, shared: &SharedExpert, x: &[f32], out: &mut [f32]) {
        let d = self.model.hyperparameters().d_model;
        let mut result = std::mem::take(&mut self.b.experts.shared);
        self.mlp(&shared.mlp, x, &mut result);
        match shared.router {
            None => add_scaled(self.team, out, &result, 1.0),
            Some(router) => {
                let mut weights = std::mem::take(&mut self.b.experts.router);
                self.products(x, &mut [(router, None, &mut weights)]);
                weights.iter_mut().for_each(|w| *w = sigmoid(*w));
                let rows: Vec<usize> = (0..weights.len()).collect();
                add_rows_scaled(self.team, out, &rows, &result, &weights, d);
                self.b.experts.router = weights;
            }
        }
        self.b.experts.shared = result;
    }
}

/// The experts of each row of router products `[rows, n_experts]`, sorted by expert, then by row. Of equally likely experts
/// the one with the lower number is chosen.
fn choose(isa: Isa, router: &[f32], numbers: ExpertNumbers) -> Vec<Chosen> {
    let mut chosen = Vec::with_capacity(router.len() / numbers.n_experts * numbers.n_used);
    let mut share: Vec<f32> = Vec::new();
    let mut order: Vec<usize> = Vec::new();
    for (row, logits) in router.chunks_exact(numbers.n_experts).enumerate() {
        share.clear();
        share.extend_from_slice(logits);
        softmax(isa, &mut share);
        order.clear();
        order.extend(0..numbers.n_experts);
        // The order by logits: shares of unlikely experts may all have become 0.
        order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
        let best = &order[..numbers.n_used];
        let sum: f32 = if numbers.normalize { best.iter().map(|&e| share[e]).sum() } else { 1.0 };
        let weight = |expert: usize| share[expert] / sum * numbers.scale;
        chosen.extend(best.iter().map(|&expert| Chosen { expert, row, weight: weight(expert) }));
    }
    chosen.sort_by_key(|c| (c.expert, c.row));
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(normalize: bool) -> ExpertNumbers {
        ExpertNumbers { n_experts: 4, n_used: 2, d_ff: 8, d_ff_shared: 0, normalize, scale: 1.0 }
    }

    #[test]
    fn the_likeliest_experts_are_chosen_and_ties_go_to_the_lower_number() {
        let chosen = choose(Isa::best(), &[0.0, 2.0, 1.0, 2.0, 5.0, 5.0, 5.0, 5.0], numbers(true));
        let pairs: Vec<(usize, usize)> = chosen.iter().map(|c| (c.expert, c.row)).collect();
        assert_eq!(pairs, [(0, 1), (1, 0), (1, 1), (3, 0)]);
        assert!(chosen.iter().all(|c| (c.weight - 0.5).abs() < 1e-6));
    }

    #[test]
    fn weights_are_shares_of_all_experts_unless_they_are_normalised() {
        let logits = [0.0f32, 1.0, 2.0, 3.0];
        let total: f32 = logits.iter().map(|x| x.exp()).sum();
        let plain = choose(Isa::best(), &logits, numbers(false));
        assert!((plain[1].weight - 3f32.exp() / total).abs() < 1e-6);
        let normal = choose(Isa::best(), &logits, numbers(true));
        assert!((normal[0].weight + normal[1].weight - 1.0).abs() < 1e-6);
        assert!((normal[1].weight / normal[0].weight - 1f32.exp()).abs() < 1e-5);
    }
}
