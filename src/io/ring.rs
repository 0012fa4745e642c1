//! An io_uring ring with its two queues open for as long as it lives, and what every user of one
//! must get right: entries that do not fit wait their turn, completions are taken before more is
//! submitted, and none is overlooked because the queue was full.

use std::collections::VecDeque;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, BorrowedFd};

use io_uring::register::{Probe as Offer, Restriction};
use io_uring::squeue::{Entry, Flags};
use io_uring::{CompletionQueue, IoUring, SubmissionQueue, Submitter};

use super::{Counts, ring_refusal};
use crate::measure::probe::{Probe, Stage};

/// Entries written before an `io_uring_enter` must push them. Small: the ring's own cache lines
/// compete with the connections'.
const SUBMISSIONS: u32 = 64;
/// A burst of completions beyond this waits in the kernel's overflow list, which costs more.
const COMPLETIONS: u32 = 512;

/// IORING_ENTER_GETEVENTS (include/uapi/linux/io_uring.h), which the crate keeps to itself.
const ENTER_GETEVENTS: u32 = 1;

/// What the kernel has told.
#[derive(Clone, Copy)]
pub(super) struct Completion {
    pub(super) user_data: u64,
    pub(super) result: i32,
    pub(super) flags: u32,
}

/// The ring.
pub(super) struct Ring {
    /// Kept, not made anew for each call: it is the one that knows the registered descriptor, which
    /// spares every `io_uring_enter` the look-up of the ring's file (Linux 5.18).
    submitter: Submitter<'static>,
    submissions: ManuallyDrop<SubmissionQueue<'static>>,
    completions: ManuallyDrop<CompletionQueue<'static>>,
    /// What the three above borrow from; freed after them.
    owner: *mut IoUring,
    /// Entries for which the queue had no room; later ones queue behind them.
    waiting: VecDeque<Entry>,
    written: u64,
    taken: u64,
}

impl Ring {
    /// A ring for the calling thread alone, whose completions appear only in its own `enter`. What
    /// entries refer to is registered now; [`Ring::enable`] ends that. For a ledger the kernel says when
    /// there is task work to do.
    pub(super) fn open<P: Probe>() -> io::Result<Ring> {
        let ring = match build(true, P::ON) {
            // Without the array of indices since Linux 6.6.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => build(false, P::ON)?,
            result => result?,
        };
        let owner = Box::into_raw(Box::new(ring));
        // SAFETY: `owner` was just made from a box, and is freed only in `drop`, after the three
        // that borrow from it.
        let (mut submitter, submissions, completions) = unsafe { (*owner).split() };
        // A ring that cannot be registered works all the same.
        let _ = submitter.register_ring_fd();
        Ok(Ring {
            submitter,
            submissions: ManuallyDrop::new(submissions),
            completions: ManuallyDrop::new(completions),
            owner,
            waiting: VecDeque::new(),
            written: 0,
            taken: 0,
        })
    }

    /// What this kernel lacks of what the main model asks of its ring, if it can tell.
    pub(super) fn lacking(&self) -> Option<String> {
        let mut offer = Offer::new();
        self.submitter.register_probe(&mut offer).ok()?;
        // SAFETY: `owner` lives until `drop`, and is not changed.
        let offered = unsafe { (*self.owner).params() };
        let features = [
            (("IORING_FEAT_NODROP", "5.5"), offered.is_feature_nodrop()),
            (
                ("IORING_FEAT_CQE_SKIP", "5.17"),
                offered.is_feature_skip_cqe_on_success(),
            ),
        ];
        ring_refusal::lacking(&offer, &features)
    }

    /// Where messages to it go.
    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: `owner` lives until `drop` and is not changed, and its descriptor is open as long.
        unsafe { BorrowedFd::borrow_raw((*self.owner).as_raw_fd()) }
    }

    /// For registering what entries refer to.
    pub(super) fn submitter(&self) -> &Submitter<'static> {
        &self.submitter
    }

    /// From now on the ring takes entries, and nothing but what is allowed here: a fault in this
    /// program, or whoever gets hold of the ring, cannot open a file or connect with it
    /// (io_uring_register(2), IORING_REGISTER_RESTRICTIONS, Linux 5.10).
    pub(super) fn enable(&self, operations: &[u8], flags: Flags) -> io::Result<()> {
        let operations = operations.iter().map(|&code| Restriction::sqe_op(code));
        let flags = Restriction::sqe_flags_allowed(flags.bits());
        let mut allowed: Vec<Restriction> = operations.chain([flags]).collect();
        self.submitter.register_restrictions(&mut allowed)?;
        self.submitter.register_enable_rings()
    }

    /// Entries written so far: the place of the last one.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// Entries that the kernel has taken in so far.
    pub(super) fn taken(&self) -> u64 {
        self.taken
    }

    /// Writes an entry, to be submitted by the next `enter`.
    ///
    /// # Safety
    /// What the entry points to must stay in place until the kernel has let go of it: until its
    /// last completion, or, if its success is silent, until it has been taken in.
    pub(super) unsafe fn push(&mut self, entry: Entry) {
        self.written += 1;
        // SAFETY: the caller's.
        if !self.waiting.is_empty() || unsafe { self.submissions.push(&entry).is_err() } {
            self.waiting.push_back(entry);
        }
    }

    /// Submits everything, waits for a completion if it `may_sleep`, and appends what there is.
    /// Returns early when a signal came.
    pub(super) fn enter<P: Probe>(
        &mut self,
        may_sleep: bool,
        completions: &mut Vec<Completion>,
        counts: &Counts,
    ) -> io::Result<()> {
        loop {
            let more = self.refill();
            if more {
                counts.sq_full.add(1);
            }
            let may_sleep = may_sleep && !more && completions.is_empty();
            let entered = self.submit_and_wait::<P>(may_sleep, counts);
            // There is room again for what was taken in.
            self.submissions.sync();
            self.take(completions, counts);
            let overflown = self.submissions.cq_overflow();
            if overflown {
                counts.cq_overflow.add(1);
            }
            match entered {
                // What found the queue full must be seen too: a complaint may be in it.
                Ok(()) if !more && !overflown => return Ok(()),
                Ok(()) => {}
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR) => return Ok(()),
                    // Completions must be taken before more can be submitted. They were.
                    Some(libc::EBUSY | libc::EAGAIN) if !completions.is_empty() => return Ok(()),
                    Some(libc::EBUSY | libc::EAGAIN) => {}
                    _ => return Err(error),
                },
            }
        }
    }

    /// All at once; for a ledger one after the other, which takes up to three calls more: none to submit
    /// nothing, and none for task work that is not there.
    fn submit_and_wait<P: Probe>(&mut self, may_sleep: bool, counts: &Counts) -> io::Result<()> {
        let want = usize::from(may_sleep);
        let wait = |submitter: &Submitter<'_>| {
            counts.io_uring_enter.add(1);
            submitter.submit_and_wait(want)
        };
        if !P::ON {
            self.taken += wait(&self.submitter)? as u64;
            return Ok(());
        }
        let enter_for = |submitter: &Submitter<'_>, entries, flags| {
            counts.io_uring_enter.add(1);
            enter_for(submitter, entries, flags)
        };
        let entries = self.submissions.len();
        if entries > 0 {
            let submit = || enter_for(&self.submitter, entries, 0);
            self.taken += P::within(Stage::EnterSubmit, submit)? as u64;
        }
        // As in the one call of who does not record: behind what is submitted and again before the wait, each
        // time no more than the kernel does at once (20 pieces in Linux 6.18). Who waits for nothing has none
        // done, but where completions are kept from the queue.
        for _ in 0..1 + usize::from(entries > 0) {
            let is_due = want > 0 && self.submissions.taskrun();
            if !is_due && !self.submissions.cq_overflow() {
                break;
            }
            let work = || enter_for(&self.submitter, 0, ENTER_GETEVENTS);
            P::within(Stage::EnterTaskWork, work)?;
        }
        self.completions.sync();
        if self.completions.len() < want {
            self.taken += P::within(Stage::EnterWait, || wait(&self.submitter))? as u64;
        }
        Ok(())
    }

    /// Moves waiting entries into the queue; says whether some still wait.
    fn refill(&mut self) -> bool {
        while let Some(entry) = self.waiting.front() {
            // SAFETY: as its writer promised in `push`.
            if unsafe { self.submissions.push(entry).is_err() } {
                break;
            }
            self.waiting.pop_front();
        }
        self.submissions.sync();
        !self.waiting.is_empty()
    }

    fn take(&mut self, completions: &mut Vec<Completion>, counts: &Counts) {
        self.completions.sync();
        let before = completions.len();
        completions.extend(self.completions.by_ref().map(|cqe| Completion {
            user_data: cqe.user_data(),
            result: cqe.result(),
            flags: cqe.flags(),
        }));
        self.completions.sync();
        counts.cqe.add((completions.len() - before) as u64);
    }
}

/// Takes in so many entries and does what `flags` say and nothing besides, where the crate's own call would do
/// the task work that the kernel says there is; does not sleep.
fn enter_for(submitter: &Submitter<'_>, entries: usize, flags: u32) -> io::Result<usize> {
    let entries = entries.try_into().expect("the queue is short");
    // SAFETY: no argument is passed for the kernel to read. Of the entries their writers promised what
    // there is to promise.
    unsafe { submitter.enter::<libc::sigset_t>(entries, 0, flags, None) }
}

fn build(without_index_array: bool, says_task_work: bool) -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    if says_task_work {
        builder.setup_taskrun_flag();
    }
    builder
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_r_disabled()
        .setup_cqsize(COMPLETIONS)
        .setup_submit_all();
    if without_index_array {
        builder.setup_no_sqarray();
    }
    builder.build(SUBMISSIONS)
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: dropped once, before what they borrow from; the submitter owns nothing. `owner`
        // came from a box and is not used again.
        unsafe {
            ManuallyDrop::drop(&mut self.submissions);
            ManuallyDrop::drop(&mut self.completions);
            drop(Box::from_raw(self.owner));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::TcpStream;
    use std::os::unix::net::UnixStream;
    use std::sync::Arc;
    use std::thread;
    use std::time::Duration;

    use io_uring::{opcode, types::Fd};

    use super::*;
    use crate::descriptors;
    use crate::io::listener;
    use crate::measure::probe::{self, Off, On, StageTimes};

    /// What is submitted, what work there is and what is waited for are told apart, and nothing is entered for
    /// nothing.
    #[test]
    fn for_a_ledger_each_enter_does_one_thing() {
        thread::spawn(enter_for_a_ledger).join().expect("it holds");
    }

    /// A probe is its thread's.
    fn enter_for_a_ledger() {
        let times = Arc::new(StageTimes::default());
        probe::begin::<On>(&times, 1, None);
        let Ok(mut ring) = Ring::open::<On>() else {
            return eprintln!("skipped: there can be no ring here");
        };
        ring.enable(&[opcode::Recv::CODE], Flags::empty())
            .expect("Linux 6.1 can");
        let (mut client, server) = UnixStream::pair().expect("two descriptors");
        let (mut byte, counts) = ([0], Counts::default());
        let mut push = |ring: &mut Ring| {
            let receive = opcode::Recv::new(Fd(server.as_raw_fd()), byte.as_mut_ptr(), 1);
            // SAFETY: the byte is there until all that is pushed has completed.
            unsafe { ring.push(receive.build()) };
        };
        // Enters of each kind so far, and what completes in this.
        let check = |ring: &mut Ring, may_sleep: bool, enters: [u64; 3], completes: usize| {
            let mut completions = Vec::new();
            let entered = ring.enter::<On>(may_sleep, &mut completions, &counts);
            entered.expect("it is enabled");
            let stages = [Stage::EnterSubmit, Stage::EnterTaskWork, Stage::EnterWait];
            let entered = times.snapshot().entered;
            assert_eq!(stages.map(|stage| entered[stage as usize]), enters);
            assert_eq!(counts.snapshot().io_uring_enter, enters.iter().sum::<u64>());
            assert_eq!(completions.len(), completes);
        };
        check(&mut ring, false, [0, 0, 0], 0);
        push(&mut ring);
        check(&mut ring, false, [1, 0, 0], 0);
        client.write_all(b"1").expect("somebody reads");
        // As where nobody looks, what waits for nothing finds nothing.
        check(&mut ring, false, [1, 0, 0], 0);
        check(&mut ring, true, [1, 1, 0], 1);
        push(&mut ring);
        let waits = format!("/proc/self/task/{}/stat", nix::unistd::gettid());
        let later = thread::spawn(move || {
            let state = || std::fs::read_to_string(&waits).expect("it lives");
            while !state().contains(") S ") {
                thread::sleep(Duration::from_millis(1));
            }
            client.write_all(b"2").expect("somebody reads");
            client
        });
        check(&mut ring, true, [2, 1, 1], 1);
        later.join().expect("it wrote");
    }

    /// What was taken in leaves room for as many.
    #[test]
    fn a_queue_that_was_emptied_is_not_full() {
        let Ok(mut ring) = Ring::open::<Off>() else {
            return eprintln!("skipped: there can be no ring here");
        };
        ring.enable(&[opcode::Nop::CODE], Flags::empty())
            .expect("Linux 6.1 can");
        let (mut completions, counts) = (Vec::new(), Counts::default());
        const TURNS: u64 = 5;
        for _ in 0..TURNS {
            for _ in 0..SUBMISSIONS {
                // SAFETY: it points to nothing.
                unsafe { ring.push(opcode::Nop::new().build()) };
            }
            ring.enter::<Off>(true, &mut completions, &counts)
                .expect("it is enabled");
        }
        let counts = counts.snapshot();
        assert_eq!((counts.sq_full, counts.io_uring_enter), (0, TURNS));
        assert_eq!(completions.len(), TURNS as usize * SUBMISSIONS as usize);
    }

    /// One entry completes more often than there is room for. The complaint of a send whose success is
    /// silent may be what found none: it must be seen before the silence of others is taken for success.
    #[test]
    fn what_found_the_completion_queue_full_is_told_by_the_same_enter() {
        const ROOM: usize = COMPLETIONS as usize;
        const CLIENTS: usize = ROOM + 40;
        let Ok(mut ring) = Ring::open::<Off>() else {
            return eprintln!("skipped: there can be no ring here");
        };
        if descriptors::allow(2 * CLIENTS) < 2 * CLIENTS {
            return eprintln!("skipped: too few descriptors; raise `ulimit -n`");
        }
        let files = ring.submitter().register_files_sparse(CLIENTS as u32);
        files.expect("a table of files");
        ring.enable(&[opcode::AcceptMulti::CODE], Flags::empty())
            .expect("Linux 6.1 can");
        let local = "127.0.0.1:0".parse().expect("an address");
        let (listeners, address) = listener::bind(local, 1).expect("a free port");
        let connect = |_| TcpStream::connect(address).expect("it listens");
        let _clients: Vec<_> = (0..CLIENTS).map(connect).collect();
        let accept = opcode::AcceptMulti::new(Fd(listeners[0].as_raw_fd()));
        // SAFETY: it points to nothing.
        unsafe { ring.push(accept.allocate_file_index(true).build()) };
        let (mut completions, counts) = (Vec::new(), Counts::default());
        ring.enter::<Off>(true, &mut completions, &counts)
            .expect("the ring is enabled");
        assert!(counts.snapshot().cq_overflow > 0, "there was room for all");
        assert!(completions.len() > ROOM, "{} were told", completions.len());
    }
}
