//! CPU time per request: a ticker per thread, a watch per instance.
//!
//! Compiled wasm compares the engine's epoch with the store's at every loop head and function
//! entry. Nothing moves the epoch but the [`Ticker`]: a timer on the CPU clock of the thread that
//! runs the guest, so an idle thread never ticks and a request that ends before the next tick
//! pays nothing. A tick makes the guest call its [`Watch`], which reads the same clock.
//!
//! How exact: the first tick within a request starts the watch, the first tick at or past the
//! deadline ends the request. Ticks are one [`TICK`] of CPU time apart and come at the kernel's
//! next timer interrupt (`kernel/time/posix-cpu-timers.c` looks at nothing finer), so the guest
//! is ended between `deadline` and `deadline` plus two ticks and two timer interrupts.
//!
//! The signal may end a system call of the same thread with EINTR: SA_RESTART restarts reads and
//! writes, but never `epoll_wait`, `poll`, `io_uring_enter`, sleeps, or sockets with a timeout
//! (signal(7)). Whoever blocks on such a thread retries.

use nix::errno::Errno;
use nix::sys::signal::{
    SaFlags, SigAction, SigEvent, SigHandler, SigSet, SigevNotify, Signal, sigaction,
};
use nix::sys::timer::{Expiration, Timer, TimerSetTimeFlags};
use nix::time::ClockId;
use nix::unistd::gettid;
use std::cell::RefCell;
use std::io;
use std::marker::PhantomData;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use wasmtime::{Engine, UpdateDeadline};

/// CPU time between two ticks. The timer interrupt of most kernels comes every 4 ms (HZ=250).
const TICK: Duration = Duration::from_millis(4);

/// The only signal in the standard set that means "CPU time of yours has passed".
const SIGNAL: Signal = Signal::SIGVTALRM;

/// Sandboxes that one thread may have at the same time, such as one for each route.
const TICKERS_PER_THREAD: usize = 8;

thread_local! {
    /// The engine of each of this thread's tickers; null where there is none. Written by this
    /// thread, read by the signal handler on this thread. Without a destructor and with a
    /// constant initial value, reading it is a plain memory access and so async-signal-safe.
    static ENGINES: [AtomicPtr<Engine>; TICKERS_PER_THREAD] =
        const { [const { AtomicPtr::new(ptr::null_mut()) }; TICKERS_PER_THREAD] };
}

/// Moves an engine's epoch on as its thread uses CPU time.
pub(super) struct Ticker {
    /// Declared first, so that it is deleted before the engine that its signal is for.
    _timer: Timer,
    _slot: Slot,
    /// The timer measures the thread that made it, and the slot is that thread's: not `Send`.
    _thread: PhantomData<*const ()>,
}

/// One used entry of [`ENGINES`]; emptied on drop.
struct Slot {
    index: usize,
    /// What the entry points to.
    _engine: Arc<Engine>,
}

impl Ticker {
    /// Starts ticking for `engine` on the calling thread.
    ///
    /// # Errors
    /// The thread has [`TICKERS_PER_THREAD`] already, or `timer_create(2)` fails: a timer holds
    /// one queued signal, which RLIMIT_SIGPENDING bounds for all processes of the user.
    pub(super) fn start(engine: &Engine) -> io::Result<Ticker> {
        install_handler()?;
        let mut signals = SigSet::empty();
        signals.add(SIGNAL);
        // Masks are inherited: whoever started this thread may block all signals.
        signals.thread_unblock()?;

        let slot = Slot::take(engine)?;
        let notify = SigevNotify::SigevThreadId {
            signal: SIGNAL,
            thread_id: gettid().as_raw(),
            si_value: slot.index.cast_signed(),
        };
        let mut timer = Timer::new(ClockId::CLOCK_THREAD_CPUTIME_ID, SigEvent::new(notify))
            .map_err(|errno| match errno {
                Errno::EAGAIN => io::Error::other(
                    "no timer for the handler's deadline: the user's queued signals are used up; \
                     raise `ulimit -i` (RLIMIT_SIGPENDING) or run fewer threads",
                ),
                other => other.into(),
            })?;
        timer.set(
            Expiration::Interval(TICK.into()),
            TimerSetTimeFlags::empty(),
        )?;
        Ok(Ticker {
            _timer: timer,
            _slot: slot,
            _thread: PhantomData,
        })
    }
}

fn install_handler() -> io::Result<()> {
    static INSTALLED: OnceLock<Result<(), Errno>> = OnceLock::new();
    let installed = INSTALLED.get_or_init(|| {
        let action = SigAction::new(
            SigHandler::SigAction(on_tick),
            SaFlags::SA_RESTART,
            SigSet::empty(),
        );
        // SAFETY: `on_tick` calls nothing that is not async-signal-safe, as said there.
        unsafe { sigaction(SIGNAL, &action) }.map(drop)
    });
    installed.map_err(io::Error::from)
}

extern "C" fn on_tick(
    _signal: libc::c_int,
    info: *mut libc::siginfo_t,
    _context: *mut libc::c_void,
) {
    // SAFETY: the kernel passes a handler of the SigAction kind a valid siginfo. A signal that
    // someone sent by hand has any value here: it is used as a checked index and nothing else.
    let index = unsafe { (*info).si_value() }.sival_ptr.addr();
    ENGINES.with(|engines| {
        let engine = engines
            .get(index)
            .map_or(ptr::null_mut(), |engine| engine.load(Ordering::Acquire));
        // SAFETY: an entry is null or points to an Engine that its `Slot` owns and lets go only
        // after it has nulled the entry, on this same thread, which the signal interrupts.
        // `increment_epoch` is one atomic addition, documented as safe in signal handlers. A late
        // signal of a deleted timer finds null, or a newer engine and ticks it once too early,
        // which a watch does not mind: it reads the clock.
        if let Some(engine) = unsafe { engine.as_ref() } {
            engine.increment_epoch();
        }
    });
}

impl Slot {
    fn take(engine: &Engine) -> io::Result<Slot> {
        ENGINES.with(|engines| {
            let index = engines
                .iter()
                .position(|engine| engine.load(Ordering::Relaxed).is_null())
                .ok_or_else(|| {
                    io::Error::other(format!(
                        "this thread has {TICKERS_PER_THREAD} sandboxes already, the most a \
                         thread may have; drop one first"
                    ))
                })?;
            let engine = Arc::new(engine.clone());
            engines[index].store(Arc::as_ptr(&engine).cast_mut(), Ordering::Release);
            Ok(Slot {
                index,
                _engine: engine,
            })
        })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // Before the engine goes, which the fields' own drops see to.
        ENGINES.with(|engines| engines[self.index].store(ptr::null_mut(), Ordering::Release));
    }
}

thread_local! {
    /// Tells the request that this thread works on that it is in vain. Looked at by ticks only.
    static STOP: RefCell<Option<Arc<AtomicBool>>> = const { RefCell::new(None) };
}

/// Runs `work`, in which a guest is ended as if its deadline had passed soon after `stop` is set:
/// at the next tick.
pub fn stoppable<R>(stop: &Arc<AtomicBool>, work: impl FnOnce() -> R) -> R {
    /// Takes the flag away again, also when `work` panics.
    struct Reset;
    impl Drop for Reset {
        fn drop(&mut self) {
            STOP.set(None);
        }
    }
    STOP.set(Some(stop.clone()));
    let _reset = Reset;
    work()
}

/// How long the request that an instance is busy with has run.
#[derive(Clone, Copy)]
pub(super) struct Watch {
    deadline: Duration,
    /// The thread's CPU clock at the first tick within the request.
    first_tick: Option<Duration>,
}

impl Watch {
    pub(super) fn new(deadline: Duration) -> Watch {
        Watch {
            deadline,
            first_tick: None,
        }
    }

    /// A request is over; the next tick is another's.
    pub(super) fn restart(&mut self) {
        self.first_tick = None;
    }

    /// A tick interrupts the guest: let it go on until the next one, or end it.
    pub(super) fn tick(&mut self) -> UpdateDeadline {
        // The clock of the calling thread, which is the one that runs the guest. Linux always has
        // it; a guest that cannot be timed is not run.
        let Ok(now) = ClockId::CLOCK_THREAD_CPUTIME_ID.now() else {
            return UpdateDeadline::Interrupt;
        };
        let now = Duration::from(now);
        let first_tick = *self.first_tick.get_or_insert(now);
        let in_vain = STOP.with_borrow(|stop| {
            let stop = stop.as_ref();
            stop.is_some_and(|stop| stop.load(Ordering::Relaxed))
        });
        if in_vain || now.saturating_sub(first_tick) >= self.deadline {
            UpdateDeadline::Interrupt
        } else {
            UpdateDeadline::Continue(1)
        }
    }
}
