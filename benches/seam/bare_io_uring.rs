//! One ring: multishot accept into fixed files, multishot receives into provided buffers, sends whose
//! success is silent. The same set-up and the same waits as the driver's, so that they make the same
//! calls.

use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::ptr;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::register::Restriction;
use io_uring::squeue::{Entry, Flags};
use io_uring::types::{BufRingEntry, Fd, Fixed};
use io_uring::{IoUring, cqueue, opcode};
use ringlab::io::listener::Listener;

use super::{ANSWER_BYTES, CONNECTIONS, Meter};

const BUFFERS: u16 = 128;
const BUFFER_BYTES: usize = 2048;
const ACCEPT: u64 = u64::MAX;

/// The ring of buffers, page-aligned as the kernel wants it.
#[repr(align(4096))]
struct Buffers {
    ring: [u8; BUFFERS as usize * size_of::<BufRingEntry>()],
    bytes: [[u8; BUFFER_BYTES]; BUFFERS as usize],
}

pub fn echo(listener: Listener, meter: &mut Meter) {
    let listener = TcpListener::from(listener);
    let mut ring: IoUring = IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_r_disabled()
        .setup_submit_all()
        .setup_no_sqarray()
        .setup_cqsize(512)
        .build(64)
        .expect("it was checked that it can");
    let mut buffers: Box<Buffers> = Box::new(Buffers {
        ring: [0; _],
        bytes: [[0; BUFFER_BYTES]; BUFFERS as usize],
    });
    let entries: *mut BufRingEntry = ptr::from_mut(&mut buffers.ring).cast();
    let answers = vec![[b'a'; ANSWER_BYTES]; CONNECTIONS];
    let (mut submitter, mut submissions, mut completions) = ring.split();
    submitter
        .register_files_sparse(CONNECTIONS as u32)
        .expect("it was checked that it can");
    let _ = submitter.register_ring_fd();
    // SAFETY: aligned, large enough, and dropped after the ring, which is declared before it.
    unsafe { submitter.register_buf_ring_with_flags(entries as u64, BUFFERS, 0, 0) }
        .expect("it was checked that it can");
    let flags = Flags::FIXED_FILE | Flags::BUFFER_SELECT | Flags::SKIP_SUCCESS;
    let mut allowed = [
        Restriction::sqe_op(opcode::AcceptMulti::CODE),
        Restriction::sqe_op(opcode::RecvMulti::CODE),
        Restriction::sqe_op(opcode::Send::CODE),
        Restriction::sqe_flags_allowed(flags.bits()),
    ];
    submitter
        .register_restrictions(&mut allowed)
        .and_then(|()| submitter.register_enable_rings())
        .expect("it was checked that it can");
    let mut tail: u16 = 0;
    let bytes: *mut [u8; BUFFER_BYTES] = buffers.bytes.as_mut_ptr();
    let mut give_back = |id: u16| {
        // SAFETY: the slot is in the ring, the buffer in its array; the kernel reads neither
        // before the tail has moved past.
        unsafe {
            let entry = &mut *entries.add(usize::from(tail % BUFFERS));
            entry.set_addr(bytes.add(usize::from(id)) as u64);
            entry.set_len(BUFFER_BYTES as u32);
            entry.set_bid(id);
            tail = tail.wrapping_add(1);
            let shared = BufRingEntry::tail(entries).cast_mut().cast::<AtomicU16>();
            (*shared).store(tail, Ordering::Release);
        }
    };
    (0..BUFFERS).for_each(&mut give_back);
    let accept = opcode::AcceptMulti::new(Fd(listener.as_raw_fd()))
        .allocate_file_index(true)
        .build()
        .user_data(ACCEPT);
    let receive = |file: u32| {
        opcode::RecvMulti::new(Fixed(file), 0)
            .build()
            .user_data(u64::from(file))
    };
    let mut wanted: Vec<Entry> = vec![accept];
    loop {
        for entry in wanted.drain(..) {
            // SAFETY: the answers outlive the ring's use of it, and so do the buffers.
            while unsafe { submissions.push(&entry) }.is_err() {
                submissions.sync();
                submitter.submit().expect("the ring is open");
            }
        }
        submissions.sync();
        match submitter
            .submit_and_wait(1)
            .map_err(|error| error.raw_os_error())
        {
            Err(Some(libc::EINTR)) => continue,
            result => drop(result.expect("the ring is open")),
        }
        completions.sync();
        for completion in completions.by_ref() {
            let file = completion.user_data();
            if file == ACCEPT {
                wanted.push(receive(completion.result().cast_unsigned()));
                continue;
            }
            let Some(id) = cqueue::buffer_select(completion.flags()) else {
                continue;
            };
            give_back(id);
            if !cqueue::more(completion.flags()) {
                wanted.push(receive(file as u32));
            }
            let answer = &answers[file as usize];
            let send = opcode::Send::new(Fixed(file as u32), answer.as_ptr(), ANSWER_BYTES as u32)
                .flags(libc::MSG_NOSIGNAL | libc::MSG_WAITALL | libc::MSG_DONTWAIT)
                .build()
                .flags(Flags::SKIP_SUCCESS)
                .user_data(file);
            wanted.push(send);
            if meter.answered() {
                return;
            }
        }
        // Otherwise the next wait would find these again, and not wait.
        completions.sync();
    }
}
