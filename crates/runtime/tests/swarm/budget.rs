//! Memory: a budget that holds, few reloads, nobody who waits too long, and no request that is lost.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::models::random_model;
use super::moe::{RoutingStrategy, SynthesisStrategy};
use super::*;

/// Bytes of this process that are in memory.
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap() * 1024
}

const EXPERTS: [&str; 4] = ["north", "east", "south", "west"];

/// Four experts of some 45 MB each, and a budget for two.
fn four_experts(name: &str, wait_ms_max: u64) -> (Folder, u64) {
    let folder = Folder::new(name);
    for (i, name) in EXPERTS.iter().enumerate() {
        random_model(&folder.0.join(format!("{name}.gguf")), 3, i as u64);
        folder.expert(name, &format!("{name}.gguf"), "context = 64\nmax_tokens = 3");
    }
    folder.write("swarm.toml", "builtin = false\n");
    let probe = open(&folder);
    for name in EXPERTS {
        let id = probe.expert_id(name).unwrap();
        answer(&probe, &SwarmRequest { pinned: Some(id), ..SwarmRequest::new("Where?") }).unwrap();
    }
    let largest = probe.experts().iter().filter_map(|(_, status)| status.bytes).max().unwrap();
    let bytes_max = 2 * largest + largest / 2;
    folder.write(
        "swarm.toml",
        format!("builtin = false\n[memory]\nmax = \"{bytes_max}\"\nwait_ms_max = {wait_ms_max}\nqueue_max = 512\n"),
    );
    (folder, bytes_max)
}

/// Reloads of a cache for two that serves first come first, and forgets who was used longest ago.
fn reloads_of_lru(order: &[usize]) -> u64 {
    let mut held: Vec<usize> = Vec::new();
    let mut loads = 0;
    for &expert in order {
        if let Some(at) = held.iter().position(|&h| h == expert) {
            held.remove(at);
        } else {
            loads += 1;
            held.truncate(1);
        }
        held.insert(0, expert);
    }
    loads
}

// One test, because it measures the memory of the whole process.
#[test]
fn two_hundred_questions_to_four_experts_of_which_two_fit() {
    const WAIT_MS_MAX: u64 = 60_000;
    let (folder, bytes_max) = four_experts("budget", WAIT_MS_MAX);
    let before = resident_bytes();
    let swarm = Arc::new(open(&folder));
    let order: Vec<usize> = (0..200).map(|i| (i * 7 + i / 3) % 4).collect();
    let ask = |swarm: &SwarmEngine, i: usize| {
        let id = swarm.expert_id(EXPERTS[order[i]]).unwrap();
        let start = Instant::now();
        let request = SwarmRequest { pinned: Some(id), ..SwarmRequest::new(format!("Question {i}?")) };
        let answer = answer(swarm, &request).unwrap();
        assert_eq!(names(&answer), [EXPERTS[order[i]]]);
        (start.elapsed(), resident_bytes())
    };

    // All at once, each from a thread of its own.
    let clients: Vec<_> = (0..order.len())
        .map(|i| {
            let swarm = Arc::clone(&swarm);
            let order = order.clone();
            std::thread::spawn(move || {
                let id = swarm.expert_id(EXPERTS[order[i]]).unwrap();
                let request = SwarmRequest { pinned: Some(id), ..SwarmRequest::new(format!("Question {i}?")) };
                let answer = answer(&swarm, &request).unwrap();
                assert_eq!(names(&answer), [EXPERTS[order[i]]]);
                resident_bytes()
            })
        })
        .collect();
    let peak = clients.into_iter().map(|client| client.join().unwrap()).max().unwrap();
    let stats = swarm.fleet().stats();
    let lru = reloads_of_lru(&order);
    println!(
        "all at once: {} model loads, first come first served with LRU {lru}; longest wait {} ms; {} MB above the \
         start, budget {} MB",
        stats.base_loads,
        stats.wait_ms_longest,
        (peak - before.min(peak)) >> 20,
        bytes_max >> 20
    );
    assert_eq!(stats.starts, 200, "no question was lost");
    assert!(stats.base_loads * 5 <= lru, "{} model loads, LRU has {lru}", stats.base_loads);
    assert!(stats.wait_ms_longest <= WAIT_MS_MAX && stats.late_starts == 0);
    assert!(peak <= before + bytes_max, "{peak} bytes in memory, {before} before, the budget is {bytes_max}");
    assert!(swarm.fleet().bytes_held() <= bytes_max);

    // One client, each question after the answer to the one before: no worse than LRU.
    let in_turn = swarm.fleet().stats().base_loads;
    let peak = (0..60).map(|i| ask(&swarm, i).1).max().unwrap();
    let loads = swarm.fleet().stats().base_loads - in_turn;
    let lru = reloads_of_lru(&order[..60]);
    println!("in turn: {loads} model loads, LRU {lru}");
    assert!(loads <= lru, "{loads} model loads, LRU has {lru}");
    assert!(peak <= before + bytes_max, "{peak} bytes in memory, {before} before, the budget is {bytes_max}");

    // A mixture that needs more than fits is refused with both numbers, and nobody suffers.
    let mixture = SwarmRequest {
        routing: Some(RoutingStrategy::All),
        synthesis: Some(SynthesisStrategy::WeightedAverage),
        ..SwarmRequest::new("Where?")
    };
    let told = match answer(&swarm, &mixture) {
        Err(error) => error.to_string(),
        Ok(answer) => answer.synthesis.notes.join("\n"),
    };
    assert!(told.contains(&bytes_max.to_string()), "{told}");
    ask(&swarm, 0);
}

#[test]
fn experts_that_go_while_they_are_asked_lose_no_answer() {
    let folder = folder("goes");
    for name in EXPERTS {
        folder.expert(name, "builtin:default", "max_tokens = 4");
    }
    let swarm = Arc::new(open(&folder));
    let clients: Vec<_> = (0..4)
        .map(|client| {
            let swarm = Arc::clone(&swarm);
            std::thread::spawn(move || {
                (0..25)
                    .map(|i| {
                        let text = format!("Tell me about {}, part {i}.", EXPERTS[(client + i) % 4]);
                        ask(&swarm, &text).synthesis.contributions.len()
                    })
                    .sum::<usize>()
            })
        })
        .collect();
    let until = Instant::now() + Duration::from_millis(600);
    let mut there = true;
    while Instant::now() < until {
        if there {
            std::fs::remove_file(folder.0.join("west.toml")).unwrap();
        } else {
            folder.expert("west", "builtin:default", "max_tokens = 4");
        }
        there = !there;
        swarm.reload().unwrap();
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(clients.into_iter().map(|client| client.join().unwrap()).sum::<usize>(), 100);
}
