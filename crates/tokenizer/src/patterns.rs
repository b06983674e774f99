//! The published pre-tokenizer patterns as data, each beside the regex it stands for.
//!
//! Origin: the `tokenizer.json` (or the tokenizer's source) of the model that each constant is named after, which is
//! what the model was trained with. llama.cpp rewrites some of these for its own matcher; where that changes a piece,
//! the published regex is followed here. Names and groups are in `pre.rs`, the matcher in `pattern.rs`.

use crate::pattern::{Alternative, Class, DECIMALS, Stage};
use crate::unicode::{HAN, LETTER, LOWERCASE, MARK, NEWLINE, NUMBER, PUNCTUATION, SPACE, SYMBOL, UNCASED, UPPERCASE};

type Pattern = &'static [Alternative];

const LETTERS: Class = Class::of(LETTER);
const NUMBERS: Class = Class::of(NUMBER);
const NEWLINES: Class = Class::of(NEWLINE);
const SPACES: Class = Class::of(SPACE);
/// `[^\s\p{L}\p{N}]`
const OTHER: Class = Class::not(SPACE | LETTER | NUMBER);
/// `[^\r\n\p{L}\p{N}]`
const WORD_LEAD: Class = Class::not(NEWLINE | LETTER | NUMBER);
/// `[A-Za-z]`
const ASCII_LETTERS: Class = Class::chars("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz");
/// `[0-9]`
const ASCII_DIGITS: Class = Class::chars("0123456789");
const ASCII_PUNCTUATION: &str = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~";

/// GPT-2's pattern (Radford et al. 2019, `encoder.py` of the released code):
/// `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
pub const GPT2: Stage = Stage::Pattern(&[
    Alternative::Contraction,
    Alternative::spaced(LETTERS),
    Alternative::spaced(NUMBERS),
    Alternative::spaced(OTHER),
    Alternative::SpaceNotBeforeText,
    Alternative::Space,
]);

/// The pattern of Llama 3 and its relatives (tiktoken's `cl100k_base`), with `digits` numbers to a group:
/// `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
const fn cl100k(digits: usize) -> [Alternative; 7] {
    [
        Alternative::ContractionAnyCase,
        Alternative::led(WORD_LEAD, LETTERS),
        Alternative::run(NUMBERS, 1, digits),
        Alternative::spaced_then(OTHER, NEWLINES),
        Alternative::SpaceToNewline,
        Alternative::SpaceNotBeforeText,
        Alternative::Space,
    ]
}
pub const LLAMA3: Stage = Stage::Pattern(&cl100k(3));
/// Qwen 2: numbers one by one. Ling's (`bailingmoe`) possessive quantifiers and single `[\r\n]` cut alike.
pub const QWEN2: Stage = Stage::Pattern(&cl100k(1));
/// The second pattern of MiniCPM 5: `\p{N}+`.
pub const MINICPM5: Stage = Stage::Pattern(&cl100k(usize::MAX));

/// Jais 2: Llama 3's, with white space in powers of two.
pub const JAIS2: Stage = Stage::Pattern(&[
    Alternative::ContractionAnyCase,
    Alternative::led(WORD_LEAD, LETTERS),
    Alternative::run(NUMBERS, 1, 3),
    Alternative::spaced_then(OTHER, NEWLINES),
    Alternative::SpaceToNewline,
    Alternative::SpaceByPowers,
]);

/// Qwen 3.5: letters with their combining marks.
pub const QWEN35: Stage = Stage::Pattern(&[
    Alternative::ContractionAnyCase,
    Alternative::led(WORD_LEAD, Class::of(LETTER | MARK)),
    Alternative::run(NUMBERS, 1, 1),
    Alternative::spaced_then(Class::not(SPACE | LETTER | MARK | NUMBER), NEWLINES),
    Alternative::SpaceToNewline,
    Alternative::SpaceNotBeforeText,
    Alternative::Space,
]);

/// Qwen 2's without English contractions.
pub const UFAKZEKA: Stage = Stage::Pattern(&[
    Alternative::led(WORD_LEAD, LETTERS),
    Alternative::run(NUMBERS, 1, 1),
    Alternative::spaced_then(OTHER, NEWLINES),
    Alternative::SpaceToNewline,
    Alternative::SpaceNotBeforeText,
    Alternative::Space,
]);

/// Seed-Coder: punctuation does not take line ends.
pub const SEED_CODER: Stage = Stage::Pattern(&[
    Alternative::ContractionAnyCase,
    Alternative::led(WORD_LEAD, LETTERS),
    Alternative::run(NUMBERS, 1, 1),
    Alternative::spaced(OTHER),
    Alternative::SpaceToNewline,
    Alternative::SpaceNotBeforeText,
    Alternative::Space,
]);

/// EXAONE MoE: words joined by single spaces, `[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+`, and at most one
/// line end or slash after punctuation.
pub const EXAONE_MOE: Stage = Stage::Pattern(&[
    Alternative::ContractionAnyCase,
    Alternative::JoinedWords { lead: WORD_LEAD, letter: LETTERS, mark: Class::of(MARK) },
    Alternative::run(NUMBERS, 1, 1),
    Alternative::Run {
        lead: Class::chars(" "),
        class: OTHER,
        min: 1,
        max: usize::MAX,
        trail: NEWLINES.with("/"),
        trail_max: 1,
    },
    Alternative::SpaceToNewline,
    Alternative::SpaceNotBeforeText,
    Alternative::Space,
]);

/// `[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]`
const UPPER: Class = Class::of(UPPERCASE | UNCASED | MARK);
/// `[\p{Ll}\p{Lm}\p{Lo}\p{M}]`
const LOWER: Class = Class::of(LOWERCASE | UNCASED | MARK);

/// Words by letter case, as in tiktoken's `o200k_base`:
/// `[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?`
/// `|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?`
/// `|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`
const fn o200k(contraction: bool, digits: usize) -> [Alternative; 6] {
    [
        Alternative::Cased { lead: WORD_LEAD, upper: UPPER, lower: LOWER, contraction },
        Alternative::run(NUMBERS, 1, digits),
        Alternative::spaced_then(OTHER, NEWLINES.with("/")),
        Alternative::SpaceToNewline,
        Alternative::SpaceNotBeforeText,
        Alternative::Space,
    ]
}
pub const GPT4O: Stage = Stage::Pattern(&o200k(true, 3));
/// Mistral Nemo: no contractions, numbers one by one.
pub const TEKKEN: Stage = Stage::Pattern(&o200k(false, 1));
/// The second pattern of Youtu.
pub const YOUTU: Stage = Stage::Pattern(&o200k(true, 1));

/// Kimi K2 (`pat_str` of its `tokenization_kimi.py`): runs of Han, then GPT-4o's without Han in its words and with
/// line ends only after punctuation. A character that is Han and a mark stays out of the words, too.
pub const KIMI_K2: Stage = Stage::Pattern(&[
    Alternative::run(Class::of(HAN), 1, usize::MAX),
    Alternative::Cased { lead: WORD_LEAD, upper: UPPER.without(HAN), lower: LOWER.without(HAN), contraction: true },
    Alternative::run(NUMBERS, 1, 3),
    Alternative::spaced_then(OTHER, NEWLINES),
    Alternative::SpaceToNewline,
    Alternative::SpaceNotBeforeText,
    Alternative::Space,
]);

/// The third pattern of DeepSeek V3:
/// ``[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*``
/// `|\s*[\r\n]+|\s+(?!\S)|\s+`
pub const DEEPSEEK3: Stage = Stage::Pattern(&[
    Alternative::Pair { first: Class::chars(ASCII_PUNCTUATION), then: ASCII_LETTERS },
    Alternative::led(Class::not(NEWLINE | LETTER | PUNCTUATION | SYMBOL), Class::of(LETTER | MARK)),
    Alternative::spaced_then(Class::of(PUNCTUATION | SYMBOL), NEWLINES),
    Alternative::SpaceToNewline,
    Alternative::SpaceNotBeforeText,
    Alternative::Space,
]);

/// Spark 2.5: DeepSeek V3's, with every line end alone.
pub const SPARK25: Stage = Stage::Pattern(&[
    Alternative::Pair { first: Class::chars(ASCII_PUNCTUATION), then: ASCII_LETTERS },
    Alternative::led(Class::not(NEWLINE | LETTER | PUNCTUATION | SYMBOL), Class::of(LETTER | MARK)),
    Alternative::spaced(Class::of(PUNCTUATION | SYMBOL)),
    Alternative::run(NEWLINES, 1, 1),
    Alternative::SpaceNotBeforeText,
    Alternative::Space,
]);

/// BLOOM and its relatives: ` ?[^(\s|.,!?…。，、।۔،)]+`
pub const BLOOM: Stage = Stage::Pattern(&[Alternative::spaced(
    SPACES
        .with("(|.,!?)")
        .with_ranges(&[('،', '،'), ('۔', '۔'), ('।', '।'), ('…', '…'), ('、', '。'), ('，', '，')])
        .negate(),
)]);

/// `\p{N}`: every number character alone.
pub const SINGLE_NUMBERS: Stage = runs(&[Alternative::run(NUMBERS, 1, 1)]);
/// `\p{N}{1,3}`
pub const NUMBERS_TO_THREE: Stage = runs(&[Alternative::run(NUMBERS, 1, 3)]);
/// `\p{N}+`
pub const NUMBER_RUNS: Stage = runs(&[Alternative::run(NUMBERS, 1, usize::MAX)]);
/// `[0-9][0-9][0-9]`
pub const THREE_DIGITS: Stage = runs(&[Alternative::run(ASCII_DIGITS, 3, 3)]);
/// `[\p{P}\$\+<=>\^~\|]+`
pub const PUNCTUATION_RUNS: Stage = runs(&[Alternative::run(Class::of(PUNCTUATION).with("$+<=>^~|"), 1, usize::MAX)]);
/// ``[\p{P}\$\+<=>\^~\|`]+``
pub const FALCON_PUNCTUATION_RUNS: Stage =
    runs(&[Alternative::run(Class::of(PUNCTUATION).with("$+<=>^~|`"), 1, usize::MAX)]);
/// `[\r\n]`
pub const SINGLE_NEWLINES: Stage = runs(&[Alternative::run(NEWLINES, 1, 1)]);
/// `[^\n]+|[\n]+`
pub const LINES: Stage = runs(&[
    Alternative::run(Class::chars("\n").negate(), 1, usize::MAX),
    Alternative::run(Class::chars("\n"), 1, usize::MAX),
]);
/// `\s+$`
pub const SPACE_AT_END: Stage = runs(&[Alternative::SpaceAtEnd]);
/// `\S+`, without the white space.
pub const WORDS: Stage = Stage::Words;

/// `\d{1,3}(?=(?:\d{3})*\b)`: Command A and its relatives.
pub const TRIPLES_BEFORE_BOUNDARY: Stage = Stage::Triples { class: DECIMALS, before_boundary: true };
/// `(?=(\d{3})+(?!\d))`: SuperBPE.
pub const TRIPLES: Stage = Stage::Triples { class: DECIMALS, before_boundary: false };
/// AFMoE: numbers in groups of three from the right.
pub const NUMBER_TRIPLES: Stage = Stage::Triples { class: NUMBERS, before_boundary: false };

/// `\s?[…]+`, the cased letters of DeepSeek LLM's first release.
pub const DEEPSEEK_LLM_LETTERS: Stage = runs(&[Alternative::led(SPACES, ASCII_LETTERS.with_ranges(CASED_LETTERS))]);
/// `\s?[!-/:-~！-／：-～‘-‟　-。]+`
pub const DEEPSEEK_LLM_PUNCTUATION: Stage = runs(&[Alternative::led(
    SPACES,
    // From `:` to `~`, which includes the letters.
    Class::chars(ASCII_PUNCTUATION).with("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz").with_ranges(&[
        ('‘', '‟'),
        ('\u{3000}', '。'),
        ('！', '／'),
        ('：', '～'),
    ]),
)]);
/// `\s?\p{L}+`
pub const DEEPSEEK_CODER_LETTERS: Stage = runs(&[Alternative::led(SPACES, LETTERS)]);
/// `\s?\p{P}+`
pub const DEEPSEEK_CODER_PUNCTUATION: Stage = runs(&[Alternative::led(SPACES, Class::of(PUNCTUATION))]);
/// `[一-龥ࠀ-一가-퟿]+`
pub const DEEPSEEK_LLM_ASIAN: Stage =
    runs(&[Alternative::run(Class::ranges(&[('ࠀ', '龥'), ('가', '\u{D7FF}')]), 1, usize::MAX)]);
/// `[一-龥぀-ゟ゠-ヿ]+`
pub const CHINESE_JAPANESE: Stage = runs(&[CHINESE_JAPANESE_RUN]);
const CHINESE_JAPANESE_RUN: Alternative =
    Alternative::run(Class::ranges(&[('\u{3040}', 'ヿ'), ('一', '龥')]), 1, usize::MAX);

/// The first pattern of Youtu: `[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|[一-龥぀-ゟ゠-ヿ]+`
pub const YOUTU_ASIAN: Stage = runs(&[
    Alternative::run(Class::ranges(&[('ㄱ', 'ㆎ'), ('가', '힣')]), 1, usize::MAX),
    Alternative::run(
        Class::ranges(&[
            ('—', '—'),
            ('‘', '’'),
            ('“', '”'),
            ('…', '…'),
            ('、', '\u{303F}'),
            ('︰', '﹏'),
            ('！', '！'),
            ('，', '，'),
            ('：', '；'),
        ]),
        1,
        usize::MAX,
    ),
    Alternative::run(Class::ranges(&[('ㄅ', 'ㄯ')]), 1, usize::MAX),
    CHINESE_JAPANESE_RUN,
]);

/// The second pattern of AFMoE: scripts that write no spaces.
pub const AFMOE_ASIAN: Stage = runs(&[Alternative::run(
    Class::ranges(&[
        ('\u{E40}', '\u{E7F}'),
        ('\u{E80}', '\u{EFF}'),
        ('\u{1000}', '\u{109F}'),
        ('\u{1100}', '\u{11FF}'),
        ('\u{1780}', '\u{17FF}'),
        ('\u{2F00}', '\u{2FDF}'),
        ('\u{3040}', '\u{30FF}'),
        ('\u{3400}', '\u{4DBF}'),
        ('\u{4E00}', '\u{9FFF}'),
        ('\u{A9E0}', '\u{A9FF}'),
        ('\u{AA60}', '\u{AA7F}'),
        ('\u{AC00}', '\u{D7AF}'),
        ('\u{F900}', '\u{FAFF}'),
        ('\u{FF65}', '\u{FF9F}'),
    ]),
    1,
    usize::MAX,
)]);

/// `<sentinel:[0-9]+>`: Chameleon.
pub const CHAMELEON_SENTINELS: Stage =
    runs(&[Alternative::Between { open: "<sentinel:", class: ASCII_DIGITS, min: 1, max: usize::MAX, close: ">" }]);
/// `(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z`
pub const CHAMELEON_IMAGES: Stage =
    runs(&[Alternative::Between { open: "IMGIMG", class: Class::chars("ABCDEFGHI"), min: 1, max: 4, close: "Z" }]);
/// `([\t\n]|    |  )`
pub const CHAMELEON_SPACES: Stage =
    runs(&[Alternative::run(Class::chars("\t\n"), 1, 1), Alternative::Literal("    "), Alternative::Literal("  ")]);
/// ``[\p{P}!-/:-@\[-`{-~]``
pub const SINGLE_PUNCTUATION: Stage = runs(&[Alternative::run(Class::of(PUNCTUATION).with(ASCII_PUNCTUATION), 1, 1)]);

const fn runs(pattern: Pattern) -> Stage {
    Stage::Pattern(pattern)
}

/// The letters of scripts with letter case, as DeepSeek LLM's tokenizer.json lists them (an older Unicode version).
#[rustfmt::skip]
const CASED_LETTERS: &[(char, char)] = &[
    ('\u{B5}', '\u{B5}'), ('\u{C0}', '\u{D6}'), ('\u{D8}', '\u{F6}'), ('\u{F8}', '\u{1BA}'), ('\u{1BC}', '\u{1BF}'),
    ('\u{1C4}', '\u{293}'), ('\u{295}', '\u{2AF}'), ('\u{370}', '\u{373}'), ('\u{376}', '\u{376}'),
    ('\u{377}', '\u{377}'), ('\u{37B}', '\u{37D}'), ('\u{37F}', '\u{37F}'), ('\u{386}', '\u{386}'),
    ('\u{388}', '\u{38A}'), ('\u{38C}', '\u{38C}'), ('\u{38E}', '\u{3A1}'), ('\u{3A3}', '\u{3F5}'),
    ('\u{3F7}', '\u{481}'), ('\u{48A}', '\u{52F}'), ('\u{531}', '\u{556}'), ('\u{10A0}', '\u{10C5}'),
    ('\u{13A0}', '\u{13F5}'), ('\u{13F8}', '\u{13FD}'), ('\u{1C90}', '\u{1CBA}'), ('\u{1CBD}', '\u{1CBF}'),
    ('\u{1D00}', '\u{1D2B}'), ('\u{1D6B}', '\u{1D77}'), ('\u{1D79}', '\u{1D9A}'), ('\u{1E00}', '\u{1F15}'),
    ('\u{1F18}', '\u{1F1D}'), ('\u{1F20}', '\u{1F45}'), ('\u{1F48}', '\u{1F4D}'), ('\u{1F50}', '\u{1F57}'),
    ('\u{1F59}', '\u{1F59}'), ('\u{1F5B}', '\u{1F5B}'), ('\u{1F5D}', '\u{1F5D}'), ('\u{1F5F}', '\u{1F7D}'),
    ('\u{1F80}', '\u{1FB4}'), ('\u{1FB6}', '\u{1FBC}'), ('\u{1FBE}', '\u{1FBE}'), ('\u{1FC2}', '\u{1FC4}'),
    ('\u{1FC6}', '\u{1FCC}'), ('\u{1FD0}', '\u{1FD3}'), ('\u{1FD6}', '\u{1FDB}'), ('\u{1FE0}', '\u{1FEC}'),
    ('\u{1FF2}', '\u{1FF4}'), ('\u{1FF6}', '\u{1FFC}'), ('\u{2102}', '\u{2102}'), ('\u{2107}', '\u{2107}'),
    ('\u{210A}', '\u{2113}'), ('\u{2115}', '\u{2115}'), ('\u{2119}', '\u{211D}'), ('\u{2124}', '\u{2124}'),
    ('\u{2126}', '\u{2126}'), ('\u{2128}', '\u{2128}'), ('\u{212A}', '\u{212D}'), ('\u{212F}', '\u{2134}'),
    ('\u{2139}', '\u{2139}'), ('\u{213C}', '\u{213F}'), ('\u{2145}', '\u{2149}'), ('\u{214E}', '\u{214E}'),
    ('\u{2183}', '\u{2183}'), ('\u{2184}', '\u{2184}'), ('\u{2C00}', '\u{2C7B}'), ('\u{2C7E}', '\u{2CE4}'),
    ('\u{2CEB}', '\u{2CEE}'), ('\u{2CF2}', '\u{2CF2}'), ('\u{2CF3}', '\u{2CF3}'), ('\u{A640}', '\u{A66D}'),
    ('\u{A680}', '\u{A69B}'), ('\u{A722}', '\u{A76F}'), ('\u{A771}', '\u{A787}'), ('\u{A78B}', '\u{A78E}'),
    ('\u{AB70}', '\u{ABBF}'), ('\u{FB00}', '\u{FB06}'), ('\u{FB13}', '\u{FB17}'), ('\u{FF21}', '\u{FF3A}'),
    ('\u{FF41}', '\u{FF5A}'), ('\u{10400}', '\u{1044F}'), ('\u{104B0}', '\u{104D3}'), ('\u{104D8}', '\u{104FB}'),
    ('\u{10C80}', '\u{10CB2}'), ('\u{10CC0}', '\u{10CF2}'), ('\u{118A0}', '\u{118DF}'), ('\u{1E900}', '\u{1E943}'),
];
