//! The random numbers of sampling: xoshiro256++ (Blackman and Vigna, 2019), seeded by splitmix64.
//! The same seed gives the same tokens on every machine and in every release.

use std::hash::{BuildHasher, Hasher, RandomState};

#[derive(Clone, Debug)]
pub(crate) struct Random([u64; 4]);

impl Random {
    /// From a seed, or from the operating system's randomness.
    pub(crate) fn new(seed: Option<u64>) -> Self {
        // The standard library seeds its hash maps from the operating system: one source less to depend on.
        let mut state = seed.unwrap_or_else(|| RandomState::new().build_hasher().finish());
        Self(std::array::from_fn(|_| {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        }))
    }

    fn next(&mut self) -> u64 {
        let s = &mut self.0;
        let result = s[0].wrapping_add(s[3]).rotate_left(23).wrapping_add(s[0]);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        result
    }

    /// Uniform in [0, 1), 53 bits.
    pub(crate) fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}
