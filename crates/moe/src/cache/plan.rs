//! The order in which waiting requests are served: several orders are played through by the estimates, and of those
//! with which everyone starts in time, the one with the least reloading is taken.
//!
//! Plays with numbers only; what is done about an order is decided in the module above. Everything is addressed by its
//! index: requests by their place in the queue, parts by their place in [`Situation::parts`].

use super::estimate::{DEVIATIONS, Estimate};

/// Where somebody will be late anyway: by what share of that later the order followed so far may make the latest. It
/// must not be allowed to another: putting somebody off by a little is a little each time.
const LATENESS_SHARE: f64 = 1.0 / 16.0;

/// A moment that is not known exactly.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    ms: f64,
    /// In square milliseconds.
    variance: f64,
}

impl Moment {
    pub(super) fn at(ms: f64) -> Self {
        Self { ms, variance: 0.0 }
    }

    /// When something ends that began at `since_ms`, seen from `now_ms`.
    pub(super) fn end_of(since_ms: u64, takes: Estimate, now_ms: u64) -> Self {
        let end = Self::at(since_ms as f64).after(takes);
        if end.ms < now_ms as f64 { Self::at(now_ms as f64) } else { end }
    }

    fn after(self, takes: Estimate) -> Self {
        Self { ms: self.ms + takes.mean_ms, variance: self.variance + takes.deviation_ms * takes.deviation_ms }
    }

    pub(super) fn or_later(self, other: Self) -> Self {
        let later = if other.ms > self.ms { other } else { self };
        Self { ms: later.ms, variance: self.variance.max(other.variance) }
    }

    /// The latest that it is likely to be.
    fn latest_ms(self) -> f64 {
        self.ms + DEVIATIONS * self.variance.sqrt()
    }
}

/// A part that is in memory or that somebody waits for.
#[derive(Clone, Debug)]
pub(super) struct PartFacts {
    pub(super) bytes: u64,
    pub(super) in_memory: bool,
    /// When it is in memory, if it is or is on its way.
    pub(super) ready: Option<Moment>,
    /// When the last request ends that runs with it.
    pub(super) idle: Moment,
    pub(super) reload: Estimate,
    /// What is lost by evicting it when nobody waits for it.
    pub(super) value: f64,
    /// What it is loaded onto.
    pub(super) base: Option<usize>,
    pub(super) pinned: bool,
}

/// A request that waits.
#[derive(Clone, Debug)]
pub(super) struct RequestFacts {
    /// Until when it should have started.
    pub(super) deadline_ms: f64,
    /// Bases first.
    pub(super) parts: Vec<usize>,
    pub(super) run: Estimate,
    /// Requests of one group need the same experts. Numbered from 0.
    pub(super) group: usize,
    /// Groups of one cluster stand on the same base. Numbered from 0.
    pub(super) cluster: usize,
}

/// What is known when an order is chosen.
#[derive(Debug)]
pub(super) struct Situation {
    pub(super) bytes_max: u64,
    /// Bytes in memory or on their way, of parts in `parts` and others.
    pub(super) bytes_held: u64,
    pub(super) parts: Vec<PartFacts>,
    /// In the order of queueing.
    pub(super) requests: Vec<RequestFacts>,
    /// When each of the places for running requests is free.
    pub(super) slots: Vec<Moment>,
    /// When each of the lanes for loads is free.
    pub(super) lanes: Vec<Moment>,
}

/// How an order goes, by the estimates.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outcome {
    /// The least time between a request's start and its deadline; negative if one is late.
    pub(super) slack_ms: f64,
    /// Time spent on loads.
    pub(super) reload_ms: f64,
}

impl Situation {
    /// The best of the orders that are considered: the one with the least reloading of those with which everyone starts
    /// in time; if there is none, of those with which the latest is least late.
    ///
    /// Considered are: experts in memory first, then base by base; the oldest group first, after all, half, a quarter …
    /// or none of the requests whose experts are in memory; the order `followed` so far, then the others; the order of
    /// queueing. The last two make that nobody waits longer than the longest wait in order of queueing, and that what
    /// could be promised once is not given up for a better order.
    pub(super) fn best_order(&self, followed: &[usize]) -> (Vec<usize>, Outcome) {
        let all: Vec<usize> = (0..self.requests.len()).collect();
        let (warm, cold): (Vec<usize>, Vec<usize>) = all.iter().partition(|&&at| self.is_warm(at));
        let mut orders = vec![[warm.clone(), self.base_by_base(&cold)].concat()];
        let mut first = warm.len();
        loop {
            let mut rest = [&warm[first..], &cold].concat();
            rest.sort_unstable();
            orders.push([warm[..first].to_vec(), self.oldest_group_first(&rest)].concat());
            if first == 0 {
                break;
            }
            first /= 2;
        }
        orders.push(all);
        orders.push(self.continued(followed));
        let outcomes: Vec<Outcome> = orders.iter().map(|order| self.play(order)).collect();
        let late_ms = |at: usize| (-outcomes[at].slack_ms).max(0.0);
        let least_late_ms = (0..orders.len()).map(late_ms).fold(f64::INFINITY, f64::min);
        let followed = orders.len() - 1;
        let acceptable = |&at: &usize| {
            let share = if at == followed { LATENESS_SHARE } else { 0.0 };
            late_ms(at) <= least_late_ms * (1.0 + share)
        };
        let best = (0..orders.len())
            .filter(acceptable)
            .min_by(|&a, &b| outcomes[a].reload_ms.total_cmp(&outcomes[b].reload_ms))
            .expect("the order that is the least late is acceptable");
        (orders.swap_remove(best), outcomes[best])
    }

    /// `followed`, then everyone else, the oldest group first.
    fn continued(&self, followed: &[usize]) -> Vec<usize> {
        let mut is_followed = vec![false; self.requests.len()];
        for &at in followed {
            is_followed[at] = true;
        }
        let rest: Vec<usize> = (0..self.requests.len()).filter(|&at| !is_followed[at]).collect();
        [followed.to_vec(), self.oldest_group_first(&rest)].concat()
    }

    fn is_warm(&self, at: usize) -> bool {
        self.requests[at].parts.iter().all(|&part| self.parts[part].in_memory)
    }

    /// Groups in the order of their oldest request, each as a whole.
    fn oldest_group_first(&self, requests: &[usize]) -> Vec<usize> {
        let groups = first_places(requests, |at| self.requests[at].group);
        let mut order = requests.to_vec();
        order.sort_by_key(|&at| groups[self.requests[at].group]);
        order
    }

    /// Groups of the same base together, those on bases in memory first.
    fn base_by_base(&self, requests: &[usize]) -> Vec<usize> {
        let groups = first_places(requests, |at| self.requests[at].group);
        let clusters = first_places(requests, |at| self.requests[at].cluster);
        let is_absent = |part: usize| self.parts[part].ready.is_none();
        let mut order = requests.to_vec();
        order.sort_by_key(|&at| {
            let request = &self.requests[at];
            let absent = request.parts.iter().any(|&part| is_absent(part));
            let base_absent = is_absent(request.parts[0]);
            (absent, base_absent, clusters[request.cluster], groups[request.group])
        });
        order
    }

    /// Plays an order through: each request in turn has its missing parts loaded, as soon as there is a lane and what
    /// must go for them is idle, and runs as soon as a place is free.
    fn play(&self, order: &[usize]) -> Outcome {
        let mut play = Play::new(self, order);
        let mut outcome = Outcome { slack_ms: f64::INFINITY, reload_ms: 0.0 };
        for (position, &at) in order.iter().enumerate() {
            let request = &self.requests[at];
            let mut ready = Moment::at(0.0);
            for &part in &request.parts {
                if play.ready[part].is_none() {
                    play.load(part, &request.parts, position);
                    outcome.reload_ms += self.parts[part].reload.mean_ms;
                }
                ready = ready.or_later(play.ready[part].unwrap_or(ready));
            }
            let slot = earliest(&mut play.slots);
            let start = ready.or_later(*slot);
            let end = start.after(request.run);
            *slot = end;
            for &part in &request.parts {
                play.idle[part] = play.idle[part].or_later(end);
            }
            outcome.slack_ms = outcome.slack_ms.min(request.deadline_ms - start.latest_ms());
        }
        outcome
    }
}

/// The state of an order that is played through.
struct Play<'a> {
    situation: &'a Situation,
    ready: Vec<Option<Moment>>,
    idle: Vec<Moment>,
    /// Parts in memory that were loaded onto each.
    dependents: Vec<usize>,
    bytes_held: u64,
    slots: Vec<Moment>,
    lanes: Vec<Moment>,
    /// The places in the order at which each part is needed.
    uses: Vec<Vec<usize>>,
}

impl<'a> Play<'a> {
    fn new(situation: &'a Situation, order: &[usize]) -> Self {
        let parts = &situation.parts;
        let mut uses = vec![Vec::new(); parts.len()];
        for (position, &at) in order.iter().enumerate() {
            for &part in &situation.requests[at].parts {
                uses[part].push(position);
            }
        }
        let mut dependents = vec![0; parts.len()];
        for base in parts.iter().filter(|part| part.ready.is_some()).filter_map(|part| part.base) {
            dependents[base] += 1;
        }
        Self {
            situation,
            ready: parts.iter().map(|part| part.ready).collect(),
            idle: parts.iter().map(|part| part.idle).collect(),
            dependents,
            bytes_held: situation.bytes_held,
            slots: situation.slots.clone(),
            lanes: situation.lanes.clone(),
            uses,
        }
    }

    /// Loads a part for the request at `position` in the order, which needs `needed`.
    fn load(&mut self, part: usize, needed: &[usize], position: usize) {
        let facts = &self.situation.parts[part];
        let lane_ms = self.lanes.iter().map(|lane| lane.ms).fold(f64::INFINITY, f64::min);
        let mut begin = Moment::at(0.0);
        while self.bytes_held.saturating_add(facts.bytes) > self.situation.bytes_max {
            let Some(victim) = self.victim(needed, position, lane_ms) else { break };
            let gone = self.ready[victim].take().expect("victims are in memory");
            begin = begin.or_later(gone).or_later(self.idle[victim]);
            self.bytes_held -= self.situation.parts[victim].bytes;
            if let Some(base) = self.situation.parts[victim].base {
                self.dependents[base] -= 1;
            }
        }
        if let Some(base) = facts.base {
            self.dependents[base] += 1;
            begin = begin.or_later(self.ready[base].unwrap_or(begin));
        }
        self.bytes_held += facts.bytes;
        let lane = earliest(&mut self.lanes);
        let end = begin.or_later(*lane).after(facts.reload);
        *lane = end;
        self.ready[part] = Some(end);
    }

    /// What goes first, as [`Parts::victims`](super::parts::Parts::victims) would have it.
    fn victim(&self, needed: &[usize], position: usize, lane_ms: f64) -> Option<usize> {
        let parts = &self.situation.parts;
        let candidates = (0..parts.len()).filter(|&part| {
            self.ready[part].is_some() && self.dependents[part] == 0 && !parts[part].pinned && !needed.contains(&part)
        });
        let cost = |part: usize| {
            let next = self.uses[part].partition_point(|&at| at <= position);
            let next_use = self.uses[part].get(next).copied();
            let value = if next_use.is_some() { parts[part].reload.mean_ms } else { parts[part].value };
            (self.idle[part].ms > lane_ms, value, usize::MAX - next_use.unwrap_or(usize::MAX))
        };
        candidates
            .map(|part| (cost(part), part))
            .min_by(|(a, _), (b, _)| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)).then(a.2.cmp(&b.2)))
            .map(|(_, part)| part)
    }
}

fn earliest(moments: &mut [Moment]) -> &mut Moment {
    moments.iter_mut().min_by(|a, b| a.ms.total_cmp(&b.ms)).expect("there is at least one slot and one lane")
}

/// For each kind, the place of the first request that is of it; `usize::MAX` where there is none.
fn first_places(requests: &[usize], kind: impl Fn(usize) -> usize) -> Vec<usize> {
    let kinds = requests.iter().map(|&at| kind(at) + 1).max().unwrap_or(0);
    let mut places = vec![usize::MAX; kinds];
    for (place, &at) in requests.iter().enumerate() {
        let first = &mut places[kind(at)];
        *first = (*first).min(place);
    }
    places
}

#[cfg(test)]
mod tests {
    use super::super::estimate::Estimate;
    use super::{Moment, PartFacts, RequestFacts, Situation};

    /// Two experts of which one fits, the first is in memory. A load takes 1 ms, a run 50. Requests are given as (expert,
    /// deadline).
    fn situation(requests: &[(usize, f64)]) -> Situation {
        let part = |in_memory: bool| PartFacts {
            bytes: 10,
            in_memory,
            ready: in_memory.then_some(Moment::at(0.0)),
            idle: Moment::at(0.0),
            reload: Estimate::guess(1),
            value: 0.0,
            base: None,
            pinned: false,
        };
        let request = |&(expert, deadline_ms): &(usize, f64)| RequestFacts {
            deadline_ms,
            parts: vec![expert],
            run: Estimate::guess(50),
            group: expert,
            cluster: expert,
        };
        Situation {
            bytes_max: 10,
            bytes_held: 10,
            parts: vec![part(true), part(false)],
            requests: requests.iter().map(request).collect(),
            slots: vec![Moment::at(0.0)],
            lanes: vec![Moment::at(0.0)],
        }
    }

    fn check(requests: &[(usize, f64)], followed: &[usize], expected: &[usize], in_time: bool) {
        let (order, outcome) = situation(requests).best_order(followed);
        assert_eq!((&order[..], outcome.slack_ms >= 0.0), (expected, in_time), "{outcome:?}");
    }

    #[test]
    fn chooses_the_order_that_keeps_the_maximum_with_the_fewest_loads() {
        // There is time: what is in memory first, then the other, and no load more.
        check(&[(1, 900.0), (0, 900.0), (1, 900.0), (0, 900.0)], &[], &[1, 3, 0, 2], true);
        // There is time for one before the first must have its turn, not for two.
        check(&[(1, 80.0), (0, 900.0), (1, 900.0), (0, 900.0)], &[], &[1, 0, 2, 3], true);
        // Only the order of queueing is in time.
        check(&[(1, 30.0), (0, 80.0), (1, 900.0)], &[], &[0, 1, 2], true);
        // Only the order followed so far is.
        check(&[(1, 900.0), (1, 30.0), (0, 80.0)], &[1, 2, 0], &[1, 2, 0], true);
        // None is: the latest is the first one, and it has its turn at once.
        check(&[(1, -500.0), (0, 900.0), (0, 900.0)], &[], &[0, 1, 2], false);
    }
}
