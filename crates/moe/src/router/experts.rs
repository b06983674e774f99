//! The experts of a router: slots that are used again, found by id, in the order of their registration.
//!
//! Every registration gets a generation, a number that never comes again, so that an expert that was removed and one of
//! the same id that came later are told apart. What the ranking of a question reads of every expert lies in arrays by
//! slot.
//!
//! It knows nothing of questions. Next: `super::Router`.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::calibration::StageSet;
use super::classifier::Learned;
use super::features::KINDS;
use crate::{ExpertConfig, ExpertId, ExpertProfile};

/// One expert, and what the stages keep of it.
#[derive(Debug)]
pub(super) struct Expert {
    pub config: ExpertConfig,
    pub profile: ExpertProfile,
    pub generation: u64,
    /// Hashes of its keywords in the index.
    pub keywords: Vec<u64>,
    /// Why something of it is not indexed.
    pub refused: Vec<String>,
    pub learned: Learned,
    /// A vector of length 1.
    pub centroid: Option<Vec<f32>>,
    /// Its place in the order.
    seat: u64,
}

/// What the ranking reads of an expert.
#[derive(Clone, Copy, Debug)]
pub(super) struct Standing {
    pub id: ExpertId,
    /// Not a number counts as never.
    pub threshold: f32,
    pub priority: i32,
    /// Stages that have something on this expert.
    pub stages: StageSet,
    pub generalist: bool,
    /// What the classifier counted of it, by kind.
    pub units: [f32; KINDS],
}

/// A place in the ranking of experts that a question does not touch: those with the same stages lie together, and of
/// these the higher priority first, then the lower id.
type Rank = (StageSet, Reverse<i32>, ExpertId);

/// All experts.
#[derive(Debug, Default)]
pub(super) struct Experts {
    slots: Vec<Option<Expert>>,
    standings: Vec<Standing>,
    free: Vec<u32>,
    by_id: HashMap<ExpertId, u32>,
    by_seat: BTreeMap<u64, u32>,
    /// Slots by [`Rank`]. Every question reads all of it, so it lies in one piece.
    ranks: Vec<u32>,
    /// Seats and slots of those that call themselves generalists; the first is.
    generalists: BTreeSet<(u64, u32)>,
    centroids: usize,
    learned: usize,
    generations: u64,
}

impl Experts {
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Slots, used and free: the length of arrays by slot.
    pub fn slots(&self) -> usize {
        self.slots.len()
    }

    pub fn slot(&self, id: ExpertId) -> Option<u32> {
        self.by_id.get(&id).copied()
    }

    pub fn get(&self, slot: u32) -> &Expert {
        self.slots[slot as usize].as_ref().expect("slots in tables are taken")
    }

    pub fn get_mut(&mut self, slot: u32) -> &mut Expert {
        self.slots[slot as usize].as_mut().expect("slots in tables are taken")
    }

    pub fn standing(&self, slot: u32) -> &Standing {
        &self.standings[slot as usize]
    }

    /// In the order of registration.
    pub fn iter(&self) -> impl Iterator<Item = &Expert> {
        self.by_seat.values().map(|slot| self.get(*slot))
    }

    /// Slots by stages, priority and id.
    pub fn ranks(&self) -> impl Iterator<Item = u32> {
        self.ranks.iter().copied()
    }

    /// The slot of the generalist.
    pub fn generalist(&self) -> Option<u32> {
        self.generalists.first().map(|(_, slot)| *slot)
    }

    /// Experts that learned something.
    pub fn learned(&self) -> usize {
        self.learned
    }

    /// Experts that have a centroid.
    pub fn centroids(&self) -> usize {
        self.centroids
    }

    /// Takes a seat for an expert: the one of `seat`, which is free, or the last. Returns its slot.
    pub fn insert(&mut self, config: ExpertConfig, profile: ExpertProfile, seat: Option<u64>) -> u32 {
        self.generations += 1;
        let seat = seat.unwrap_or(self.generations);
        let standing = Standing {
            id: config.id,
            threshold: if config.domain.threshold.is_nan() { f32::INFINITY } else { config.domain.threshold },
            priority: config.priority,
            stages: StageSet::default(),
            generalist: false,
            units: [0.0; KINDS],
        };
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.standings.push(standing);
            (self.slots.len() - 1) as u32
        });
        self.standings[slot as usize] = standing;
        self.by_id.insert(config.id, slot);
        self.by_seat.insert(seat, slot);
        self.enter_rank(slot);
        if profile.generalist {
            self.generalists.insert((seat, slot));
        }
        self.slots[slot as usize] = Some(Expert {
            config,
            profile,
            generation: self.generations,
            keywords: Vec::new(),
            refused: Vec::new(),
            learned: Learned::default(),
            centroid: None,
            seat,
        });
        self.appoint_generalist(slot);
        slot
    }

    /// Frees an expert's slot. Returns the expert and its seat.
    pub fn remove(&mut self, slot: u32) -> (Expert, u64) {
        self.leave_rank(slot);
        let expert = self.slots[slot as usize].take().expect("slots in tables are taken");
        self.by_id.remove(&expert.config.id);
        self.by_seat.remove(&expert.seat);
        self.generalists.remove(&(expert.seat, slot));
        self.centroids -= usize::from(expert.centroid.is_some());
        self.learned -= usize::from(self.standings[slot as usize].stages.contains(StageSet::CLASSIFIER));
        self.free.push(slot);
        self.appoint_generalist(slot);
        let seat = expert.seat;
        (expert, seat)
    }

    /// The generalist may be another one after `changed` came or went.
    fn appoint_generalist(&mut self, changed: u32) {
        let mut seats = self.generalists.iter().map(|(_, slot)| *slot);
        let (first, second) = (seats.next(), seats.next());
        self.standings[changed as usize].generalist = false;
        for (slot, is) in [(second, false), (first, true)] {
            if let Some(slot) = slot {
                self.standings[slot as usize].generalist = is;
            }
        }
    }

    /// Notes anew what stages have on an expert.
    pub fn update_stages(&mut self, slot: u32) {
        let expert = self.get(slot);
        let mut stages = StageSet::default();
        for (has, stage) in [
            (!expert.keywords.is_empty(), StageSet::KEYWORDS),
            (!expert.learned.is_empty(), StageSet::CLASSIFIER),
            (expert.centroid.is_some(), StageSet::EMBEDDING),
        ] {
            if has {
                stages = stages.with(stage);
            }
        }
        self.standings[slot as usize].units = expert.learned.units();
        self.leave_rank(slot);
        let before = std::mem::replace(&mut self.standings[slot as usize].stages, stages);
        self.learned += usize::from(stages.contains(StageSet::CLASSIFIER));
        self.learned -= usize::from(before.contains(StageSet::CLASSIFIER));
        self.enter_rank(slot);
    }

    pub fn set_centroid(&mut self, slot: u32, centroid: Vec<f32>) {
        if self.get_mut(slot).centroid.replace(centroid).is_none() {
            self.centroids += 1;
        }
        self.update_stages(slot);
    }

    fn rank(&self, slot: u32) -> Rank {
        let standing = self.standing(slot);
        (standing.stages, Reverse(standing.priority), standing.id)
    }

    fn enter_rank(&mut self, slot: u32) {
        let rank = self.rank(slot);
        let at = self.ranks.partition_point(|other| self.rank(*other) < rank);
        self.ranks.insert(at, slot);
    }

    fn leave_rank(&mut self, slot: u32) {
        let rank = self.rank(slot);
        let at = self.ranks.partition_point(|other| self.rank(*other) < rank);
        debug_assert_eq!(self.ranks[at], slot, "ids are unique");
        self.ranks.remove(at);
    }
}
