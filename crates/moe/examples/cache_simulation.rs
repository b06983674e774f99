//! Prints what the expert cache makes of some workloads in simulated time, beside first come first served with LRU, and
//! how long it takes to decide, in real time.
//!
//! `cargo run --release -p hublabio-moe --example cache_simulation`

#[path = "../tests/cache_support/mod.rs"]
mod cache_support;

use std::time::Instant;

use cache_support::{Arrival, Host, Lru, Numbers, Report, first_come_lru, grouped, in_turn, whole};
use hublabio_moe::{CacheConfig, CacheEvent, ExpertCache, ExpertId, ExpertWeights, HalfLife, RequestId};

const RUN_MS: u64 = 50;
const RELOAD_MS: u64 = 200;

fn experts(n: u32) -> Vec<ExpertWeights> {
    (1..=n).map(|id| whole(id, 10, RELOAD_MS)).collect()
}

fn line(workload: &str, policy: &str, report: &Report) {
    let [half, most, all] = [0.5, 0.99, 1.0].map(|share| report.quantile_ms(share));
    println!("| {workload} | {policy} | {} | {half} | {most} | {all} | {} |", report.loads, report.end_ms);
}

/// Requests that come whether or not the ones before are answered.
fn open(workload: &str, n_experts: u32, fit: u64, arrivals: &[Arrival]) {
    let experts = experts(n_experts);
    line(workload, "first come, LRU", &first_come_lru(fit * 10, &experts, arrivals));
    for wait_ms_max in [500, 2_000, 30_000] {
        let config =
            CacheConfig { wait_ms_max, run_ms_estimate: RUN_MS, queue_max: 2000, ..CacheConfig::new(fit * 10) };
        line(workload, &format!("cache, {wait_ms_max} ms"), &grouped(config, &experts, arrivals));
    }
}

/// One client that asks for the next when the last answer is there.
fn closed(workload: &str, n_experts: u32, fit: u64, sequence: &[u32]) {
    let experts = experts(n_experts);
    let mut lru = Lru::new(fit * 10, &experts);
    let waits_ms: Vec<u64> = sequence.iter().map(|&id| lru.use_expert(id)).collect();
    line(workload, "LRU", &report(lru.loads, waits_ms));
    for half_life in [0.5, 8.0, 64.0] {
        let config = CacheConfig { half_life: HalfLife::Requests(half_life), ..CacheConfig::new(fit * 10) };
        let host = in_turn(Host::new(config, &experts), sequence);
        let waits_ms = host.waits_ms.iter().map(|&(_, wait_ms)| wait_ms).collect();
        line(workload, &format!("cache, half-life {half_life}"), &report(host.loads.len(), waits_ms));
    }
}

fn report(loads: usize, mut waits_ms: Vec<u64>) -> Report {
    let end_ms = waits_ms.iter().sum::<u64>() + waits_ms.len() as u64 * RUN_MS;
    waits_ms.sort_unstable();
    Report { loads, waits_ms, end_ms }
}

fn arrivals(n: u64, mut pause_ms: impl FnMut() -> u64, mut expert: impl FnMut(u64) -> u32) -> Vec<Arrival> {
    let mut at_ms = 0;
    let next = |at| {
        let arrival = Arrival { at_ms, expert: expert(at), run_ms: RUN_MS };
        at_ms += pause_ms();
        arrival
    };
    (0..n).map(next).collect()
}

/// The longest and the mean time that an event takes, with many experts and a queue that is full.
fn decide(n_experts: u32, queue_max: usize) {
    let config = CacheConfig { queue_max, ..CacheConfig::new(u64::from(n_experts) * 5) };
    let mut cache = ExpertCache::new(config).expect("the settings are sound");
    for expert in experts(n_experts) {
        cache.handle(CacheEvent::ExpertAdded(expert), 0);
    }
    let mut numbers = Numbers(1);
    let mut took_us = Vec::new();
    for request in 0..queue_max as u64 {
        let experts = vec![ExpertId(1 + numbers.below(u64::from(n_experts)) as u32)];
        let began = Instant::now();
        cache.handle(CacheEvent::RequestQueued { request: RequestId(request), experts }, request);
        took_us.push(began.elapsed().as_secs_f64() * 1e6);
    }
    took_us.sort_by(f64::total_cmp);
    let mean = took_us.iter().sum::<f64>() / took_us.len() as f64;
    let p99 = took_us[took_us.len() * 99 / 100];
    println!("| {n_experts} | {queue_max} | {mean:.0} | {p99:.0} |");
}

fn main() {
    println!("A run takes {RUN_MS} ms, a load {RELOAD_MS} ms; waits and end in ms.\n");
    println!("| workload | policy | loads | p50 | p99 | max | end |\n|---|---|---|---|---|---|---|");
    let mut numbers = Numbers(5);
    let mut dice = Numbers(6);
    let alternating = |at: u64| 1 + (at % 4) as u32;
    open("200 at once, alternating, 2 of 4 fit", 4, 2, &arrivals(200, || 0, alternating));
    open("200 at once, random, 2 of 4 fit", 4, 2, &arrivals(200, || 0, |_| 1 + numbers.below(4) as u32));
    for every_ms in [60, 100, 200] {
        let name = format!("every {every_ms} ms, alternating, 2 of 4 fit");
        open(&name, 4, 2, &arrivals(1000, || every_ms, alternating));
    }
    // Exponential pauses with a mean of 90 ms.
    let pause = || (-90.0 * (1.0 - dice.unit()).ln()) as u64;
    open("Poisson 90 ms, Zipf, 3 of 8 fit", 8, 3, &arrivals(2000, pause, |_| numbers.zipf(8)));
    let zipf: Vec<u32> = (0..1000).map(|_| numbers.zipf(8)).collect();
    closed("in turn, Zipf, 3 of 8 fit", 8, 3, &zipf);
    let cycle: Vec<u32> = (0..1000).map(|at| 1 + at % 4).collect();
    closed("in turn, cycle, 3 of 4 fit", 4, 3, &cycle);
    let left: Vec<u32> = (0..500).map(|_| 1).chain((0..500).map(|at| 2 + at % 3)).collect();
    closed("in turn, loved and left, 3 of 4 fit", 4, 3, &left);

    println!("\nTime to decide, in µs.\n\n| experts | queue | mean | p99 |\n|---|---|---|---|");
    for (n_experts, queue_max) in [(4, 16), (4, 256), (100, 256), (1000, 256), (1000, 1024)] {
        decide(n_experts, queue_max);
    }
}
