//! The scheduler played through without a model: every request gets all its tokens, in order, within the limits.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn config(rows_max: usize, rows_beside: usize, running_max: usize, pages_max: usize) -> SchedulerConfig {
    SchedulerConfig { rows_max, rows_beside, running_max, pages_max }
}

/// A client: it comes at a step, with so many tokens, wants so many, and gives up after so many.
#[derive(Clone, Debug)]
struct Client {
    comes: usize,
    prompt: usize,
    answer: usize,
    gives_up_at: Option<usize>,
}

/// What became of a client.
#[derive(Clone, Debug, Default)]
struct Fate {
    admitted_at: Option<usize>,
    first_token_at: Option<usize>,
    done_at: Option<usize>,
    gave_up: bool,
    /// Keys and values in memory.
    held: usize,
    total: usize,
    said: usize,
    preempted: usize,
}

/// Plays until all have ended, and checks what must hold at every step.
fn simulate(config: SchedulerConfig, clients: &[Client]) -> BTreeMap<usize, Fate> {
    let mut scheduler = Scheduler::new(config);
    let mut fates: BTreeMap<usize, Fate> = BTreeMap::new();
    let work_max: usize = clients.iter().map(|c| c.prompt + c.answer).sum();
    let last_comes = clients.iter().map(|c| c.comes).max().unwrap_or(0);
    let mut step = 0;
    loop {
        for (id, client) in clients.iter().enumerate() {
            if client.comes == step {
                scheduler.add(id, client.prompt);
                fates.insert(id, Fate { total: client.prompt, ..Fate::default() });
            }
            if client.gives_up_at == Some(step) && fates.get(&id).is_some_and(|fate| fate.done_at.is_none()) {
                assert!(scheduler.remove(id), "{id} was there");
                let fate = fates.get_mut(&id).unwrap();
                fate.gave_up = true;
                fate.done_at = Some(step);
                fate.held = 0;
            }
        }
        if scheduler.is_empty() && step > last_comes {
            return fates;
        }
        let first_running = scheduler.running.first().map(|request| request.id);
        for change in scheduler.admit() {
            match change {
                Change::Admitted(id) => {
                    let fate = fates.get_mut(&id).unwrap();
                    fate.admitted_at.get_or_insert(step);
                    assert_eq!(fate.held, 0, "who enters holds nothing yet");
                }
                Change::Preempted(id) => {
                    assert_ne!(Some(id), first_running, "who entered first never leaves");
                    let fate = fates.get_mut(&id).unwrap();
                    fate.held = 0;
                    fate.preempted += 1;
                }
            }
        }
        let batch = scheduler.next_batch();
        assert_eq!(batch.is_empty(), scheduler.n_running() == 0, "who runs is served");
        let rows: usize = batch.iter().map(|work| work.tokens.len()).sum();
        assert!(rows <= config.rows_max, "{rows} rows");
        let answering = |work: &Work<usize>| fates[&work.id].total - fates[&work.id].held == 1;
        if batch.iter().any(answering) {
            let reading: usize = batch.iter().filter(|w| !answering(w)).map(|work| work.tokens.len()).sum();
            assert!(reading <= config.rows_beside, "{reading} rows beside answers");
        }
        let all_answering =
            scheduler.running.iter().filter(|request| request.left() == 1).all(|r| batch.iter().any(|w| w.id == r.id));
        assert!(all_answering, "everyone who answers is in the batch");
        for work in &batch {
            scheduler.computed(work);
            let fate = fates.get_mut(&work.id).unwrap();
            assert_eq!(work.tokens.start, fate.held, "tokens come in order");
            fate.held = work.tokens.end;
            assert!(fate.held <= fate.total, "no token is read before it is there");
            assert_eq!(work.is_last, fate.held == fate.total);
            if work.is_last {
                fate.said += 1;
                fate.first_token_at.get_or_insert(step);
                if fate.said == clients[work.id].answer {
                    fate.done_at = Some(step);
                    fate.held = 0;
                    assert!(scheduler.remove(work.id));
                } else {
                    fate.total += 1;
                    scheduler.extend(work.id);
                }
            }
        }
        let held: usize = fates.values().map(|fate| pages(fate.held)).sum();
        assert!(held <= config.pages_max, "{held} pages are held");
        step += 1;
        assert!(step <= last_comes + 4 * work_max + 16, "it does not come to an end");
    }
}

fn client(comes: usize, prompt: usize, answer: usize) -> Client {
    Client { comes, prompt, answer, gives_up_at: None }
}

#[test]
fn a_long_prompt_delays_nobody_by_more_than_its_share() {
    // One answers; a prompt of 10,000 tokens comes, then a short one.
    let clients = [client(0, 8, 400), client(1, 10_000, 4), client(2, 20, 4)];
    let fates = simulate(config(256, 64, 16, 1000), &clients);
    assert_eq!(fates[&0].done_at, Some(399), "a token in every step");
    assert_eq!(fates[&2].first_token_at, Some(2), "the short one slips by");
    let steps = 10_000_usize.div_ceil(64);
    let first = fates[&1].first_token_at.unwrap();
    assert!((steps..=steps + 2).contains(&first), "the long one gets the rest of every pass: {first}");
}

#[test]
fn short_prompts_cannot_starve_a_long_one() {
    let mut clients = vec![client(0, 1_600, 1)];
    clients.extend((0..400).map(|comes| client(comes, 64, 1)));
    let fates = simulate(config(64, 32, 64, 4000), &clients);
    // Half of 64 rows in each step.
    assert_eq!(fates[&0].first_token_at, Some(49));
}

#[test]
fn requests_enter_in_order() {
    let clients: Vec<Client> = (0..100).map(|_| client(0, 40, 10)).collect();
    let fates = simulate(config(64, 32, 8, 400), &clients);
    let entered: Vec<usize> = fates.values().map(|fate| fate.admitted_at.unwrap()).collect();
    assert!(entered.is_sorted(), "{entered:?}");
    assert_eq!(fates.values().map(|fate| fate.preempted).sum::<usize>(), 0, "memory was never short");
}

#[test]
fn who_entered_last_makes_room() {
    // Each grows to 9 pages in the end; 16 are there.
    let fates = simulate(config(256, 64, 8, 16), &[client(0, 100, 180), client(0, 100, 180)]);
    assert_eq!(fates[&0].preempted, 0);
    assert_eq!(fates[&1].preempted, 1, "once, and not again and again");
    assert!(fates.values().all(|fate| fate.said == 180));
}

#[test]
fn what_is_cached_is_not_read_again() {
    let mut scheduler = Scheduler::new(config(256, 64, 8, 100));
    scheduler.add('a', 200);
    assert_eq!(scheduler.admit(), [Change::Admitted('a')]);
    scheduler.cached('a', 150);
    assert_eq!(scheduler.next_batch(), [Work { id: 'a', tokens: 150..200, is_last: true }]);
    // All of it: the last token is computed all the same.
    scheduler.cached('a', 200);
    assert_eq!(scheduler.next_batch(), [Work { id: 'a', tokens: 199..200, is_last: true }]);
}

#[test]
#[should_panic(expected = "can never run")]
fn what_never_fits_is_not_taken() {
    Scheduler::new(config(256, 64, 8, 2)).add((), 64);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn everyone_is_served_within_the_limits(
        rows_max in 1..80usize,
        beside in 1..80usize,
        running in 1..20usize,
        spare_pages in 0..30usize,
        clients in proptest::collection::vec(
            (0..60usize, 1..300usize, 1..60usize, proptest::option::weighted(0.2, 0..200usize)), 1..24),
    ) {
        let clients: Vec<Client> = clients
            .into_iter()
            .map(|(comes, prompt, answer, after)| Client { comes, prompt, answer, gives_up_at: after.map(|n| comes + n) })
            .collect();
        let longest = clients.iter().map(|c| c.prompt + c.answer).max().unwrap();
        let config = config(rows_max, beside, running.min(rows_max), pages(longest + 1) + spare_pages);
        let fates = simulate(config, &clients);
        for (id, client) in clients.iter().enumerate() {
            let fate = &fates[&id];
            prop_assert!(fate.gave_up || fate.said == client.answer, "{id}: {fate:?}");
        }
        let firsts: Vec<usize> = fates.values().filter(|f| f.preempted == 0).filter_map(|f| f.admitted_at).collect();
        let by_arrival: Vec<usize> = {
            let mut order: Vec<usize> = (0..clients.len()).filter(|id| fates[id].preempted == 0).collect();
            order.sort_by_key(|&id| (clients[id].comes, id));
            order.iter().filter_map(|id| fates[id].admitted_at).collect()
        };
        prop_assert_eq!(firsts.len(), by_arrival.len());
        prop_assert!(by_arrival.is_sorted(), "nobody overtakes on the way in: {:?}", by_arrival);
    }
}
