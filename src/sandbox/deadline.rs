//! CPU time per request and per slice: a ticker per thread, a watch per store.
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

use super::limits::Limits;
use super::{slice, ticks};
use crate::measure::probe::{Asked, Probe, Stage};
use nix::errno::Errno;
use nix::sys::signal::{
    SaFlags, SigAction, SigEvent, SigHandler, SigSet, SigevNotify, Signal, sigaction,
};
use nix::sys::timer::{Expiration, Timer, TimerSetTimeFlags};
use nix::time::ClockId;
use nix::unistd::gettid;
use std::cell::RefCell;
use std::io;
use std::ptr;
use std::rc::{Rc, Weak};
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use wasmtime::{Engine, UpdateDeadline};

/// CPU time between two ticks. The timer interrupt of most kernels comes every 4 ms (HZ=250).
pub(super) const TICK: Duration = Duration::from_millis(4);

/// The only signal in the standard set that means "CPU time of yours has passed".
pub(super) const SIGNAL: Signal = Signal::SIGVTALRM;

/// Sandboxes that one thread may have at the same time: one for each route, and a few more while
/// one takes another's place.
const TICKERS_PER_THREAD: usize = crate::routes::MOST + 8;

thread_local! {
    /// The engine of each of this thread's tickers; null where there is none. Written by this
    /// thread, read by the signal handler on this thread. Without a destructor and with a
    /// constant initial value, reading it is a plain memory access and so async-signal-safe.
    static ENGINES: [AtomicPtr<Engine>; TICKERS_PER_THREAD] =
        const { [const { AtomicPtr::new(ptr::null_mut()) }; TICKERS_PER_THREAD] };

    /// This thread's timer, as long as it has a ticker.
    static TIMER: RefCell<Weak<RefCell<Timer>>> = const { RefCell::new(Weak::new()) };
}

/// Moves an engine's epoch on as its thread uses CPU time.
///
/// The timer measures the thread that made it, and the slot is that thread's: not `Send`.
pub(super) struct Ticker {
    _slot: Slot,
    /// One for all of the thread's engines, since a user's timers are bounded.
    _timer: Rc<RefCell<Timer>>,
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
        let timer = TIMER.with_borrow_mut(|kept| {
            if let Some(timer) = kept.upgrade() {
                return Ok(timer);
            }
            let mut timer = timer(ClockId::CLOCK_THREAD_CPUTIME_ID)?;
            set(&mut timer)?;
            let timer = Rc::new(RefCell::new(timer));
            *kept = Rc::downgrade(&timer);
            Ok::<_, io::Error>(timer)
        })?;
        Ok(Ticker {
            _slot: slot,
            _timer: timer,
        })
    }
}

fn set(timer: &mut Timer) -> io::Result<()> {
    let every = Expiration::Interval(TICK.into());
    let flags = TimerSetTimeFlags::empty();
    Ok(Asked::within(Stage::Timer, || timer.set(every, flags))?)
}

/// Ends what `timer` was set to.
pub(super) fn disarm(timer: &mut Timer) {
    // A time of zero disarms it, and nothing fails that is one (timer_settime(2)).
    let never = Expiration::OneShot(Duration::ZERO.into());
    let flags = TimerSetTimeFlags::empty();
    let _ = Asked::within(Stage::Timer, || timer.set(never, flags));
}

/// Others tick on the calling thread from now on, at least as often, until [`resume`].
pub(super) fn rest() {
    with_timer(disarm);
}

/// The others have stopped.
pub(super) fn resume() {
    with_timer(|timer| {
        // It is a time, as it was before.
        let _ = set(timer);
    });
}

/// The calling thread's timer, if it has one.
fn with_timer(change: impl FnOnce(&mut Timer)) {
    if let Some(timer) = TIMER.with_borrow(Weak::upgrade) {
        change(&mut timer.borrow_mut());
    }
}

/// Whether the calling thread's own ticks come.
#[cfg(test)]
pub(super) fn is_ticking() -> bool {
    let mut ticks = false;
    with_timer(|timer| ticks = matches!(timer.get(), Ok(Some(_))));
    ticks
}

/// Ticks on the calling thread by `clock`, once it is set.
///
/// # Errors
/// `timer_create(2)` fails: mostly by RLIMIT_SIGPENDING.
pub(super) fn timer(clock: ClockId) -> io::Result<Timer> {
    let notify = SigevNotify::SigevThreadId {
        signal: SIGNAL,
        thread_id: gettid().as_raw(),
        si_value: 0,
    };
    Timer::new(clock, SigEvent::new(notify)).map_err(|errno| match errno {
        Errno::EAGAIN => io::Error::other(
            "no timer for the handler's deadline: the user's queued signals are used up; \
             raise `ulimit -i` (RLIMIT_SIGPENDING) or run fewer threads",
        ),
        other => other.into(),
    })
}

/// Has ticks move epochs on, in the whole process.
///
/// # Errors
/// As for `sigaction(2)`, which knows none of this use.
pub(super) fn install_handler() -> io::Result<()> {
    static INSTALLED: OnceLock<Result<(), Errno>> = OnceLock::new();
    let installed = INSTALLED.get_or_init(|| {
        let action = SigAction::new(
            SigHandler::Handler(on_tick),
            SaFlags::SA_RESTART,
            SigSet::empty(),
        );
        // SAFETY: `on_tick` calls nothing that is not async-signal-safe, as said there.
        unsafe { sigaction(SIGNAL, &action) }.map(drop)
    });
    installed.map_err(io::Error::from)
}

extern "C" fn on_tick(_signal: libc::c_int) {
    ticks::count();
    ENGINES.with(|engines| {
        for engine in engines {
            // SAFETY: an entry is null or points to an Engine that its `Slot` owns and lets go only
            // after it has nulled the entry, on this same thread, which the signal interrupts.
            // `increment_epoch` is one atomic addition, documented as safe in signal handlers. All
            // engines are ticked, whichever runs: a watch reads the clock and minds no early tick.
            if let Some(engine) = unsafe { engine.load(Ordering::Acquire).as_ref() } {
                engine.increment_epoch();
            }
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

/// Ticks after which a guest looks at its watch next.
pub(super) fn next_look() -> u64 {
    #[cfg(test)]
    if super::counted::is_on() {
        return 0;
    }
    1
}

/// How long the request that an instance is busy with has run.
#[derive(Clone, Copy)]
pub(super) struct Watch {
    deadline: Duration,
    /// CPU time in the slices that are over.
    used: Duration,
    /// The thread's CPU clock at the first tick within the request, if it does not run in slices.
    first_tick: Option<Duration>,
}

impl Watch {
    /// A watch over what is limited; nothing to watch where nothing is.
    pub(super) fn new(limits: &Limits) -> Option<Watch> {
        limits.is_interruptible().then(|| Watch {
            deadline: limits.deadline.unwrap_or(Duration::MAX),
            used: Duration::ZERO,
            first_tick: None,
        })
    }

    /// Less time than the limits allow, if they allow more than `most`.
    pub(super) fn shorten(&mut self, most: Duration) {
        self.deadline = self.deadline.min(most);
    }

    /// A request is over; the next tick is another's.
    pub(super) fn restart(&mut self) {
        self.used = Duration::ZERO;
        self.first_tick = None;
    }

    /// A tick interrupts the guest: let it go on until the next one, suspend it, or end it.
    pub(super) fn tick(&mut self) -> UpdateDeadline {
        // Not in a start function, which no slice runs and nothing can suspend.
        #[cfg(test)]
        if slice::is_running()
            && let Some(update) = super::counted::look()
        {
            return update;
        }
        // The clock of the calling thread, which is the one that runs the guest. Linux always has
        // it; a guest that cannot be timed is not run.
        let Some(now) = cpu_time() else {
            return UpdateDeadline::Interrupt;
        };
        let slice = slice::tick(now);
        let ran = match slice {
            Some(slice) => slice.ran,
            None => now.saturating_sub(*self.first_tick.get_or_insert(now)),
        };
        let in_vain = STOP.with_borrow(|stop| {
            let stop = stop.as_ref();
            stop.is_some_and(|stop| stop.load(Ordering::Relaxed))
        });
        if in_vain || self.used.saturating_add(ran) >= self.deadline {
            return UpdateDeadline::Interrupt;
        }
        if slice.is_some_and(|slice| slice.is_over) {
            self.used += ran;
            return slice::end(1);
        }
        UpdateDeadline::Continue(next_look())
    }
}

/// CPU time of the calling thread; `None`: the kernel has no such clock.
pub(super) fn cpu_time() -> Option<Duration> {
    let now = ClockId::CLOCK_THREAD_CPUTIME_ID.now();
    now.ok().map(Duration::from)
}
