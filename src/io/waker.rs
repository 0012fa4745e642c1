//! Wakes a driver from another thread, in the way that its model waits: a message into its ring, an
//! eventfd in its epoll set, a signal to its thread, a flag where it never sleeps.
//!
//! None of them loses a wake-up, and many wakes before the driver looks are one.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getpid, gettid};

use super::{Counts, ring_message};

/// Cheap to clone; works from any thread, and from none at all once the driver is gone.
#[derive(Clone, Debug)]
pub struct Waker(Means);

#[derive(Clone, Debug)]
enum Means {
    /// A descriptor that becomes readable.
    Event(Arc<EventFd>),
    /// What is the driver's own, and goes with it.
    Bell(Arc<Wire>),
    /// A flag that is looked at in every turn.
    Flag(Flag),
}

impl Waker {
    pub(crate) fn new() -> io::Result<Self> {
        let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
        let event = EventFd::from_value_and_flags(0, flags)?;
        Ok(Self(Means::Event(Arc::new(event))))
    }

    /// Makes the driver's `wait` return and its `next` say `Woken`. Many wakes before it looks are
    /// one.
    pub fn wake(&self) {
        match &self.0 {
            // The only failure is a counter at its maximum: the driver has been woken often enough.
            Means::Event(event) => drop(event.write(1)),
            Means::Bell(wire) => wire.pull(),
            Means::Flag(flag) => flag.0.store(true, Ordering::Release),
        }
    }

    /// Notes that other threads woke this one `times`, at a system call each: what they call is counted
    /// with the thread that they call it for, which alone may write its counts.
    pub(crate) fn note(&self, times: u64, counts: &Counts) {
        let call = match &self.0 {
            Means::Event(_) => &counts.write,
            Means::Bell(wire) => match *wire.end.read().unwrap_or_else(PoisonError::into_inner) {
                Some(End::Ring { .. }) => &counts.io_uring_register,
                Some(End::Thread { .. }) => &counts.tgkill,
                None => return,
            },
            // Memory alone.
            Means::Flag(_) => return,
        };
        call.add(times);
    }

    pub(super) fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }

    /// Only of a waker made by [`Waker::new`].
    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.0 {
            Means::Event(event) => event.as_fd(),
            Means::Bell(_) | Means::Flag(_) => unreachable!("its driver does not watch it so"),
        }
    }

    /// Takes the wake-up back, so that the descriptor is quiet until the next one; says whether
    /// there was one. Only of a waker made by [`Waker::new`].
    pub(crate) fn clear(&self) -> bool {
        match &self.0 {
            Means::Event(event) => event.read().is_ok(),
            Means::Bell(_) | Means::Flag(_) => false,
        }
    }
}

/// The driver's end of its wakers, where what they act on lives no longer than the driver: a ring, a
/// thread. Once this is dropped they act on nothing, so that whoever has the same number then, of a
/// descriptor or a thread, is left alone.
#[derive(Debug)]
pub(super) struct Bell(Arc<Wire>);

/// Between a bell and those who ring it.
#[derive(Debug)]
struct Wire {
    /// Held for reading while it is acted on: a bell goes only when nobody is at it.
    end: RwLock<Option<End>>,
    /// Rung and not heard yet.
    rung: AtomicBool,
}

#[derive(Clone, Copy, Debug)]
enum End {
    Ring { fd: RawFd, user_data: u64 },
    Thread { process: Pid, thread: Pid },
}

impl Bell {
    /// Rings by a completion with `user_data` in `ring`, which must outlive this.
    pub(super) fn in_ring(ring: BorrowedFd<'_>, user_data: u64) -> Bell {
        let fd = ring.as_raw_fd();
        Bell::new(End::Ring { fd, user_data })
    }

    /// Rings by [`Bell::SIGNAL`] to the calling thread, which must block it and outlive this.
    pub(super) fn on_this_thread() -> Bell {
        let (process, thread) = (getpid(), gettid());
        Bell::new(End::Thread { process, thread })
    }

    /// A standard signal: real-time ones can fail for want of room in the user's queue, and this one
    /// is merely pending twice (signal(7)).
    pub(super) const SIGNAL: Signal = Signal::SIGUSR1;

    fn new(end: End) -> Bell {
        Bell(Arc::new(Wire {
            end: RwLock::new(Some(end)),
            rung: AtomicBool::new(false),
        }))
    }

    pub(super) fn waker(&self) -> Waker {
        Waker(Means::Bell(self.0.clone()))
    }

    /// The driver has heard it, and looks for what it was rung for after this.
    pub(super) fn heard(&self) {
        // Read and written in one: whoever found it rung, and left it at that, is seen here, with all
        // that was done before.
        self.0.rung.swap(false, Ordering::AcqRel);
    }

    /// From now on it is rung in vain.
    pub(super) fn end(&mut self) {
        let mut end = self.0.end.write().unwrap_or_else(PoisonError::into_inner);
        *end = None;
    }
}

impl Drop for Bell {
    fn drop(&mut self) {
        self.end();
    }
}

impl Wire {
    fn pull(&self) {
        if self.rung.swap(true, Ordering::AcqRel) {
            return;
        }
        let end = self.end.read().unwrap_or_else(PoisonError::into_inner);
        match *end {
            Some(End::Ring { fd, user_data }) => {
                // SAFETY: the ring is open while `end` names it, and `end` cannot change while it is
                // read.
                let ring = unsafe { BorrowedFd::borrow_raw(fd) };
                send_for_sure(ring, user_data);
            }
            Some(End::Thread { process, thread }) => {
                // SAFETY: tgkill(2) touches no memory, and the thread exists: see `end`. It blocks
                // the signal, which so ends nothing and is never handled.
                let sent = unsafe {
                    libc::syscall(
                        libc::SYS_tgkill,
                        process.as_raw(),
                        thread.as_raw(),
                        Bell::SIGNAL as libc::c_int,
                    )
                };
                debug_assert_eq!(
                    Errno::result(sent),
                    Ok(0),
                    "a standard signal always finds room"
                );
            }
            None => {}
        }
    }
}

/// Sends a message into a ring that has taken one before. All that can be in its way then is memory
/// (ENOMEM; a page of the kernel's, which it finds sooner or later).
fn send_for_sure(ring: BorrowedFd<'_>, user_data: u64) {
    while let Err(error) = ring_message::send(ring, user_data) {
        match error.raw_os_error() {
            Some(libc::ENOMEM | libc::EAGAIN | libc::EINTR) => std::thread::yield_now(),
            _ => {
                tracing::error!(%error, "a shard could not be woken by a message into its ring");
                return;
            }
        }
    }
}

/// A waker's flag, for a driver that never sleeps.
#[derive(Clone, Debug, Default)]
pub(super) struct Flag(Arc<AtomicBool>);

impl Flag {
    pub(super) fn waker(&self) -> Waker {
        Waker(Means::Flag(self.clone()))
    }

    /// Whether somebody woke since this was asked last. Nearly always not: a plain read.
    pub(super) fn take(&self) -> bool {
        self.0.load(Ordering::Relaxed) && self.0.swap(false, Ordering::Acquire)
    }
}
