//! A message into another thread's ring, from a thread that has no ring of its own
//! (IORING_REGISTER_SEND_MSG_RING, Linux 6.13; io_uring_register(2)).
//!
//! It becomes a completion like any other, and ends the receiver's sleep in `io_uring_enter` as any
//! other does. It passes by the receiver's submission queue, and so by the restrictions on that. The
//! kernel refuses it while the ring is disabled (IORING_SETUP_R_DISABLED): messages work from the
//! moment when the ring does.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use io_uring::opcode;
use io_uring::squeue::Entry;
use io_uring::types::Fd;
use nix::errno::Errno;

/// include/uapi/linux/io_uring.h; the crate keeps it to itself.
const IORING_REGISTER_SEND_MSG_RING: libc::c_uint = 31;
/// What needs no ring to be asked for is asked of this one.
const NO_RING: RawFd = -1;

/// Has a completion with `user_data` appear in `ring`. One system call.
///
/// # Errors
/// What the kernel says: EINVAL before Linux 6.13, ENOMEM, or what a filter answers.
pub(super) fn send(ring: BorrowedFd<'_>, user_data: u64) -> io::Result<()> {
    let message: Entry = opcode::MsgRingData::new(Fd(ring.as_raw_fd()), 0, user_data, None).build();
    // SAFETY: the kernel reads one submission entry, which is what `Entry` is and nothing else
    // (repr(C) around it), during the call. The entry points to no memory.
    let sent = unsafe {
        libc::syscall(
            libc::SYS_io_uring_register,
            NO_RING,
            IORING_REGISTER_SEND_MSG_RING,
            &raw const message,
            1_u32,
        )
    };
    Errno::result(sent)?;
    Ok(())
}
