//! Pre-tokenizers by name: where BPE cuts a text before it merges, and what else a name implies.
//!
//! GGUF holds no pattern, only a name (`tokenizer.ggml.pre`). The names and what they imply are those of llama.cpp's
//! table; the patterns are the ones that the models publish (`patterns.rs`). A new `pre` is a new row in [`find`]; a
//! shape that no row has used yet is a new alternative in `pattern.rs`.
//!
//! Normalizers that some models publish beside their pattern (NFC for Qwen and Falcon-H1) are not applied, as in
//! llama.cpp: GGUF does not carry them, and what is encoded decodes back.

use crate::pattern::{self, Stage};
use crate::patterns as p;

/// A pre-tokenizer and what its name implies beyond the pattern.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools, reason = "each is one switch of the models' own configurations")]
pub struct PreTokenizer {
    stages: &'static [Stage],
    /// A word that is a token as a whole is that token, whatever the merges say.
    pub ignore_merges: bool,
    /// Prompts start with BOS unless the file says otherwise.
    pub add_bos: bool,
    /// Prompts end with SEP unless the file says otherwise.
    pub add_sep: bool,
    /// Spaces before punctuation go when tokens become text, if the caller asks for what the model's own decoder does.
    pub clean_spaces: bool,
    /// How text is written in tokens.
    pub alphabet: Alphabet,
}

/// How BPE writes text in its tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alphabet {
    /// GPT-2's letter for each byte.
    Bytes,
    /// Characters as they are, spaces as `▁`, what has no token as `<0x0A>`: SentencePiece's way.
    Marked,
    /// Characters as they are; spaces are in no token.
    Plain,
}

/// The pre-tokenizer called `name`, if this crate knows it. Names and groups are those of llama.cpp's table.
#[allow(clippy::too_many_lines, reason = "a table")]
pub fn find(name: &str) -> Option<&'static PreTokenizer> {
    /// A byte-level pre-tokenizer that implies nothing else.
    const fn cuts(stages: &'static [Stage]) -> PreTokenizer {
        PreTokenizer {
            stages,
            ignore_merges: false,
            add_bos: false,
            add_sep: false,
            clean_spaces: false,
            alphabet: Alphabet::Bytes,
        }
    }
    /// As [`cuts`], with spaces before punctuation cleaned.
    const fn cleans(stages: &'static [Stage]) -> PreTokenizer {
        PreTokenizer { clean_spaces: true, ..cuts(stages) }
    }
    const STARCODER: &[Stage] = &[p::SINGLE_NUMBERS, p::GPT2];
    const DEEPSEEK3: &[Stage] = &[p::NUMBERS_TO_THREE, p::CHINESE_JAPANESE, p::DEEPSEEK3];

    macro_rules! row {
        ($row:expr) => {{
            static ROW: PreTokenizer = $row;
            &ROW
        }};
    }
    Some(match name {
        "default" => &DEFAULT,
        // Llama 3 and what took its tokenizer.
        "llama3" | "llama-v3" | "llama-bpe" | "falcon3" | "falcon-h1" | "pixtral" | "midm-2.0" | "lfm2"
        | "jina-v5-nano" => {
            row!(PreTokenizer { ignore_merges: true, add_bos: true, ..cleans(&[p::LLAMA3]) })
        }
        "dbrx" | "smaug-bpe" | "chatglm-bpe" | "glm4" => row!(cleans(&[p::LLAMA3])),
        "minicpm5" => {
            row!(PreTokenizer { ignore_merges: true, ..cleans(&[p::NUMBERS_TO_THREE, p::MINICPM5]) })
        }
        "jais-2" => row!(cleans(&[p::JAIS2])),
        // Qwen.
        "qwen2" | "deepseek-r1-qwen" | "kormo" | "f2llmv2" | "hunyuan" | "solar-open" | "grok-2" | "bailingmoe"
        | "bailingmoe2" | "llada-moe" => row!(cuts(&[p::QWEN2])),
        "stablelm2" | "megrez" => row!(cleans(&[p::QWEN2])),
        "qwen35" => row!(cuts(&[p::QWEN35])),
        "ufakzeka" => row!(cuts(&[p::UFAKZEKA])),
        "laguna" => row!(cuts(&[p::LINES, p::QWEN2])),
        "seed-coder" => row!(cuts(&[p::SEED_CODER])),
        "exaone-moe" => row!(cleans(&[p::EXAONE_MOE])),
        // GPT-2.
        "gpt-2" | "phi-2" | "jina-es" | "jina-de" | "gigachat" | "jina-v2-es" | "jina-v2-de" | "a.x-4.0" | "mellum"
        | "modern-bert" | "mpt" | "olmo" | "jais" | "exaone4" => row!(cleans(&[p::GPT2])),
        "trillion" | "granite-docling" => row!(cuts(&[p::GPT2])),
        "jina-v1-en" | "jina-v2-code" | "roberta-bpe" => {
            row!(PreTokenizer { add_sep: true, ..cleans(&[p::GPT2]) })
        }
        // Numbers first, then GPT-2.
        "starcoder" | "refact" | "codeshell" | "exaone" | "minerva-7b" | "mellum2" => row!(cleans(STARCODER)),
        "command-r" | "smollm" => row!(cuts(STARCODER)),
        "falcon" => row!(cleans(&[p::FALCON_PUNCTUATION_RUNS, p::GPT2, p::THREE_DIGITS])),
        "chameleon" => row!(PreTokenizer {
            add_bos: true,
            ..cuts(&[
                p::CHAMELEON_SENTINELS,
                p::CHAMELEON_IMAGES,
                p::CHAMELEON_SPACES,
                p::SINGLE_NUMBERS,
                p::SINGLE_PUNCTUATION,
                p::GPT2,
            ])
        }),
        // DeepSeek.
        "deepseek-llm" => row!(cuts(&[
            p::SINGLE_NEWLINES,
            p::DEEPSEEK_LLM_LETTERS,
            p::DEEPSEEK_LLM_PUNCTUATION,
            p::SPACE_AT_END,
            p::DEEPSEEK_LLM_ASIAN,
            // `Digits(individual_digits=true)`, which llama.cpp has as `\p{N}+`.
            p::SINGLE_NUMBERS,
        ])),
        "deepseek-coder" => row!(cuts(&[
            p::SINGLE_NEWLINES,
            p::DEEPSEEK_CODER_LETTERS,
            p::DEEPSEEK_CODER_PUNCTUATION,
            p::DEEPSEEK_LLM_ASIAN,
            p::SINGLE_NUMBERS,
        ])),
        "deepseek-v3" | "hunyuan-dense" | "joyai-llm" | "hy_v4" => row!(cuts(DEEPSEEK3)),
        "spark2_5" => {
            row!(cuts(&[p::NUMBERS_TO_THREE, p::CHINESE_JAPANESE, p::SPARK25, p::SINGLE_NUMBERS]))
        }
        "afmoe" => row!(cuts(&[p::NUMBER_TRIPLES, p::AFMOE_ASIAN, p::DEEPSEEK3])),
        // Words by letter case.
        "tekken" => row!(PreTokenizer { ignore_merges: true, add_bos: true, ..cuts(&[p::TEKKEN]) }),
        "gpt-4o" | "llama4" | "kanana2" | "talkie" | "minimax-m2" => row!(cuts(&[p::GPT4O])),
        "granite-embed-multi-97m" => row!(PreTokenizer { ignore_merges: true, ..cuts(&[p::GPT4O]) }),
        "tiny_aya" | "cohere2moe" => row!(cuts(&[p::TRIPLES_BEFORE_BOUNDARY, p::GPT4O])),
        "youtu" => row!(PreTokenizer { ignore_merges: true, ..cuts(&[p::YOUTU_ASIAN, p::YOUTU]) }),
        "kimi-k2" => row!(cuts(&[p::KIMI_K2])),
        // Others.
        "poro-chat" => row!(cuts(&[p::BLOOM])),
        "bloom" | "gpt3-finnish" => row!(cleans(&[p::BLOOM])),
        "viking" => row!(cuts(&[p::BLOOM, p::SINGLE_NUMBERS])),
        "superbpe" => row!(cuts(&[p::NUMBER_RUNS, p::TRIPLES])),
        "gemma4" | "granite-embed-multi-311m" => &GEMMA4,
        "sarvam-moe" => row!(PreTokenizer { alphabet: Alphabet::Marked, ..cuts(&[p::LINES]) }),
        "whitespace" => row!(PreTokenizer { alphabet: Alphabet::Plain, ..cleans(&[p::WORDS]) }),
        _ => return None,
    })
}

/// What files without a known `pre` get: llama.cpp's "default".
pub static DEFAULT: PreTokenizer = PreTokenizer {
    stages: &[p::PUNCTUATION_RUNS, p::GPT2, p::NUMBER_RUNS, p::THREE_DIGITS],
    ignore_merges: false,
    add_bos: false,
    add_sep: false,
    clean_spaces: true,
    alphabet: Alphabet::Bytes,
};

/// What the kind `gemma4` implies. Its published tokenizer merges over the whole text; no merge crosses the edge of a
/// run of line ends, so that cutting there changes nothing.
pub static GEMMA4: PreTokenizer = PreTokenizer {
    stages: &[p::LINES],
    ignore_merges: false,
    add_bos: true,
    add_sep: false,
    clean_spaces: true,
    alphabet: Alphabet::Marked,
};

impl PreTokenizer {
    /// Calls `each` with the words of `text` in order; together they are the whole text (without white space for the
    /// `pre` that is called so).
    pub fn split<'t>(&self, text: &'t str, each: &mut impl FnMut(&'t str)) {
        pattern::split(self.stages, text, each);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pre: &str, text: &str, expected: &[&str]) {
        let mut words = Vec::new();
        find(pre).expect("the test names a known pre").split(text, &mut |word| words.push(word));
        assert_eq!(words, expected, "{pre}: {text:?}");
        assert_eq!(words.concat(), text);
    }

    #[test]
    fn gpt2_keeps_a_space_with_its_word() {
        check("gpt-2", "Hello  world's 12 é!", &["Hello", " ", " world", "'s", " 12", " é", "!"]);
        check("gpt-2", "a \n\n b", &["a", " \n\n", " b"]);
        check("gpt-2", "WE'RE", &["WE", "'", "RE"]);
        check("gpt-2", "end  ", &["end", "  "]);
        check("gpt-2", "a\u{3000}b", &["a", "\u{3000}", "b"]);
    }

    #[test]
    fn llama3_groups_three_digits_and_takes_line_ends_with_punctuation() {
        check("llama-bpe", "12345 WE'RE", &["123", "45", " WE", "'RE"]);
        check("llama-bpe", "x) {\r\n\n  y", &["x", ")", " {\r\n\n", " ", " y"]);
        check("llama-bpe", "  \n  \n  z", &["  \n  \n", " ", " z"]);
        check("llama-bpe", "\tword\u{a0}x", &["\tword", "\u{a0}x"]);
        check("llama-bpe", "½²٣४", &["½²٣", "४"]);
    }

    #[test]
    fn contractions_fold_the_long_s_where_case_is_ignored() {
        check("qwen2", "'ſt", &["'ſ", "t"]);
        check("gpt-2", "'ſt", &["'", "ſt"]);
        check("qwen2", "'", &["'"]);
        check("qwen2", "'l 'LLx", &["'l", " '", "LLx"]);
        check("qwen2", "y'LLx", &["y", "'LL", "x"]);
    }

    #[test]
    fn qwen2_takes_numbers_one_by_one() {
        check("qwen2", " 123", &[" ", "1", "2", "3"]);
    }

    #[test]
    fn several_patterns_cut_the_pieces_of_the_ones_before() {
        check("starcoder", "v12 3", &["v", "1", "2", " ", "3"]);
        check("default", "a,b 12345", &["a", ",", "b", " ", "123", "45"]);
    }

    #[test]
    fn combining_marks_stay_with_letters_only_where_the_pattern_says_so() {
        check("qwen2", "e\u{301}a", &["e", "\u{301}a"]);
        check("qwen35", "e\u{301}a", &["e\u{301}a"]);
    }

    #[test]
    fn words_by_letter_case() {
        check("gpt-4o", "HelloWorld's XMLFile 1234", &["Hello", "World's", " XMLFile", " ", "123", "4"]);
        check("tekken", "it's 12/\n/x", &["it", "'s", " ", "1", "2", "/\n/", "x"]);
        check("gpt-4o", "AʰBC", &["Aʰ", "BC"]);
        check("kimi-k2", "a日本b", &["a", "日本", "b"]);
    }

    #[test]
    fn digits_in_groups_from_the_right() {
        check("superbpe", "a12345 1", &["a", "12", "345", " ", "1"]);
        check("tiny_aya", "1234567 12ab 1234", &["1", "234", "567", " ", "12", "ab", " ", "1", "234"]);
        check("tiny_aya", "12345a", &["123", "45", "a"]);
        check("afmoe", "x1234", &["x", "1", "234"]);
    }

    #[test]
    fn white_space_in_powers_of_two_and_at_the_end() {
        let spaces = |n| " ".repeat(n);
        check("jais-2", &format!("a{}b", spaces(14)), &["a", &spaces(8), &spaces(4), " ", " b"]);
        check("jais-2", &spaces(1027), &[&spaces(512), &spaces(512), "  ", " "]);
        check("deepseek-llm", "中  中  ", &["中", "  ", "中", "  "]);
        check("deepseek-coder", "a  b\n\n", &["a", " ", " b", "\n", "\n"]);
    }

    #[test]
    fn other_shapes() {
        check("exaone-moe", "a b c, d", &["a b c", ",", " d"]);
        check("deepseek-v3", "x.y=z", &["x", ".y", "=z"]);
        check("bloom", "a, b(c", &["a", ",", " b", "(", "c"]);
        // A later pattern cuts the matches of an earlier one, too.
        check("chameleon", "<sentinel:1>IMGIMGABZ", &["<", "sentinel", ":", "1", ">", "IMGIMGABZ"]);
        check("chameleon", "IMGIMGABCDEZ     x", &["IMGIMGABCDEZ", "    ", " x"]);
        check("laguna", "a\n\nb", &["a", "\n\n", "b"]);
        check("gemma4", "a b\n\nc", &["a b", "\n\n", "c"]);
    }

    #[test]
    fn an_unknown_name_is_not_guessed() {
        assert!(find("no-such-pre").is_none());
    }
}
