//! The expert cache, event by event.

use hublabio_moe::CacheEffect::{Evict, Fail, Load, Refuse, RefuseExpert, Start};
use hublabio_moe::*;

fn whole(id: u32, bytes: u64) -> ExpertWeights {
    ExpertWeights { id: ExpertId(id), bytes, reload_ms: 100, base: None, pinned: false }
}

fn part(id: u32) -> Part {
    Part::Expert(ExpertId(id))
}

fn load(part: Part) -> CacheEffect {
    Load { part, prefetch: false }
}

fn start(request: u64) -> CacheEffect {
    Start { request: RequestId(request) }
}

fn fail(request: u64, reason: RequestFailure) -> CacheEffect {
    Fail { request: RequestId(request), reason }
}

fn ask(request: u64, experts: &[u32]) -> CacheEvent {
    let experts = experts.iter().map(|&id| ExpertId(id)).collect();
    CacheEvent::RequestQueued { request: RequestId(request), experts }
}

fn done(request: u64) -> CacheEvent {
    CacheEvent::RequestDone { request: RequestId(request) }
}

fn loaded(part: Part, bytes: u64) -> CacheEvent {
    CacheEvent::Loaded { part, bytes, took_ms: 100 }
}

fn add(weights: ExpertWeights) -> CacheEvent {
    CacheEvent::ExpertAdded(weights)
}

/// Hands the events over, a millisecond apart, and compares what is said to each.
fn check(config: CacheConfig, steps: &[(CacheEvent, &[CacheEffect])]) -> ExpertCache {
    let mut cache = ExpertCache::new(config).unwrap();
    for (now_ms, (event, effects)) in (0..).zip(steps) {
        assert_eq!(cache.handle(event.clone(), now_ms), *effects, "after {event:?}");
        cache.check();
    }
    cache
}

#[test]
fn loads_evicts_and_starts() {
    let cache = check(
        CacheConfig::new(20),
        &[
            (add(whole(1, 10)), &[]),
            (add(whole(2, 10)), &[]),
            (add(whole(3, 10)), &[]),
            (ask(1, &[1]), &[load(part(1))]),
            (loaded(part(1), 10), &[start(1)]),
            (ask(2, &[2]), &[load(part(2))]), // Beside the one that runs.
            (loaded(part(2), 10), &[]),
            (done(1), &[start(2)]),
            (ask(3, &[3]), &[Evict { part: part(1) }, load(part(3))]), // Not the busy one.
            (done(2), &[]),
            (loaded(part(3), 10), &[start(3)]),
        ],
    );
    let residency = |id| cache.residency(ExpertId(id));
    let expected = [Some(Residency::Absent), Some(Residency::Resident), Some(Residency::Busy), None];
    assert_eq!([1, 2, 3, 4].map(residency), expected);
    assert_eq!((cache.bytes_held(), cache.stats().loads, cache.stats().evictions), (20, 3, 1));
}

#[test]
fn a_mixture_waits_for_all_its_members_and_holds_them() {
    check(
        CacheConfig::new(30),
        &[
            (add(whole(1, 10)), &[]),
            (add(whole(2, 10)), &[]),
            (add(whole(3, 15)), &[]),
            (ask(1, &[2, 1, 2]), &[load(part(1))]),
            (loaded(part(1), 10), &[load(part(2))]),
            (loaded(part(2), 10), &[start(1)]),
            (ask(2, &[3]), &[]), // There is room only when the mixture is over.
            (done(1), &[Evict { part: part(1) }, load(part(3))]),
        ],
    );
}

#[test]
fn what_can_never_run_fails_at_once_with_numbers() {
    let pinned = ExpertWeights { pinned: true, ..whole(3, 12) };
    let too_large = |bytes, pinned_bytes| RequestFailure::TooLarge { bytes, pinned_bytes, bytes_max: 20 };
    check(
        CacheConfig { queue_max: 1, ..CacheConfig::new(20) },
        &[
            (add(whole(1, 21)), &[]),
            (add(whole(2, 9)), &[]),
            (ask(1, &[1]), &[fail(1, too_large(21, 0))]),
            (ask(2, &[7]), &[fail(2, RequestFailure::NoSuchExpert(ExpertId(7)))]),
            (add(pinned), &[Load { part: part(3), prefetch: true }]),
            (ask(3, &[2]), &[fail(3, too_large(9, 12))]),
            (ask(4, &[]), &[Refuse { request: RequestId(4), reason: RequestRefusal::NoExperts }]),
            (ask(5, &[3]), &[]),
            (ask(5, &[3]), &[Refuse { request: RequestId(5), reason: RequestRefusal::DuplicateId }]),
            (ask(6, &[3]), &[Refuse { request: RequestId(6), reason: RequestRefusal::QueueFull { queue_max: 1 } }]),
        ],
    );
    let text = too_large(9, 12).to_string();
    assert!(text.contains("9 bytes beside 12") && text.contains("20"), "{text}");
}

#[test]
fn a_failed_load_fails_those_who_wait_for_it_and_nobody_else() {
    let reason = || RequestFailure::LoadFailed { part: part(1), reason: "no such file".into() };
    check(
        CacheConfig::new(20),
        &[
            (add(whole(1, 10)), &[]),
            (add(whole(2, 10)), &[]),
            (ask(1, &[1]), &[load(part(1))]),
            (ask(2, &[2]), &[]),
            (ask(3, &[1, 2]), &[]),
            (
                CacheEvent::LoadFailed { part: part(1), reason: "no such file".into() },
                &[fail(1, reason()), fail(3, reason()), load(part(2))],
            ),
            (loaded(part(2), 10), &[start(2)]),
            (ask(4, &[1]), &[load(part(1))]), // Maybe it is there now.
        ],
    );
}

#[test]
fn removing_an_expert_fails_who_waits_and_lets_run_who_runs() {
    let remove = |id| CacheEvent::ExpertRemoved { expert: ExpertId(id) };
    check(
        CacheConfig::new(20),
        &[
            (add(whole(1, 10)), &[]),
            (ask(1, &[1]), &[load(part(1))]),
            (loaded(part(1), 10), &[start(1)]),
            (ask(2, &[1]), &[]),
            (remove(1), &[fail(2, RequestFailure::Removed(ExpertId(1)))]),
            (ask(3, &[1]), &[fail(3, RequestFailure::NoSuchExpert(ExpertId(1)))]),
            (done(1), &[Evict { part: part(1) }]),
            // The same while it is being loaded.
            (add(whole(2, 10)), &[]),
            (ask(4, &[2]), &[load(part(2))]),
            (remove(2), &[fail(4, RequestFailure::Removed(ExpertId(2)))]),
            (loaded(part(2), 10), &[Evict { part: part(2) }]),
        ],
    );
}

#[test]
fn changed_weights_are_loaded_anew_before_anything_starts_with_them() {
    check(
        CacheConfig::new(20),
        &[
            (add(whole(1, 10)), &[]),
            (ask(1, &[1]), &[load(part(1))]),
            (loaded(part(1), 10), &[start(1)]),
            (ask(2, &[1]), &[]),
            (CacheEvent::ExpertChanged(whole(1, 12)), &[]),
            (done(1), &[Evict { part: part(1) }, load(part(1))]),
            (loaded(part(1), 12), &[start(2)]),
            // Said again, it is the same: nothing is reloaded.
            (done(2), &[]),
            (add(whole(1, 12)), &[]),
            (ask(3, &[1]), &[start(3)]),
        ],
    );
}

#[test]
fn cancelled_requests_are_gone_and_free_their_experts() {
    let cancel = |request| CacheEvent::RequestCancelled { request: RequestId(request) };
    check(
        CacheConfig::new(10),
        &[
            (add(whole(1, 10)), &[]),
            (add(whole(2, 10)), &[]),
            (ask(1, &[1]), &[load(part(1))]),
            (loaded(part(1), 10), &[start(1)]),
            (ask(2, &[1]), &[]),
            (ask(3, &[2]), &[]),
            (cancel(2), &[]),
            (cancel(1), &[Evict { part: part(1) }, load(part(2))]),
            (cancel(3), &[]),
            (loaded(part(2), 10), &[]),  // Nobody waits for it any more.
            (done(1), &[]),              // Too late to mean anything.
            (ask(1, &[2]), &[start(1)]), // The number is free again.
        ],
    );
}

#[test]
fn a_lower_budget_evicts_what_is_idle_now_and_what_is_busy_later() {
    let cache = check(
        CacheConfig::new(30),
        &[
            (add(whole(1, 10)), &[]),
            (add(whole(2, 15)), &[]),
            (ask(1, &[1]), &[load(part(1))]),
            (loaded(part(1), 10), &[start(1)]),
            (done(1), &[]),
            (ask(2, &[2]), &[load(part(2))]),
            (loaded(part(2), 15), &[start(2)]),
            (ask(3, &[2]), &[]),
            (
                CacheEvent::BudgetChanged { bytes_max: 12 },
                &[
                    fail(3, RequestFailure::TooLarge { bytes: 15, pinned_bytes: 0, bytes_max: 12 }),
                    Evict { part: part(1) },
                ],
            ),
            (ask(4, &[1]), &[]),
            (done(2), &[Evict { part: part(2) }, load(part(1))]),
        ],
    );
    assert_eq!((cache.bytes_held(), cache.bytes_max()), (10, 12));
}

#[test]
fn a_load_that_takes_more_than_announced_is_put_right() {
    let failure = RequestFailure::TooLarge { bytes: 25, pinned_bytes: 0, bytes_max: 20 };
    check(
        CacheConfig::new(20),
        &[
            (add(whole(1, 10)), &[]),
            (add(whole(2, 10)), &[]),
            (ask(1, &[1]), &[load(part(1))]),
            (loaded(part(1), 10), &[start(1)]),
            (done(1), &[]),
            (ask(2, &[2]), &[load(part(2))]),
            (loaded(part(2), 15), &[Evict { part: part(1) }, start(2)]),
            (done(2), &[]),
            (ask(3, &[1, 2]), &[fail(3, failure)]), // It is known now.
        ],
    );
}

#[test]
fn pinned_experts_are_loaded_when_there_is_time_and_stay() {
    let pinned = |id, bytes| ExpertWeights { pinned: true, ..whole(id, bytes) };
    let refused = ExpertRefusal::PinTooLarge { bytes: 25, bytes_max: 20 };
    check(
        CacheConfig::new(20),
        &[
            (add(pinned(1, 10)), &[Load { part: part(1), prefetch: true }]),
            (loaded(part(1), 10), &[]),
            (add(whole(2, 10)), &[]),
            (add(whole(3, 10)), &[]),
            (ask(1, &[2]), &[load(part(2))]),
            (loaded(part(2), 10), &[start(1)]),
            (done(1), &[]),
            (ask(2, &[3]), &[Evict { part: part(2) }, load(part(3))]), // The pinned one was never used, and stays.
            (loaded(part(3), 10), &[start(2)]),
            (add(pinned(4, 15)), &[RefuseExpert { expert: ExpertId(4), reason: refused }]),
        ],
    );
}

#[test]
fn adapters_share_one_base() {
    let base = Part::Base(BaseId(0));
    let weights = BaseWeights { id: BaseId(0), bytes: 100, reload_ms: 1000 };
    let adapter = |id| ExpertWeights { base: Some(weights), ..whole(id, 10) };
    let cache = check(
        CacheConfig::new(115),
        &[
            (add(adapter(1)), &[]),
            (add(adapter(2)), &[]),
            (add(whole(3, 50)), &[]),
            (ask(1, &[1]), &[load(base)]),
            (loaded(base, 100), &[load(part(1))]),
            (loaded(part(1), 10), &[start(1)]),
            (done(1), &[]),
            (ask(2, &[2]), &[Evict { part: part(1) }, load(part(2))]),
            (loaded(part(2), 10), &[start(2)]),
            (done(2), &[]),
            // The base goes after what stands on it; the adapter need not go for the room, but cannot stay alone.
            (ask(3, &[3]), &[Evict { part: part(2) }, Evict { part: base }, load(part(3))]),
        ],
    );
    assert_eq!(cache.stats().base_loads, 1);
}

#[test]
fn an_expert_on_another_base_is_another() {
    let on = |id| BaseWeights { id: BaseId(id), bytes: 10, reload_ms: 1000 };
    let adapter = |base| ExpertWeights { base: Some(on(base)), ..whole(1, 1) };
    check(
        CacheConfig::new(100),
        &[
            (add(adapter(0)), &[]),
            (ask(1, &[1]), &[load(Part::Base(BaseId(0)))]),
            (loaded(Part::Base(BaseId(0)), 10), &[load(part(1))]),
            (loaded(part(1), 1), &[start(1)]),
            (done(1), &[]),
            (add(adapter(1)), &[Evict { part: part(1) }, Evict { part: Part::Base(BaseId(0)) }]),
            (ask(2, &[1]), &[load(Part::Base(BaseId(1)))]),
        ],
    );
}

#[test]
fn hints_load_what_is_likely_and_evict_nothing_that_is_worth_more() {
    let hint = |id, probability| CacheEvent::DemandHint { expert: ExpertId(id), probability };
    let ahead = |id| Load { part: part(id), prefetch: true };
    check(
        CacheConfig::new(20),
        &[
            (add(whole(1, 10)), &[]),
            (add(whole(2, 10)), &[]),
            (add(whole(3, 10)), &[]),
            (hint(2, f32::NAN), &[]),
            (hint(2, 0.1), &[ahead(2)]), // There is room, it costs nothing.
            (ask(1, &[1]), &[]),
            (loaded(part(2), 10), &[load(part(1))]),
            (loaded(part(1), 10), &[start(1)]),
            (hint(3, 0.02), &[]),                                 // Expert 2 is likelier still.
            (hint(3, 0.5), &[Evict { part: part(2) }, ahead(3)]), // Beside the one that runs.
            (done(1), &[]),
            (loaded(part(3), 10), &[]),
            (hint(2, 0.3), &[]), // Used last, or likelier: both are worth more.
        ],
    );
    let off = CacheConfig { prefetch: false, ..CacheConfig::new(20) };
    check(off, &[(add(whole(1, 10)), &[]), (hint(1, 1.0), &[])]);
}

#[test]
fn nothing_is_evicted_that_need_not_be() {
    check(
        CacheConfig::new(15),
        &[
            (add(whole(1, 5)), &[]),
            (add(whole(2, 10)), &[]),
            (add(whole(3, 10)), &[]),
            (ask(1, &[1]), &[load(part(1))]),
            (loaded(part(1), 5), &[start(1)]),
            (ask(2, &[2]), &[load(part(2))]),
            (done(1), &[]),
            (loaded(part(2), 10), &[start(2)]),
            (done(2), &[]),
            // Expert 1 would go first, but expert 2 must go in any case, and that is enough.
            (ask(3, &[3]), &[Evict { part: part(2) }, load(part(3))]),
        ],
    );
}

#[test]
fn nothing_is_loaded_ahead_in_front_of_somebody_who_waits_for_room() {
    let hint = CacheEvent::DemandHint { expert: ExpertId(3), probability: 1.0 };
    check(
        CacheConfig::new(20),
        &[
            (add(whole(1, 10)), &[]),
            (add(whole(2, 15)), &[]),
            (add(whole(3, 5)), &[]),
            (ask(1, &[1]), &[load(part(1))]),
            (loaded(part(1), 10), &[start(1)]),
            (ask(2, &[2]), &[]),
            (hint, &[]),
            (done(1), &[Evict { part: part(1) }, load(part(2))]),
        ],
    );
}

#[test]
fn a_place_that_is_kept_is_lent_only_to_who_is_done_in_time() {
    // Nobody may wait, so everybody is late, and who waits longest comes first. A load takes 100 ms, a run 50.
    let config = CacheConfig { wait_ms_max: 0, run_ms_estimate: 50, ..CacheConfig::new(20) };
    let mut cache = ExpertCache::new(config).unwrap();
    for event in [add(whole(1, 10)), add(whole(2, 10)), ask(1, &[1])] {
        cache.handle(event, 0);
    }
    assert_eq!(cache.handle(loaded(part(1), 10), 100), [start(1)]);
    assert_eq!(cache.handle(done(1), 150), []);
    assert_eq!(cache.handle(ask(2, &[2]), 200), [load(part(2))]); // Expected at 300.
    assert_eq!(cache.handle(ask(3, &[1]), 210), [start(3)]);
    assert_eq!(cache.handle(done(3), 260), []);
    assert_eq!(cache.handle(ask(4, &[1]), 290), []);
    assert_eq!(cache.handle(loaded(part(2), 10), 300), [start(2)]);
    assert_eq!(cache.handle(done(2), 350), [start(4)]);
}

#[test]
fn the_swap_begins_early_enough_for_the_maximum() {
    // One expert fits; a load takes 100 ms, a run 50. Expert 1 is always wanted.
    let config = CacheConfig { wait_ms_max: 1000, run_ms_estimate: 50, ..CacheConfig::new(10) };
    let mut cache = ExpertCache::new(config).unwrap();
    for event in [add(whole(1, 10)), add(whole(2, 10)), ask(0, &[1])] {
        cache.handle(event, 0);
    }
    let mut now_ms = 100;
    assert_eq!(cache.handle(loaded(part(1), 10), now_ms), [start(0)]);
    assert_eq!(cache.handle(ask(1000, &[2]), now_ms), []);
    let swap_ms = (1..).find_map(|request| {
        // There is always one more for expert 1 when the last one ends.
        assert_eq!(cache.handle(ask(request, &[1]), now_ms + 40), []);
        now_ms += 50;
        match &cache.handle(done(request - 1), now_ms)[..] {
            [effect] if *effect == start(request) => None,
            [effect, Load { .. }] if *effect == (Evict { part: part(1) }) => Some(now_ms),
            other => panic!("{other:?}"),
        }
    });
    let swap_ms = swap_ms.unwrap();
    // It waits since 100, may wait until 1100, and the load takes 100: not later than that, and not for nothing.
    assert!((850..=1000).contains(&swap_ms), "{swap_ms}");
    assert_eq!(cache.handle(loaded(part(2), 10), swap_ms + 100), [start(1000)]);
}

#[test]
fn a_run_that_takes_longer_than_expected_is_noticed_by_the_clock() {
    // Two fit. One request runs on and on, another waits for an expert that could be loaded beside it, behind one whose
    // expert is in memory.
    let config = CacheConfig { wait_ms_max: 1000, run_ms_estimate: 50, ..CacheConfig::new(20) };
    let mut cache = ExpertCache::new(config).unwrap();
    for event in [add(whole(1, 10)), add(whole(2, 10)), add(whole(3, 10)), ask(1, &[2])] {
        cache.handle(event, 0);
    }
    assert_eq!(cache.handle(loaded(part(2), 10), 100), [start(1)]);
    assert_eq!(cache.handle(done(1), 150), []);
    assert_eq!(cache.handle(ask(2, &[1]), 150), [load(part(1))]);
    assert_eq!(cache.handle(loaded(part(1), 10), 250), [start(2)]);
    assert_eq!(cache.handle(ask(3, &[3]), 260), [Evict { part: part(2) }, load(part(3))]);
    assert_eq!(cache.handle(ask(4, &[1]), 270), []);
    let tick_ms = cache.next_deadline_ms().unwrap();
    assert!((270..=1260).contains(&tick_ms), "{tick_ms}");
    // Nothing can be done about it here, but time does not stand still for the host either.
    assert_eq!(cache.handle(CacheEvent::Tick, tick_ms), []);
    assert!(cache.next_deadline_ms().is_none_or(|next_ms| next_ms > tick_ms));
}

#[test]
fn time_that_goes_back_and_events_out_of_nowhere_change_nothing() {
    let mut cache = ExpertCache::new(CacheConfig::new(20)).unwrap();
    cache.handle(add(whole(1, 10)), 1000);
    for event in [
        loaded(part(1), 10),
        loaded(part(9), u64::MAX),
        CacheEvent::LoadFailed { part: part(1), reason: String::new() },
        done(5),
        CacheEvent::RequestFailed { request: RequestId(5) },
        CacheEvent::ExpertRemoved { expert: ExpertId(9) },
        CacheEvent::DemandHint { expert: ExpertId(9), probability: 1.0 },
        CacheEvent::Tick,
    ] {
        assert_eq!(cache.handle(event, 10), []);
    }
    assert_eq!(cache.bytes_held(), 0);
    assert_eq!(cache.handle(ask(1, &[1]), 10), [load(part(1))]);
    assert_eq!(
        cache.handle(loaded(part(1), u64::MAX), 11),
        [fail(1, RequestFailure::TooLarge { bytes: 1 << 50, pinned_bytes: 0, bytes_max: 20 }), Evict { part: part(1) },]
    );
}

#[test]
fn too_many_experts_and_senseless_settings_are_refused() {
    let reason = ExpertRefusal::TooMany { experts_max: 1 };
    let refused = RefuseExpert { expert: ExpertId(2), reason };
    let config = CacheConfig { experts_max: 1, ..CacheConfig::new(20) };
    check(config, &[(add(whole(1, 10)), &[]), (add(whole(2, 10)), &[refused])]);
    let fine = CacheConfig::new(20);
    for config in [
        CacheConfig { queue_max: 0, ..fine },
        CacheConfig { running_max: 0, ..fine },
        CacheConfig { loads_max: 0, ..fine },
        CacheConfig { experts_max: 0, ..fine },
        CacheConfig { half_life: HalfLife::Requests(0.0), ..fine },
        CacheConfig { half_life: HalfLife::Ms(f64::NAN), ..fine },
    ] {
        let error = ExpertCache::new(config).unwrap_err();
        assert!(matches!(error, Error::OutOfRange { .. }), "{error}");
    }
}
