//! Answers that are kept for later questions: in memory, within limits, the oldest out first.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use hublabio_runtime::ai::Json;

/// Whose an answer is: the name of a client with a key, or nobody's in particular.
pub type Owner = Option<Arc<str>>;

/// A question and its answer, with those before them.
#[derive(Debug)]
pub struct Turn {
    input: Vec<Json>,
    output: Vec<Json>,
    previous: Option<Arc<Turn>>,
    /// Of this turn and all before it.
    bytes: usize,
    turns: usize,
}

impl Turn {
    /// Turns of a conversation; one that is longer would not fit any prompt.
    pub const TURNS_MAX: usize = 1024;

    /// A turn after those before it.
    pub fn new(input: Vec<Json>, output: Vec<Json>, previous: Option<Arc<Self>>) -> Self {
        let own: usize = input.iter().chain(&output).map(bytes_of).sum();
        let (before, turns) = previous.as_ref().map_or((0, 0), |previous| (previous.bytes, previous.turns));
        Self { input, output, previous, bytes: own + before, turns: turns + 1 }
    }

    /// How many turns there are with this one.
    pub fn turns(&self) -> usize {
        self.turns
    }

    /// What was asked in this turn.
    pub fn input(&self) -> impl Iterator<Item = &Json> {
        self.input.iter()
    }

    /// Everything before this turn, in its order.
    pub fn items_before(&self) -> impl Iterator<Item = &Json> {
        let mut turns = Vec::new();
        let mut at = self.previous.as_deref();
        while let Some(turn) = at {
            turns.push(turn);
            at = turn.previous.as_deref();
        }
        turns.into_iter().rev().flat_map(|turn| turn.input.iter().chain(&turn.output))
    }

    /// Everything up to the end of this turn.
    pub fn items(&self) -> impl Iterator<Item = &Json> {
        self.items_before().chain(&self.input).chain(&self.output)
    }
}

/// Bytes that a value takes, about: its text, and what a tree costs.
fn bytes_of(value: &Json) -> usize {
    const NODE: usize = 32;
    match value {
        Json::Null | Json::Bool(_) | Json::Number(_) => NODE,
        Json::String(text) => NODE + text.len(),
        Json::Array(items) => NODE + items.iter().map(bytes_of).sum::<usize>(),
        Json::Object(members) => members.iter().map(|(name, value)| 2 * NODE + name.len() + bytes_of(value)).sum(),
    }
}

/// A kept answer.
#[derive(Clone, Debug)]
pub struct Stored {
    /// As it was given.
    pub response: Json,
    /// With what was asked.
    pub turn: Arc<Turn>,
}

impl Stored {
    fn bytes(&self) -> usize {
        bytes_of(&self.response) + self.turn.bytes
    }

    fn id(&self) -> &str {
        self.response["id"].as_str().unwrap_or_default()
    }
}

/// The answers that are kept.
#[derive(Debug)]
pub struct ResponseStore {
    count_max: usize,
    bytes_max: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    kept: HashMap<String, (Owner, Stored)>,
    /// The oldest first.
    order: VecDeque<String>,
    bytes: usize,
}

impl ResponseStore {
    /// A store that keeps so many answers, and so many bytes.
    pub fn new(count_max: usize, bytes_max: usize) -> Self {
        Self { count_max, bytes_max, state: Mutex::default() }
    }

    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        work(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Keeps an answer; the oldest go where there is no room. One that is larger than all room is not kept.
    pub fn put(&self, owner: Owner, stored: Stored) {
        let bytes = stored.bytes();
        if bytes > self.bytes_max || self.count_max == 0 {
            return;
        }
        self.with(|state| {
            while state.kept.len() >= self.count_max || state.bytes + bytes > self.bytes_max {
                let Some(oldest) = state.order.pop_front() else { break };
                state.forget(&oldest);
            }
            let id = stored.id().to_owned();
            state.bytes += bytes;
            state.order.push_back(id.clone());
            state.kept.insert(id, (owner, stored));
        });
    }

    /// An answer, for the client whose it is.
    pub fn get(&self, owner: &Owner, id: &str) -> Option<Stored> {
        self.with(|state| state.kept.get(id).filter(|(of, _)| of == owner).map(|(_, stored)| stored.clone()))
    }

    /// Forgets an answer. Whether there was one.
    pub fn remove(&self, owner: &Owner, id: &str) -> bool {
        self.with(|state| {
            let is_theirs = state.kept.get(id).is_some_and(|(of, _)| of == owner);
            if is_theirs {
                state.forget(id);
                state.order.retain(|kept| kept != id);
            }
            is_theirs
        })
    }
}

impl State {
    fn forget(&mut self, id: &str) {
        if let Some((_, stored)) = self.kept.remove(id) {
            self.bytes -= stored.bytes();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn stored(id: &str, text: &str, previous: Option<&Stored>) -> Stored {
        let previous = previous.map(|stored| Arc::clone(&stored.turn));
        let turn = Turn::new(vec![json!({ "q": text })], vec![json!({ "a": text })], previous);
        Stored { response: json!({ "id": id }), turn: Arc::new(turn) }
    }

    #[test]
    fn the_oldest_goes_first() {
        let store = ResponseStore::new(2, 1 << 20);
        for id in ["a", "b", "c"] {
            store.put(None, stored(id, "x", None));
        }
        assert!(store.get(&None, "a").is_none());
        assert!(store.get(&None, "b").is_some() && store.get(&None, "c").is_some());
        assert!(store.remove(&None, "b") && !store.remove(&None, "b"));
        store.put(None, stored("d", "x", None));
        assert!(store.get(&None, "c").is_some());
        store.with(|state| assert_eq!((state.kept.len(), state.order.len()), (2, 2)));
    }

    #[test]
    fn bytes_are_bounded_and_counted_back() {
        let one = stored("a", &"x".repeat(1000), None).bytes();
        let store = ResponseStore::new(100, 3 * one);
        for id in ["a", "b", "c", "d", "e"] {
            store.put(None, stored(id, &"x".repeat(1000), None));
        }
        store.with(|state| assert_eq!((state.kept.len(), state.bytes), (3, 3 * one)));
        store.put(None, stored("large", &"x".repeat(10 * one), None));
        assert!(store.get(&None, "large").is_none() && store.get(&None, "e").is_some());
        for id in ["c", "d", "e"] {
            assert!(store.remove(&None, id));
        }
        store.with(|state| assert_eq!(state.bytes, 0));
    }

    #[test]
    fn a_conversation_outlives_its_beginning_and_is_its_owners() {
        let store = ResponseStore::new(1, 1 << 20);
        let owner: Owner = Some("ada".into());
        let first = stored("a", "1", None);
        let second = stored("b", "2", Some(&first));
        store.put(owner.clone(), first);
        store.put(owner.clone(), second);
        assert!(store.get(&None, "b").is_none() && !store.remove(&Some("bob".into()), "b"));
        let found = store.get(&owner, "b").unwrap();
        let items: Vec<&Json> = found.turn.items().collect();
        assert_eq!(items, [&json!({ "q": "1" }), &json!({ "a": "1" }), &json!({ "q": "2" }), &json!({ "a": "2" })]);
        assert_eq!(found.turn.turns(), 2);
    }
}
