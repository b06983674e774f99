//! Which expert answered a conversation last: a bounded memory that forgets the conversation least recently asked for.
//!
//! It reads no clock: order is what counts. Next: `super::decide`.

use std::collections::{BTreeMap, HashMap};

use super::SessionId;
use crate::ExpertId;

/// The memory.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    by_id: HashMap<SessionId, Last>,
    by_use: BTreeMap<u64, SessionId>,
    uses: u64,
}

#[derive(Clone, Copy, Debug)]
struct Last {
    expert: ExpertId,
    generation: u64,
    used: u64,
}

impl Sessions {
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Who answered last, by id and generation.
    pub fn get(&self, session: SessionId) -> Option<(ExpertId, u64)> {
        self.by_id.get(&session).map(|last| (last.expert, last.generation))
    }

    /// Notes who answers now, and forgets the oldest of more than `sessions_max`.
    pub fn remember(&mut self, session: SessionId, expert: ExpertId, generation: u64, sessions_max: usize) {
        self.uses += 1;
        let last = Last { expert, generation, used: self.uses };
        if let Some(before) = self.by_id.insert(session, last) {
            self.by_use.remove(&before.used);
        }
        self.by_use.insert(self.uses, session);
        while self.by_id.len() > sessions_max {
            let (_, oldest) = self.by_use.pop_first().expect("every session has a last use");
            self.by_id.remove(&oldest);
        }
    }

    pub fn forget(&mut self, session: SessionId) -> bool {
        let Some(last) = self.by_id.remove(&session) else { return false };
        self.by_use.remove(&last.used).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_is_forgotten() {
        let mut sessions = Sessions::default();
        for session in [1, 2, 3, 1, 4] {
            sessions.remember(SessionId(session), ExpertId(session as u32), session, 3);
        }
        assert_eq!(sessions.get(SessionId(2)), None);
        for session in [1, 3, 4] {
            assert_eq!(sessions.get(SessionId(session)), Some((ExpertId(session as u32), session)));
        }
        assert_eq!((sessions.len(), sessions.by_use.len()), (3, 3));
        assert!(sessions.forget(SessionId(3)) && !sessions.forget(SessionId(3)));
        assert_eq!((sessions.len(), sessions.by_use.len()), (2, 2));
        sessions.remember(SessionId(9), ExpertId(9), 9, 0);
        assert_eq!(sessions.len(), 0);
    }
}
