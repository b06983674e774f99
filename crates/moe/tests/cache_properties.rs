//! Whatever happens to the expert cache: every request ends once, memory stays within its budget, nothing stands still.
//!
//! Most of it is checked by the host of `cache_support`, at each effect, and by `ExpertCache::check`, after each event.

mod cache_support;

use cache_support::{Arrival, End, Host, Numbers, first_come_lru, grouped, whole};
use hublabio_moe::{
    BaseId, BaseWeights, CacheConfig, CacheEvent, ExpertId, ExpertWeights, HalfLife, RequestFailure, RequestId,
};
use proptest::prelude::*;

const EXPERTS: u32 = 7;

/// What may happen from outside.
#[derive(Clone, Debug)]
enum Happening {
    Wait(u64),
    Ask {
        experts: Vec<u32>,
        run_ms: u64,
        breaks: bool,
    },
    /// Gives up one of those that were asked.
    Cancel(usize),
    Add {
        expert: ExpertWeights,
        changed: bool,
    },
    Remove(u32),
    Budget(u64),
    Hint(u32, f32),
}

/// Sizes of bases do not change: another base has another number.
fn weights() -> impl Strategy<Value = ExpertWeights> {
    (0..EXPERTS, 0..25_u64, 0..300_u64, prop::option::weighted(0.5, 0..3_u32), prop::bool::weighted(0.1)).prop_map(
        |(id, bytes, reload_ms, base, pinned)| {
            let base = base.map(|id| BaseWeights { id: BaseId(id), bytes: 10 + u64::from(id) * 10, reload_ms: 500 });
            ExpertWeights { id: ExpertId(id), bytes, reload_ms, base, pinned }
        },
    )
}

fn happening() -> impl Strategy<Value = Happening> {
    let ask = (prop::collection::vec(0..EXPERTS, 1..3), 0..200_u64, prop::bool::weighted(0.1))
        .prop_map(|(experts, run_ms, breaks)| Happening::Ask { experts, run_ms, breaks });
    prop_oneof![
        10 => ask,
        6 => (0..400_u64).prop_map(Happening::Wait),
        2 => (0..100_usize).prop_map(Happening::Cancel),
        2 => (weights(), any::<bool>()).prop_map(|(expert, changed)| Happening::Add { expert, changed }),
        1 => (0..EXPERTS).prop_map(Happening::Remove),
        1 => (0..90_u64).prop_map(Happening::Budget),
        2 => (0..EXPERTS, prop::num::f32::ANY).prop_map(|(expert, p)| Happening::Hint(expert, p)),
    ]
}

fn config() -> impl Strategy<Value = CacheConfig> {
    let limits = (1..12_usize, 1..4_usize, 1..3_usize, 4..9_usize);
    let half_life = prop_oneof![(0.1..20.0).prop_map(HalfLife::Requests), (1.0..5000.0).prop_map(HalfLife::Ms)];
    (20..90_u64, 0..3000_u64, limits, half_life, any::<bool>()).prop_map(
        |(bytes_max, wait_ms_max, (queue_max, running_max, loads_max, experts_max), half_life, prefetch)| CacheConfig {
            wait_ms_max,
            queue_max,
            running_max,
            loads_max,
            experts_max,
            half_life,
            prefetch,
            ..CacheConfig::new(bytes_max)
        },
    )
}

/// Loads that take their time, and fail now and then.
fn moody_loads(seed: u64) -> cache_support::LoadModel {
    let mut numbers = Numbers(seed);
    Box::new(move |part, announced_ms| {
        let took_ms = announced_ms / 2 + numbers.below(announced_ms + 1);
        (took_ms, (numbers.below(12) == 0).then(|| format!("{part} is moody")))
    })
}

fn happen(host: &mut Host, happening: Happening, asked: &mut u64) {
    match happening {
        Happening::Wait(ms) => host.run_until(host.now_ms + ms),
        Happening::Ask { experts, run_ms, breaks } => {
            host.ask_that_breaks(*asked, &experts, run_ms, breaks);
            *asked += 1;
        }
        Happening::Cancel(nth) => host.cancel(nth as u64 % (*asked).max(1)),
        Happening::Add { mut expert, changed: false } => {
            // The same weights are as large as before.
            if let Some(known) = host.experts.get(&expert.id).filter(|known| known.base == expert.base) {
                expert.bytes = known.bytes;
            }
            host.tell(CacheEvent::ExpertAdded(expert));
        }
        Happening::Add { expert, changed: true } => host.tell(CacheEvent::ExpertChanged(expert)),
        Happening::Remove(id) => host.tell(CacheEvent::ExpertRemoved { expert: ExpertId(id) }),
        Happening::Budget(bytes_max) => host.tell(CacheEvent::BudgetChanged { bytes_max }),
        Happening::Hint(id, probability) => {
            host.tell(CacheEvent::DemandHint { expert: ExpertId(id), probability });
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_request_ends_once_within_the_budget(
        config in config(),
        experts in prop::collection::vec(weights(), 1..10),
        happenings in prop::collection::vec(happening(), 1..120),
        seed in any::<u64>(),
    ) {
        let mut host = Host::new(config, &[]).with_loads(moody_loads(seed));
        let mut asked = 0;
        let added = experts.into_iter().map(|expert| Happening::Add { expert, changed: false });
        for what in added.chain(happenings) {
            happen(&mut host, what, &mut asked);
        }
        host.finish();
        prop_assert_eq!(host.ended.len() as u64, asked);
        // Nobody who ran was failed, and whoever was failed did not run.
        for (request, _) in &host.waits_ms {
            let end = &host.ended[request];
            prop_assert!(!matches!(end, End::Failed(_) | End::Refused(_)), "{} started and ended {:?}", request, end);
        }
        // When all is done, nothing is held beyond the budget.
        host.run_until(host.now_ms + 10_000);
        prop_assert!(host.cache.bytes_held() <= host.bytes_max);
        prop_assert_eq!((host.cache.queue_len(), host.cache.running_len()), (0, 0));
    }

    /// Without failures, removals and a budget that is too small, everybody is answered.
    #[test]
    fn nobody_is_lost_while_experts_come_and_go(
        config in config(),
        sizes in prop::collection::vec(1..20_u64, 2..6),
        happenings in prop::collection::vec(happening(), 1..120),
    ) {
        let config = CacheConfig { queue_max: 200, experts_max: 10, bytes_max: config.bytes_max.max(40), ..config };
        let experts: Vec<ExpertWeights> = (0..).zip(&sizes).map(|(id, &bytes)| whole(id, bytes, 50)).collect();
        let known = |id: u32| id % sizes.len() as u32;
        let mut host = Host::new(config, &experts);
        let mut asked = 0;
        for what in happenings {
            let what = match what {
                Happening::Ask { experts, run_ms, .. } => {
                    Happening::Ask { experts: experts.into_iter().map(known).collect(), run_ms, breaks: false }
                }
                Happening::Add { expert, changed } => {
                    let expert = whole(known(expert.id.0), 1 + expert.bytes % 20, expert.reload_ms);
                    Happening::Add { expert, changed }
                }
                Happening::Budget(bytes) => Happening::Budget(bytes.max(40)),
                Happening::Cancel(_) | Happening::Remove(_) => continue,
                other => other,
            };
            happen(&mut host, what, &mut asked);
        }
        host.finish();
        prop_assert!(host.ended.values().all(|end| *end == End::Done), "{:?}", host.ended);
    }

    /// A maximum that serving in order of queueing keeps is kept, when times are as estimated, up to what was done
    /// before a request came and cannot be taken back: a run, and as many loads as there is room for.
    #[test]
    fn the_maximum_is_kept_when_serving_in_order_would_keep_it(
        pauses in prop::collection::vec((0..400_u64, 0..4_u32), 1..80),
        reload_ms in 0..300_u64,
        spare_ms in 0..1000_u64,
    ) {
        let experts: Vec<ExpertWeights> = (0..4).map(|id| whole(id, 10, reload_ms)).collect();
        let mut at_ms = 0;
        let mut arrivals = Vec::new();
        for (pause_ms, expert) in pauses {
            at_ms += pause_ms;
            arrivals.push(Arrival { at_ms, expert, run_ms: 50 });
        }
        let lru = first_come_lru(20, &experts, &arrivals);
        let wait_ms_max = lru.quantile_ms(1.0) + 50 + 2 * reload_ms + spare_ms;
        let config = CacheConfig { wait_ms_max, run_ms_estimate: 50, ..CacheConfig::new(20) };
        let ours = grouped(config, &experts, &arrivals);
        prop_assert!(ours.quantile_ms(1.0) <= wait_ms_max, "{} of {}", ours.quantile_ms(1.0), wait_ms_max);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// However much is asked, whoever is taken has their turn: after no longer than if each of a full queue cost a
    /// load.
    #[test]
    fn nobody_starves(
        pauses in prop::collection::vec((0..120_u64, 0..5_u32), 1..300),
        bytes_max in 10..40_u64,
        reload_ms in 0..300_u64,
        wait_ms_max in 0..3000_u64,
        queue_max in 1..16_usize,
    ) {
        let experts: Vec<ExpertWeights> = (0..5).map(|id| whole(id, 10, reload_ms)).collect();
        let config = CacheConfig { wait_ms_max, queue_max, run_ms_estimate: 50, ..CacheConfig::new(bytes_max) };
        let mut host = Host::new(config, &experts);
        for (request, (pause_ms, expert)) in (0..).zip(pauses) {
            host.run_until(host.now_ms + pause_ms);
            // Expert 0 is asked more than all others.
            host.ask(request, &[expert.saturating_sub(2)], 50);
        }
        host.finish();
        let bound_ms = wait_ms_max.max((queue_max as u64 + 1) * (50 + reload_ms));
        prop_assert!(host.wait_ms_longest() <= bound_ms, "{} of {}", host.wait_ms_longest(), bound_ms);
    }
}

#[test]
fn one_that_can_never_fit_says_how_much_is_missing() {
    let mut host = Host::new(CacheConfig::new(25), &[whole(1, 10, 5), whole(2, 20, 5)]);
    host.ask(0, &[1, 2], 5);
    let reason = RequestFailure::TooLarge { bytes: 30, pinned_bytes: 0, bytes_max: 25 };
    assert_eq!(host.ended[&RequestId(0)], End::Failed(reason));
}
