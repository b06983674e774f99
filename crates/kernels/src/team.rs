//! The thread team: workers that stay hot for a whole forward pass and sleep when there is none.
//!
//! One call of [`ThreadTeam::run`] is a *job*: a number of chunks and a function of the chunk index.
//! The caller works too. Chunks are handed out by an atomic cursor, so a thread that the operating
//! system takes off its core costs at most the chunk it holds. A worker *enters* a job before it
//! touches it, and the caller waits only for workers that entered: one that never woke up in time
//! is simply not part of the job. That is what keeps a busy machine from stalling every step, as
//! a barrier that counts all threads would.
//!
//! Which thread computes which chunk is left open, so a kernel must give the same bits for a chunk
//! whoever computes it. All kernels of this crate do.

use std::cell::UnsafeCell;
use std::hint::spin_loop;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

/// How long an idle worker spins before it parks. Longer than the gap between two tokens of a
/// generation (sampling, printing), shorter than anything a person would notice as load.
const SPIN_BEFORE_PARK: Duration = Duration::from_micros(300);
/// Spins between two looks at the clock.
const SPINS_PER_CLOCK_READ: u32 = 128;
/// Waiting longer than this many spins means somebody else needs the core: yield it.
const SPINS_BEFORE_YIELD: u32 = 1 << 12;
/// More threads than this are never started.
pub const THREADS_MAX: usize = 1024;

const OPEN: u64 = 1 << 31;
const ACTIVE_MASK: u64 = OPEN - 1;
const EPOCH_SHIFT: u32 = 32;

type JobFn = dyn Fn(usize) + Sync;

/// The job that is being worked on. Written by the caller while the gate is closed and no worker is
/// inside, read by workers only after they entered through the gate.
struct Job {
    function: *const JobFn,
    chunks: usize,
}

/// On its own cache line, away from the cursor that every thread hammers.
#[repr(align(128))]
struct Padded<T>(T);

struct Shared {
    /// `epoch << 32 | OPEN | number of workers inside`.
    gate: Padded<AtomicU64>,
    cursor: Padded<AtomicUsize>,
    job: Padded<UnsafeCell<Job>>,
    parked: AtomicUsize,
    stop: AtomicBool,
    panicked: AtomicBool,
}

// SAFETY: `job` is the only field that is not Sync by itself. The caller writes it only while the
// gate is closed with nobody inside; a worker reads it only between entering (a compare-exchange
// that succeeds only on an open gate) and leaving. The function it points to is Sync.
unsafe impl Sync for Shared {}
// SAFETY: as above; the raw pointer is never dereferenced outside an open job.
unsafe impl Send for Shared {}

/// A team of threads for kernels; the thread that calls [`run`](Self::run) is its first member.
///
/// Dropping the team ends its threads.
pub struct ThreadTeam {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    threads: Vec<Thread>,
    /// One job at a time: held by the caller for the length of a job.
    caller: Mutex<()>,
    turns: Mutex<Turns>,
    turned: Condvar,
}

/// Tickets: the next to be given out, and the one whose turn it is.
#[derive(Default)]
struct Turns {
    next: u64,
    serving: u64,
}

/// The right to compute until it is dropped; see [`ThreadTeam::turn`].
pub struct Turn<'a> {
    team: &'a ThreadTeam,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.team.turns.lock().unwrap_or_else(PoisonError::into_inner).serving += 1;
        self.team.turned.notify_all();
    }
}

impl ThreadTeam {
    /// A team of `n_threads` in all, the caller included: at least 1, at most [`THREADS_MAX`], and fewer where the operating
    /// system refuses to start more. [`n_threads`](Self::n_threads) tells; results do not depend on it.
    #[must_use]
    pub fn new(n_threads: usize) -> Self {
        let shared = Arc::new(Shared {
            gate: Padded(AtomicU64::new(0)),
            cursor: Padded(AtomicUsize::new(0)),
            job: Padded(UnsafeCell::new(Job { function: std::ptr::from_ref::<JobFn>(&|_| ()), chunks: 0 })),
            parked: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            panicked: AtomicBool::new(false),
        });
        let start = |i| {
            let shared = Arc::clone(&shared);
            thread::Builder::new().name(format!("hublab-kernel-{i}")).spawn(move || worker(&shared)).ok()
        };
        let workers: Vec<_> = (1..n_threads.clamp(1, THREADS_MAX)).map_while(start).collect();
        let threads = workers.iter().map(|w| w.thread().clone()).collect();
        Self { shared, workers, threads, caller: Mutex::new(()), turns: Mutex::default(), turned: Condvar::new() }
    }

    /// A team with one thread per core that this process may use.
    #[must_use]
    pub fn with_all_cores() -> Self {
        Self::new(thread::available_parallelism().map_or(1, std::num::NonZero::get))
    }

    /// Threads in the team, the caller included.
    #[must_use]
    pub fn n_threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Waits for the caller's turn among those who share this team: first come, first served. Whoever computes a whole pass takes a
    /// turn for it, so that several alternate by passes and not by jobs, and none is kept out by another that never rests.
    /// [`run`](Self::run) does not ask for it.
    #[must_use]
    pub fn turn(&self) -> Turn<'_> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        let ticket = turns.next;
        turns.next += 1;
        while turns.serving != ticket {
            turns = self.turned.wait(turns).unwrap_or_else(PoisonError::into_inner);
        }
        Turn { team: self }
    }

    /// Calls `f(i)` once for every `i` in `0..chunks`, spread over the team, and returns when all
    /// are done. Must not be called from inside a job of the same team.
    ///
    /// # Panics
    /// When `f` panicked on any thread.
    pub fn run(&self, chunks: usize, f: impl Fn(usize) + Sync) {
        if chunks <= 1 || self.workers.is_empty() {
            (0..chunks).for_each(f);
            return;
        }
        let _one_job = self.caller.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = &*self.shared;
        let function: *const (dyn Fn(usize) + Sync + '_) = &raw const f;
        // Only the lifetime changes. The pointer is used only by workers inside this job, and this function does not
        // return, nor unwind, before the gate is closed and empty.
        #[allow(clippy::transmute_ptr_to_ptr, reason = "a cast cannot change the lifetime of a trait object")]
        // SAFETY: as above.
        let function: *const JobFn = unsafe { std::mem::transmute(function) };
        // SAFETY: the gate is closed and empty (the previous job ended so, and `caller` is held).
        unsafe { *shared.job.0.get() = Job { function, chunks } };
        shared.cursor.0.store(0, Ordering::Relaxed);
        // A job that panicked here and on a worker left its mark behind.
        shared.panicked.store(false, Ordering::Relaxed);

        let epoch = (shared.gate.0.load(Ordering::Relaxed) >> EPOCH_SHIFT).wrapping_add(1);
        // SeqCst orders this store before the look at `parked`: either we see the sleeper, or it
        // sees the open gate before it sleeps.
        shared.gate.0.store(epoch << EPOCH_SHIFT | OPEN, Ordering::SeqCst);
        if shared.parked.load(Ordering::SeqCst) > 0 {
            self.threads.iter().take(chunks - 1).for_each(Thread::unpark);
        }

        // Closes the gate and waits for the workers inside, also when `f` panics here.
        let guard = CloseGate(shared);
        work(shared, chunks, &f);
        drop(guard);
        assert!(!shared.panicked.swap(false, Ordering::AcqRel), "a kernel panicked on a worker thread");
    }

    /// Runs `f` on disjoint pieces of `data`, each `piece` long (the last may be shorter).
    pub fn run_chunks_mut<T: Send>(&self, data: &mut [T], piece: usize, f: impl Fn(usize, &mut [T]) + Sync) {
        assert!(piece > 0, "a piece holds at least one element");
        let len = data.len();
        let base = SharedMut::new(data);
        self.run(len.div_ceil(piece), |i| {
            let start = i * piece;
            // SAFETY: pieces of different `i` are disjoint, and `run` hands out each `i` once.
            f(i, unsafe { base.slice(start, piece.min(len - start)) });
        });
    }
}

impl Drop for ThreadTeam {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.threads.iter().for_each(Thread::unpark);
        for worker in self.workers.drain(..) {
            // A worker never unwinds (jobs are caught), so there is nothing to report.
            let _ = worker.join();
        }
    }
}

struct CloseGate<'a>(&'a Shared);

impl Drop for CloseGate<'_> {
    fn drop(&mut self) {
        let gate = &self.0.gate.0;
        gate.fetch_and(!OPEN, Ordering::AcqRel);
        let mut spins = 0u32;
        while gate.load(Ordering::Acquire) & ACTIVE_MASK != 0 {
            pause(&mut spins);
        }
    }
}

fn pause(spins: &mut u32) {
    *spins = spins.wrapping_add(1);
    if (*spins).is_multiple_of(SPINS_BEFORE_YIELD) {
        thread::yield_now();
    } else {
        spin_loop();
    }
}

fn work(shared: &Shared, chunks: usize, f: &(impl Fn(usize) + ?Sized)) {
    loop {
        let i = shared.cursor.0.fetch_add(1, Ordering::Relaxed);
        if i >= chunks {
            break;
        }
        f(i);
    }
}

fn worker(shared: &Shared) {
    let mut last_epoch = 0;
    loop {
        let Some(gate) = wait_for_job(shared, last_epoch) else { return };
        if shared.gate.0.compare_exchange(gate, gate + 1, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            continue;
        }
        last_epoch = gate >> EPOCH_SHIFT;
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            // SAFETY: we are inside the job: the caller wrote it before it opened the gate, and
            // keeps it alive until we leave.
            let job = unsafe { &*shared.job.0.get() };
            // SAFETY: as above.
            work(shared, job.chunks, unsafe { &*job.function });
        }));
        if outcome.is_err() {
            shared.panicked.store(true, Ordering::Release);
        }
        shared.gate.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Spins, then parks, until a job of another epoch is open. `None` when the team ends.
fn wait_for_job(shared: &Shared, last_epoch: u64) -> Option<u64> {
    let ready = || {
        let gate = shared.gate.0.load(Ordering::SeqCst);
        (gate & OPEN != 0 && gate >> EPOCH_SHIFT != last_epoch).then_some(gate)
    };
    let mut spinning_since = Instant::now();
    let mut spins = 0u32;
    loop {
        if let Some(gate) = ready() {
            return Some(gate);
        }
        pause(&mut spins);
        if !spins.is_multiple_of(SPINS_PER_CLOCK_READ) {
            continue;
        }
        if shared.stop.load(Ordering::SeqCst) {
            return None;
        }
        if spinning_since.elapsed() < SPIN_BEFORE_PARK {
            continue;
        }
        shared.parked.fetch_add(1, Ordering::SeqCst);
        if ready().is_none() && !shared.stop.load(Ordering::SeqCst) {
            thread::park();
        }
        shared.parked.fetch_sub(1, Ordering::SeqCst);
        spinning_since = Instant::now();
    }
}

/// A mutable slice that several threads write at places that do not overlap.
pub(crate) struct SharedMut<'a, T> {
    start: *mut T,
    len: usize,
    _borrow: std::marker::PhantomData<&'a mut [T]>,
}

// SAFETY: access goes through `slice`, whose caller promises disjoint ranges.
unsafe impl<T: Send> Sync for SharedMut<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Send for SharedMut<'_, T> {}

impl<'a, T> SharedMut<'a, T> {
    pub(crate) fn new(data: &'a mut [T]) -> Self {
        Self { start: data.as_mut_ptr(), len: data.len(), _borrow: std::marker::PhantomData }
    }

    /// # Safety
    /// No two slices that live at the same time may overlap.
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn slice(&self, start: usize, len: usize) -> &mut [T] {
        assert!(start <= self.len && len <= self.len - start, "a chunk stays inside its buffer");
        // SAFETY: in range by the assert; disjoint from every other live slice by the caller.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;

    #[test]
    fn every_chunk_runs_exactly_once() {
        for n_threads in [1, 2, 3, 8] {
            let team = ThreadTeam::new(n_threads);
            for chunks in [0usize, 1, 2, 7, 100, 1000] {
                let seen: Vec<AtomicU32> = (0..chunks).map(|_| AtomicU32::new(0)).collect();
                team.run(chunks, |i| {
                    seen[i].fetch_add(1, Ordering::Relaxed);
                });
                assert!(seen.iter().all(|s| s.load(Ordering::Relaxed) == 1), "{n_threads} threads, {chunks} chunks");
            }
        }
    }

    #[test]
    fn wakes_up_after_parking() {
        let team = ThreadTeam::new(3);
        for _ in 0..20 {
            thread::sleep(Duration::from_millis(2));
            let sum = AtomicUsize::new(0);
            team.run(64, |i| {
                sum.fetch_add(i, Ordering::Relaxed);
            });
            assert_eq!(sum.into_inner(), 64 * 63 / 2);
        }
    }

    #[test]
    fn several_callers_take_turns() {
        let team = ThreadTeam::new(4);
        let total = AtomicUsize::new(0);
        thread::scope(|s| {
            for _ in 0..4 {
                s.spawn(|| {
                    for _ in 0..500 {
                        team.run(5, |_| {
                            total.fetch_add(1, Ordering::Relaxed);
                        });
                    }
                });
            }
        });
        assert_eq!(total.into_inner(), 4 * 500 * 5);
    }

    #[test]
    fn nobody_is_kept_out_of_turn() {
        let team = ThreadTeam::new(2);
        let (greedy, patient) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let stop = AtomicBool::new(false);
        thread::scope(|s| {
            s.spawn(|| {
                // Takes the next turn as soon as it has given one back.
                while !stop.load(Ordering::Relaxed) {
                    let _turn = team.turn();
                    greedy.fetch_add(1, Ordering::Relaxed);
                    thread::sleep(Duration::from_micros(200));
                }
            });
            while greedy.load(Ordering::Relaxed) == 0 {
                thread::yield_now();
            }
            for _ in 0..50 {
                let before = greedy.load(Ordering::Relaxed);
                let _turn = team.turn();
                patient.fetch_add(1, Ordering::Relaxed);
                // The turn that was running, and the one whose ticket was drawn before ours.
                let waited = greedy.load(Ordering::Relaxed) - before;
                assert!(waited <= 2, "{waited} turns went by");
            }
            stop.store(true, Ordering::Relaxed);
        });
        assert_eq!(patient.into_inner(), 50);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_team_survives() {
        let team = ThreadTeam::new(2);
        for bad in 0..4 {
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                team.run(4, |i| {
                    thread::sleep(Duration::from_millis(1));
                    assert_ne!(i, bad);
                });
            }));
            assert!(result.is_err());
        }
        let everywhere = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            team.run(4, |_| {
                thread::sleep(Duration::from_millis(1));
                panic!("on every thread");
            });
        }));
        assert!(everywhere.is_err());
        let sum = AtomicUsize::new(0);
        team.run(10, |i| {
            sum.fetch_add(i, Ordering::Relaxed);
        });
        assert_eq!(sum.into_inner(), 45);
    }

    #[test]
    fn pieces_cover_the_slice() {
        let team = ThreadTeam::new(3);
        let mut data = vec![0usize; 1003];
        team.run_chunks_mut(&mut data, 10, |i, piece| piece.fill(i));
        assert!(data.iter().enumerate().all(|(k, &v)| v == k / 10));
    }
}
