//! The mixes: which type a file of a given name gives to which matrix, as data.
//!
//! A mix is a base type and a list of rules; for each matrix the first rule counts whose role and conditions all fit, else
//! the base type. The choices are those that llama.cpp makes for the same names, because these names promise them: a
//! few matrices that suffer most (values, the first and last layers' down projections, the output) get more bits. They
//! are checked against its files in `crates/runtime/tests/quantize.rs`.
//!
//! What a rule's words mean for a tensor of a model is in `plan.rs`.

#![allow(clippy::enum_glob_use, reason = "a table of names is read by its columns, not by where the names come from")]

use GgmlType::*;
use hublabio_gguf::GgmlType;

use Role::*;
use When::*;

/// What a matrix is for, as far as mixes care.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Embedding,
    /// `output.weight`, and the embedding of a model that has none.
    Output,
    Query,
    Key,
    /// Values, also where they are fused with others.
    Value,
    AttentionOutput,
    Gate,
    Up,
    Down,
    /// Several matrices in one tensor, one for each expert, whatever else it is.
    Experts,
    Any,
}

/// A condition of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    /// In the first layers: so many.
    First(usize),
    /// In the first n-th of the layers.
    FirstOf(usize),
    /// Neither in the first nor in the last eighth of the layers.
    Middle,
    /// In the first or the last eighth of the layers, or every third in between.
    MoreBits,
    /// At least so many query heads share a key-value head.
    Shared(usize),
    /// A mixture of exactly eight experts: the rest of the model is small beside them.
    EightExperts,
    /// At least four experts.
    FourExperts,
    /// A Llama of eighty layers with shared key-value heads: its value matrices are small.
    Llama70b,
    WithImportance,
    WithoutImportance,
}

pub(super) type Rule = (Role, &'static [When], GgmlType);

/// A kind of quantized file.
#[derive(Debug)]
pub struct Mix {
    /// As on the command line.
    pub name: &'static str,
    /// What matrices get unless a rule says otherwise.
    pub base: GgmlType,
    /// `general.file_type`.
    pub file_type: u32,
    pub(super) rules: &'static [Rule],
}

// What many mixes share.

/// Six bits for the output.
const OUTPUT_6: Rule = (Output, &[], Q6_K);
/// Five bits for the output, where the rest has two.
const OUTPUT_5: Rule = (Output, &[], Q5_K);
/// Beside eight experts attention costs nothing.
const EXPERTS_VALUE: Rule = (Value, &[EightExperts], Q8_0);
const EXPERTS_KEY: Rule = (Key, &[EightExperts], Q8_0);
const EXPERTS_OUTPUT: Rule = (AttentionOutput, &[EightExperts], Q5_K);
/// Eight query heads live on each key-value head.
const BIG_VALUE: Rule = (Value, &[Llama70b], Q5_K);

/// One type, with an output of six bits.
const PLAIN: &[Rule] = &[OUTPUT_6, EXPERTS_VALUE, EXPERTS_KEY];
const EIGHT_BITS: &[Rule] = &[];
const TERNARY: &[Rule] = &[OUTPUT_6, (Embedding, &[], Q4_K), EXPERTS_VALUE, EXPERTS_KEY];

const Q4_1_START: Rule = (Down, &[WithImportance, FirstOf(8)], Q4_1);
const Q5_1_START: Rule = (Down, &[WithImportance, FirstOf(8)], Q5_1);

/// The mixes that grids of about one and two bits need, with the types of their larger parts.
macro_rules! two_bits {
    ($embedding:ident, $larger:ident $(, $attention_output:expr)?) => {
        &[
            OUTPUT_5,
            (Embedding, &[], $embedding),
            (Value, &[Shared(4)], Q4_K),
            (Value, &[FourExperts], Q4_K),
            (Value, &[], $larger),
            (Key, &[EightExperts], Q4_K),
            (Down, &[FirstOf(8)], $larger),
            EXPERTS_OUTPUT,
            $((AttentionOutput, &[], $attention_output),)?
        ]
    };
}

/// Four bits with a code book.
const CODE_BOOK_4: &[Rule] = &[
    OUTPUT_6,
    EXPERTS_VALUE,
    (Value, &[Shared(4)], Q5_K),
    EXPERTS_KEY,
    (Down, &[WithoutImportance, FirstOf(8)], Q5_K),
    EXPERTS_OUTPUT,
];

#[rustfmt::skip]
const IQ3_S_RULES: &[Rule] = &[
    OUTPUT_6,
    EXPERTS_VALUE, BIG_VALUE, (Value, &[Shared(4)], Q4_K), EXPERTS_KEY,
    EXPERTS_OUTPUT,
];

/// Every mix, by name.
#[rustfmt::skip]
pub const MIXES: &[Mix] = &[
    mix("F32", F32, 0, &[]),
    mix("F16", F16, 1, &[]),
    mix("BF16", BF16, 32, &[]),
    mix("Q8_0", Q8_0, 7, EIGHT_BITS),
    mix("Q6_K", Q6_K, 18, PLAIN),
    mix("Q5_K_M", Q5_K, 17, &[
        OUTPUT_6, EXPERTS_VALUE, (Value, &[MoreBits], Q6_K), EXPERTS_KEY, (Down, &[MoreBits], Q6_K),
    ]),
    mix("Q5_K_S", Q5_K, 16, PLAIN),
    mix("Q5_1", Q5_1, 9, PLAIN),
    mix("Q5_0", Q5_0, 8, &[OUTPUT_6, EXPERTS_VALUE, EXPERTS_KEY, Q5_1_START]),
    mix("Q4_K_M", Q4_K, 15, &[
        OUTPUT_6, EXPERTS_VALUE, (Value, &[MoreBits], Q6_K), BIG_VALUE, EXPERTS_KEY, (Down, &[MoreBits], Q6_K),
        EXPERTS_OUTPUT,
    ]),
    mix("Q4_K_S", Q4_K, 14, &[
        OUTPUT_6, EXPERTS_VALUE, (Value, &[First(4)], Q5_K), BIG_VALUE, EXPERTS_KEY, (Down, &[FirstOf(8)], Q5_K),
        EXPERTS_OUTPUT,
    ]),
    mix("Q4_1", Q4_1, 3, PLAIN),
    mix("Q4_0", Q4_0, 2, &[OUTPUT_6, EXPERTS_VALUE, EXPERTS_KEY, Q4_1_START]),
    mix("IQ4_NL", IQ4_NL, 25, CODE_BOOK_4),
    mix("IQ4_XS", IQ4_XS, 30, CODE_BOOK_4),
    mix("MXFP4_MOE", MXFP4, 38, &[(Experts, &[], MXFP4), (Any, &[], Q8_0)]),
    mix("MXFP4", MXFP4, 38, PLAIN),
    mix("NVFP4", NVFP4, 39, PLAIN),
    mix("Q3_K_L", Q3_K, 13, &[
        OUTPUT_6, EXPERTS_VALUE, (Value, &[], Q5_K), EXPERTS_KEY, (Down, &[], Q5_K),
        // Unlike in the smaller ones, eight experts change nothing here but leave the base type.
        (AttentionOutput, &[EightExperts], Q3_K), (AttentionOutput, &[], Q5_K),
    ]),
    mix("Q3_K_M", Q3_K, 12, &[
        OUTPUT_6, EXPERTS_VALUE, (Value, &[First(2)], Q5_K), BIG_VALUE, (Value, &[], Q4_K), EXPERTS_KEY,
        (Down, &[FirstOf(16)], Q5_K), (Down, &[], Q4_K), EXPERTS_OUTPUT, (AttentionOutput, &[], Q4_K),
    ]),
    mix("Q3_K_S", Q3_K, 11, &[OUTPUT_6, EXPERTS_VALUE, BIG_VALUE, EXPERTS_KEY, EXPERTS_OUTPUT]),
    mix("IQ3_M", IQ3_S, 27, &[
        OUTPUT_6, EXPERTS_VALUE, BIG_VALUE, (Value, &[], Q4_K), EXPERTS_KEY,
        (Down, &[FirstOf(8)], Q4_K), (Down, &[EightExperts, MoreBits], Q4_K),
        EXPERTS_OUTPUT, (AttentionOutput, &[], Q4_K),
    ]),
    mix("IQ3_S", IQ3_S, 26, IQ3_S_RULES),
    mix("IQ3_XS", IQ3_S, 22, &[
        OUTPUT_6,
        EXPERTS_VALUE, BIG_VALUE, (Value, &[Shared(4)], Q4_K),
        EXPERTS_KEY, (Key, &[], IQ3_XXS), (Query, &[], IQ3_XXS),
        (Gate, &[Middle], IQ3_XXS), (Up, &[Middle], IQ3_XXS),
        EXPERTS_OUTPUT,
    ]),
    mix("IQ3_XXS", IQ3_XXS, 23, &[
        OUTPUT_5, (Embedding, &[], IQ3_S),
        EXPERTS_VALUE, BIG_VALUE, (Value, &[Shared(4)], Q4_K), (Value, &[WithoutImportance], IQ3_S),
        EXPERTS_KEY, (Key, &[], IQ2_S), (Query, &[], IQ2_S),
        (Down, &[WithoutImportance, FirstOf(8)], Q4_K), (Down, &[WithoutImportance], Q3_K),
        EXPERTS_OUTPUT, (AttentionOutput, &[], IQ3_S),
    ]),
    mix("Q2_K", Q2_K, 10, &[
        OUTPUT_6, EXPERTS_VALUE, BIG_VALUE, (Value, &[Shared(4)], Q4_K), (Value, &[], Q3_K),
        EXPERTS_KEY, (Down, &[], Q3_K), EXPERTS_OUTPUT, (AttentionOutput, &[], Q3_K),
    ]),
    mix("Q2_K_S", Q2_K, 21, &[
        OUTPUT_6, EXPERTS_VALUE, BIG_VALUE, (Value, &[Shared(4)], Q4_K), EXPERTS_KEY,
        (Down, &[FirstOf(8)], Q4_K),
    ]),
    mix("IQ2_M", IQ2_S, 29, two_bits!(IQ3_S, IQ3_S, IQ3_S)),
    mix("IQ2_S", IQ2_XS, 28, two_bits!(IQ3_S, IQ3_S, IQ3_S)),
    mix("IQ2_XS", IQ2_XS, 20, two_bits!(Q2_K, Q2_K)),
    mix("IQ2_XXS", IQ2_XXS, 19, two_bits!(Q2_K, Q2_K)),
    mix("TQ2_0", TQ2_0, 37, TERNARY),
    mix("TQ1_0", TQ1_0, 36, TERNARY),
    mix("IQ1_M", IQ1_M, 31, two_bits!(Q2_K, Q2_K, IQ2_XXS)),
    mix("IQ1_S", IQ1_S, 24, two_bits!(Q2_K, Q2_K, IQ2_XXS)),
    mix("Q2_0", Q2_0, 41, TERNARY),
    mix("Q1_0", Q1_0, 40, PLAIN),
];

/// Other names that people use.
const ALIASES: &[(&str, &str)] = &[("Q3_K", "Q3_K_M"), ("Q4_K", "Q4_K_M"), ("Q5_K", "Q5_K_M")];

const fn mix(name: &'static str, base: GgmlType, file_type: u32, rules: &'static [Rule]) -> Mix {
    Mix { name, base, file_type, rules }
}

impl Mix {
    /// The mix of this name, in any letter case.
    #[must_use]
    pub fn from_name(name: &str) -> Option<&'static Self> {
        let name = ALIASES.iter().find(|(alias, _)| alias.eq_ignore_ascii_case(name)).map_or(name, |(_, meant)| meant);
        MIXES.iter().find(|mix| mix.name.eq_ignore_ascii_case(name))
    }

    /// Whether it holds so few bits that quality suffers without an importance matrix.
    #[must_use]
    pub fn wants_importance(&self) -> bool {
        matches!(self.base, IQ1_S | IQ1_M | IQ2_XXS | IQ2_XS | IQ2_S | IQ3_XXS) || self.name == "Q2_K_S"
    }
}

/// What takes the place of a type whose blocks do not fit the rows: the nearest of no fewer bits with blocks of 32.
pub(super) fn fallback(ty: GgmlType) -> GgmlType {
    match ty {
        IQ1_S | IQ1_M | IQ2_XXS | IQ2_XS | IQ2_S | IQ3_XXS | IQ3_S | IQ4_XS => IQ4_NL,
        Q1_0 | Q2_0 | Q2_K | Q3_K | TQ1_0 | TQ2_0 | NVFP4 => Q4_0,
        Q4_K => Q5_0,
        Q5_K => Q5_1,
        Q6_K | Q8_K => Q8_0,
        _ => F16,
    }
}
