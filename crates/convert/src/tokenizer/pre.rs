//! The name that GGUF has for a pre-tokenizer, found by what `tokenizer.json` says it does.
//!
//! A GGUF file holds no pattern, only a name; programs have the patterns built in. So the steps of the pipeline are
//! compared with those of the published tokenizers. Names whose patterns are the same stand for each other: one of a
//! group is written. The patterns are those in the files of the models named beside them.

use serde_json::Value;

use super::json::{flattened, kind};

/// One step of the pipeline.
#[derive(Debug)]
pub struct Step<'a> {
    /// Its type.
    pub kind: &'a str,
    value: &'a Value,
}

impl Step<'_> {
    fn flag(&self, name: &str, default: bool) -> bool {
        self.value.get(name).and_then(Value::as_bool).unwrap_or(default)
    }

    /// Whether a `Metaspace` puts a space before a text.
    pub(super) fn prepends(&self) -> bool {
        match self.value.get("prepend_scheme").and_then(Value::as_str) {
            Some(scheme) => scheme != "never",
            None => self.flag("add_prefix_space", true),
        }
    }
}

/// The steps of a pre-tokenizer.
pub fn steps(pre_tokenizer: Option<&Value>) -> Vec<Step<'_>> {
    flattened(pre_tokenizer, "pretokenizers").into_iter().map(|value| Step { kind: kind(value), value }).collect()
}

/// GPT-2.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
/// Llama 3; tiktoken's `cl100k_base`.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Qwen 2, 2.5 and 3.
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Qwen 3.5.
const QWEN35: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Mistral Nemo.
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// tiktoken's `o200k_base`; Phi-4-mini.
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// DeepSeek V3, after its splits of numbers and of Chinese and Japanese.
const DEEPSEEK3: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##;

/// Jais 2, after Llama 3's.
const JAIS2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)|\s{64}(?!\S)|\s{32}(?!\S)|\s{16}(?!\S)|\s{8}(?!\S)|\s{4}(?!\S)|\s{1,2}(?!\S)|\s{1}";
/// MiniCPM 5, after its split of numbers.
const MINICPM5: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Ling and other models of Bailing.
const BAILING: &str =
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+";
/// Seed-Coder.
const SEED_CODER: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+";
/// EXAONE MoE.
const EXAONE_MOE: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+";
/// Ufakzeka: Qwen 2's without contractions.
const UFAKZEKA: &str = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// BLOOM.
const BLOOM: &str = r" ?[^(\s|[.,!?…。，、।۔،])]+";
/// BLOOM, as llama.cpp lists it.
const BLOOM_FLAT: &str = r" ?[^(\s|.,!?…。，、।۔،)]+";
/// The first split of Command A and its relatives.
const TRIPLES: &str = r"\d{1,3}(?=(?:\d{3})*\b)";

/// What the steps are, in the order of their work.
#[derive(Debug, PartialEq, Eq)]
enum Cut<'a> {
    /// Cut by a pattern, every match a piece.
    Pattern(&'a str),
    /// Digits; each alone if `true`.
    Digits(bool),
    /// Runs of punctuation.
    Punctuation,
}

/// The name of the pre-tokenizer with these steps, if there is one. With `ignore_merges`, a word that is a token as a
/// whole is that token whatever the merges say.
pub fn name(steps: &[Step<'_>], ignore_merges: bool) -> Option<&'static str> {
    let texts: Vec<Option<String>> = steps.iter().map(pattern).collect();
    let mut cuts = Vec::new();
    for (step, text) in steps.iter().zip(&texts) {
        match step.kind {
            "Split" => cuts.push(Cut::Pattern(text.as_deref()?)),
            "Digits" => cuts.push(Cut::Digits(step.flag("individual_digits", false))),
            "Punctuation" => cuts.push(Cut::Punctuation),
            // A byte-level step that puts a space before the text has no name; its own pattern is GPT-2's.
            "ByteLevel" if step.flag("add_prefix_space", false) => return None,
            "ByteLevel" if step.flag("use_regex", true) => cuts.push(Cut::Pattern(GPT2)),
            "ByteLevel" => {}
            _ => return None,
        }
    }
    let single_number = |cut: &Cut<'_>| matches!(cut, Cut::Digits(true) | Cut::Pattern(r"\p{N}"));
    Some(match cuts.as_slice() {
        [Cut::Pattern(GPT2)] => "gpt-2",
        [Cut::Pattern(LLAMA3)] if ignore_merges => "llama-bpe",
        [Cut::Pattern(LLAMA3)] => "dbrx",
        [Cut::Pattern(QWEN2)] => "qwen2",
        [Cut::Pattern(QWEN35)] => "qwen35",
        [Cut::Pattern(TEKKEN)] => "tekken",
        [Cut::Pattern(GPT4O)] => "gpt-4o",
        [Cut::Pattern(TRIPLES), Cut::Pattern(GPT4O)] => "tiny_aya",
        [Cut::Pattern(JAIS2)] => "jais-2",
        [Cut::Pattern(r"\p{N}{1,3}"), Cut::Pattern(MINICPM5)] if ignore_merges => "minicpm5",
        [Cut::Pattern(BAILING)] => "bailingmoe",
        [Cut::Pattern(SEED_CODER)] => "seed-coder",
        [Cut::Pattern(EXAONE_MOE)] => "exaone-moe",
        [Cut::Pattern(UFAKZEKA)] => "ufakzeka",
        [Cut::Pattern(BLOOM | BLOOM_FLAT)] => "bloom",
        [Cut::Pattern(BLOOM | BLOOM_FLAT), number] if single_number(number) => "viking",
        [Cut::Pattern(r"\p{N}+"), Cut::Pattern(r"(?=(\d{3})+(?!\d))")] => "superbpe",
        // SmolLM; also StarCoder 2, Command R and others.
        [number, Cut::Pattern(GPT2)] if single_number(number) => "smollm",
        [Cut::Punctuation, Cut::Pattern(GPT2), Cut::Digits(false), Cut::Pattern("[0-9][0-9][0-9]")]
        | [Cut::Punctuation, Cut::Pattern(GPT2), Cut::Pattern("[0-9][0-9][0-9]")] => "falcon",
        [Cut::Pattern(r"\p{N}{1,3}"), Cut::Pattern("[一-龥぀-ゟ゠-ヿ]+"), Cut::Pattern(DEEPSEEK3)] => {
            "deepseek-v3"
        }
        [
            Cut::Pattern(r"[\r\n]"),
            Cut::Pattern(r"\s?\p{L}+"),
            Cut::Pattern(r"\s?\p{P}+"),
            Cut::Pattern("[一-龥ࠀ-一가-퟿]+"),
            number,
        ] if single_number(number) => "deepseek-coder",
        // The second pattern lists every letter of the scripts with letter case; its beginning is enough to know it.
        [
            Cut::Pattern(r"[\r\n]"),
            Cut::Pattern(letters),
            Cut::Pattern(r"\s?[!-/:-~！-／：-～‘-‟　-。]+"),
            Cut::Pattern(r"\s+$"),
            Cut::Pattern("[一-龥ࠀ-一가-퟿]+"),
            Cut::Digits(_),
        ] if letters.starts_with(r"\s?[A-Za-zµÀ-Ö") => "deepseek-llm",
        _ => return None,
    })
}

/// The pattern of a `Split` that makes every match a piece, in one spelling.
fn pattern(step: &Step<'_>) -> Option<String> {
    if step.kind != "Split" {
        return None;
    }
    let behavior = step.value.get("behavior").and_then(Value::as_str)?;
    // All patterns above cover every text, so that nothing is removed where matches are what stays.
    let pieces = matches!((behavior, step.flag("invert", false)), ("Isolated", false) | ("Removed", true));
    let pattern = step.value.get("pattern")?;
    let text = pattern.get("Regex").and_then(Value::as_str).filter(|_| pieces)?;
    // Files write line ends as they are or escaped, and letter case as a flag or letter by letter.
    Some(
        text.replace('\r', r"\r")
            .replace('\n', r"\n")
            .replace("(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])", "(?i:'s|'t|'re|'ve|'m|'ll|'d)"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn split(pattern: &str) -> Value {
        json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false})
    }

    fn bytes(use_regex: bool) -> Value {
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex})
    }

    fn sequence(steps: &[Value]) -> Value {
        json!({"type": "Sequence", "pretokenizers": steps})
    }

    #[track_caller]
    fn check(pre_tokenizer: &Value, ignore_merges: bool, expected: Option<&str>) {
        assert_eq!(name(&steps(Some(pre_tokenizer)), ignore_merges), expected, "{pre_tokenizer}");
    }

    #[test]
    fn published_tokenizers_have_their_names() {
        check(&bytes(true), false, Some("gpt-2"));
        check(&sequence(&[split(GPT2), bytes(false)]), false, Some("gpt-2"));
        check(&sequence(&[split(LLAMA3), bytes(false)]), true, Some("llama-bpe"));
        check(&sequence(&[split(LLAMA3), bytes(false)]), false, Some("dbrx"));
        check(&sequence(&[split(QWEN2), bytes(false)]), false, Some("qwen2"));
        check(&sequence(&[split(TEKKEN), bytes(false)]), true, Some("tekken"));
        check(&sequence(&[split(GPT4O), bytes(false)]), false, Some("gpt-4o"));
        check(&sequence(&[split(TRIPLES), split(GPT4O), bytes(false)]), false, Some("tiny_aya"));
        check(&sequence(&[split(JAIS2), bytes(false)]), false, Some("jais-2"));
        check(&sequence(&[split(BAILING), bytes(false)]), false, Some("bailingmoe"));
        check(&sequence(&[split(SEED_CODER), bytes(false)]), false, Some("seed-coder"));
        check(&sequence(&[split(EXAONE_MOE), bytes(false)]), false, Some("exaone-moe"));
        check(&sequence(&[split(BLOOM), bytes(false)]), false, Some("bloom"));
        check(&sequence(&[split(r"\p{N}{1,3}"), split(MINICPM5), bytes(false)]), true, Some("minicpm5"));
        check(&sequence(&[split(r"\p{N}{1,3}"), split(MINICPM5), bytes(false)]), false, None);
        let digits = json!({"type": "Digits", "individual_digits": true});
        check(&sequence(&[digits.clone(), bytes(true)]), false, Some("smollm"));
        check(&sequence(&[split(r"\p{N}"), bytes(true)]), false, Some("smollm"));
        let chinese = "[一-龥ࠀ-一가-퟿]+";
        let coder = [split("[\r\n]"), split(r"\s?\p{L}+"), split(r"\s?\p{P}+"), split(chinese), digits, bytes(false)];
        check(&sequence(&coder), false, Some("deepseek-coder"));
        let third = DEEPSEEK3.replace(r"\r", "\r").replace(r"\n", "\n");
        let v3 = [split(r"\p{N}{1,3}"), split("[一-龥぀-ゟ゠-ヿ]+"), split(&third), bytes(false)];
        check(&sequence(&v3), false, Some("deepseek-v3"));
    }

    #[test]
    fn the_same_pattern_in_another_spelling_is_the_same() {
        let cased =
            LLAMA3.replace("(?i:'s|'t|'re|'ve|'m|'ll|'d)", "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])");
        check(&sequence(&[split(&cased), bytes(false)]), true, Some("llama-bpe"));
        let mut removed = split(QWEN2);
        removed["behavior"] = json!("Removed");
        removed["invert"] = json!(true);
        check(&sequence(&[sequence(&[removed.clone()]), bytes(false)]), false, Some("qwen2"));
        removed["invert"] = json!(false);
        check(&sequence(&[removed, bytes(false)]), false, None);
    }

    #[test]
    fn what_is_not_known_is_not_guessed() {
        check(&sequence(&[split(r"\w+"), bytes(false)]), false, None);
        check(&sequence(&[split(QWEN2), bytes(true)]), false, None);
        check(&json!({"type": "Whitespace"}), false, None);
        check(&json!({"type": "ByteLevel", "add_prefix_space": true}), false, None);
        assert_eq!(name(&[], false), None);
    }
}
