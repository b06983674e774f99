//! How long routing takes: `cargo run --release -p hublabio-moe --example route_bench`.
//!
//! Questions of 256 bytes against experts with made-up keywords and twenty example questions each. Prints the median
//! and the 99th percentile of one call of `Router::route`, decision included, on one thread, in microseconds; and both
//! again over each question's best of five calls, which leaves out what other programs on the machine took.

use std::time::Instant;

use hublabio_moe::{
    ExpertConfig, ExpertDomain, ExpertId, ExpertProfile, RouteQuery, Router, RouterConfig, RoutingStrategy,
};

const QUERIES: usize = 5_000;
const QUERY_BYTES: usize = 256;
const EXAMPLES: usize = 20;

/// Words that every question and example is full of.
const COMMON: [&str; 40] = [
    "how", "do", "i", "the", "a", "in", "of", "to", "is", "what", "with", "my", "and", "for", "it", "that", "when",
    "why", "can", "from", "use", "write", "show", "explain", "get", "find", "make", "value", "error", "file", "list",
    "data", "name", "line", "call", "time", "new", "all", "one", "two",
];

/// Pseudo-random numbers (splitmix64), the same at each run.
struct Chance(u64);

impl Chance {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n as u64) as usize
    }

    /// A common word three times out of four, else one of the expert's.
    fn word(&mut self, own: &[String]) -> String {
        if self.below(4) > 0 { COMMON[self.below(COMMON.len())].to_owned() } else { own[self.below(own.len())].clone() }
    }
}

/// The n-th made-up word.
fn made_up(mut n: usize) -> String {
    const SYLLABLES: [&str; 16] =
        ["ba", "ko", "ri", "ten", "lu", "mas", "vi", "dor", "pe", "shu", "gal", "nim", "zo", "fer", "ty", "wen"];
    let mut word = String::new();
    for _ in 0..5 {
        word.push_str(SYLLABLES[n % 16]);
        n /= 16;
    }
    word
}

/// A router of `experts` with `keywords` each, and questions about them.
fn setup(experts: usize, keywords: usize, config: RouterConfig) -> (Router, Vec<String>) {
    let mut chance = Chance(1);
    let mut router = Router::new(config).expect("the settings are within their ranges");
    let words_of = |expert: usize| -> Vec<String> { (0..keywords).map(|n| made_up(expert * keywords + n)).collect() };
    for expert in 0..experts {
        let own = words_of(expert);
        let mut example = |_| (0..12).map(|_| chance.word(&own)).collect::<Vec<_>>().join(" ");
        let examples = (0..EXAMPLES).map(&mut example).collect();
        let domain = ExpertDomain { name: String::new(), keywords: own, threshold: 0.5 };
        let config = ExpertConfig {
            id: ExpertId(expert as u32),
            name: format!("expert-{expert}"),
            description: String::new(),
            domain,
            model_path: String::new(),
            node_id: None,
            priority: 0,
        };
        router.register_with(config, ExpertProfile { examples, ..ExpertProfile::default() });
    }
    let question = |_| {
        let own = words_of(chance.below(experts));
        let mut text = String::new();
        while text.len() < QUERY_BYTES {
            text.push_str(&chance.word(&own));
            text.push(' ');
        }
        text.truncate(QUERY_BYTES);
        text
    };
    let questions = (0..QUERIES).map(question).collect();
    (router, questions)
}

fn measure(name: &str, experts: usize, keywords: usize, config: RouterConfig) -> f64 {
    let (router, questions) = setup(experts, keywords, config);
    let (mut all, mut best) = (Vec::new(), vec![f64::INFINITY; questions.len()]);
    for round in 0..6 {
        for (text, best) in questions.iter().zip(&mut best) {
            let query = RouteQuery { text, ..RouteQuery::default() };
            let start = Instant::now();
            let decision = router.route(&query, RoutingStrategy::TopK(3), None);
            let micros = start.elapsed().as_secs_f64() * 1e6;
            assert!(decision.is_ok_and(|decision| decision.confidence.len() == experts));
            // The first round warms up.
            if round > 0 {
                all.push(micros);
                *best = best.min(micros);
            }
        }
    }
    let percentiles = |times: &mut Vec<f64>| {
        times.sort_by(f64::total_cmp);
        (times[times.len() / 2], times[times.len() * 99 / 100])
    };
    let ((p50, p99), (best50, best99)) = (percentiles(&mut all), percentiles(&mut best));
    println!("{name:<24} {experts:>7} {:>9} {p50:>9.1} {p99:>9.1} {best50:>9.1} {best99:>9.1}", experts * keywords);
    best50
}

fn main() {
    let both = RouterConfig::default();
    let only_keywords = RouterConfig { classifier: false, ..both.clone() };
    println!(
        "{:<24} {:>7} {:>9} {:>9} {:>9} {:>9} {:>9}",
        "stages", "experts", "keywords", "p50", "p99", "best p50", "best p99"
    );
    if std::env::args().any(|arg| arg == "--one") {
        measure("keywords + classifier", 1_000, 20, both);
        return;
    }
    measure("keywords + classifier", 1_000, 20, both.clone());
    let few = measure("keywords", 1_000, 1, only_keywords.clone());
    measure("keywords", 1_000, 20, only_keywords.clone());
    let many = measure("keywords", 1_000, 100, only_keywords);
    println!("100,000 keywords cost {:.2} times what 1,000 cost", many / few);
    for experts in [10, 100, 10_000] {
        measure("keywords + classifier", experts, 20, both.clone());
    }
}
