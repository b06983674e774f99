//! Ctrl-C: the first one asks the work to stop, a second one that comes before it has stopped ends the program.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use signal_hook::consts::SIGINT;

use crate::EXIT_INTERRUPTED;

/// Listens for Ctrl-C from its making to the end of the program.
pub struct Interrupt {
    stop: Arc<AtomicBool>,
    idle: Arc<AtomicBool>,
}

impl Interrupt {
    /// Starts to listen. Before that, Ctrl-C ends the program at once: make it when the input has been read.
    pub fn listen() -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let idle = Arc::new(AtomicBool::new(false));
        let code = i32::from(EXIT_INTERRUPTED);
        // Actions run in this order: the flag is looked at before it is set.
        signal_hook::flag::register_conditional_shutdown(SIGINT, code, Arc::clone(&stop))
            .and_then(|_| signal_hook::flag::register_conditional_shutdown(SIGINT, code, Arc::clone(&idle)))
            .and_then(|_| signal_hook::flag::register(SIGINT, Arc::clone(&stop)))
            .context("cannot listen for Ctrl-C")?;
        Ok(Self { stop, idle })
    }

    /// Whether Ctrl-C was pressed since the last [`Self::clear`].
    pub fn requested(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// The flag itself, for work that looks at it on another thread.
    pub fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.stop)
    }

    /// Forgets it: what it was to stop is over.
    pub fn clear(&self) {
        self.stop.store(false, Ordering::Relaxed);
    }

    /// Forgets it and runs `wait`, during which Ctrl-C ends the program.
    pub fn while_idle<T>(&self, wait: impl FnOnce() -> T) -> T {
        self.idle.store(true, Ordering::Relaxed);
        self.clear();
        let result = wait();
        self.idle.store(false, Ordering::Relaxed);
        result
    }
}
