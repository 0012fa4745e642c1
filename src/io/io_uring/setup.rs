//! A ring as the driver needs one: places for files, buffers to receive into, and leave for what the
//! driver asks of it and nothing else. Where there can be none: why.
//!
//! It deliberately moves no bytes and keeps no ring: what it opens is the driver's, or ends with the
//! check.

use std::io;

use io_uring::opcode;
use io_uring::squeue::Flags;
use io_uring::types::CancelBuilder;

use super::user_data::wake;
use super::{RECEIVE_BUFFERS, RECEIVE_BYTES, RECEIVE_GROUP};
use crate::io::provided_buffers::ProvidedBuffers;
use crate::io::ring::Ring;
use crate::io::{Counts, ring_refusal, woken_by};
use crate::measure::probe::{Off, Probe};

/// All that this driver asks of its ring.
const OPERATIONS: [u8; 8] = [
    opcode::AcceptMulti::CODE,
    opcode::AsyncCancel2::CODE,
    opcode::Close::CODE,
    opcode::Read::CODE,
    opcode::RecvMulti::CODE,
    opcode::Send::CODE,
    opcode::Shutdown::CODE,
    opcode::Timeout::CODE,
];
const FLAGS: Flags = Flags::FIXED_FILE
    .union(Flags::BUFFER_SELECT)
    .union(Flags::SKIP_SUCCESS);

/// Why io_uring cannot be used here, if so: tried, not guessed from a version.
pub fn check() -> Result<(), String> {
    let mut ring = Ring::open::<Off>().map_err(explain)?;
    if let Some(lacking) = ring.lacking() {
        return Err(lacking);
    }
    ring.submitter().register_files_sparse(1).map_err(explain)?;
    let buffers = ProvidedBuffers::register(ring.submitter(), RECEIVE_GROUP, 1, 64);
    let _buffers = buffers.map_err(explain)?;
    ring.enable(&OPERATIONS, FLAGS).map_err(explain)?;
    let nothing = opcode::AsyncCancel2::new(CancelBuilder::any()).build();
    // SAFETY: it points to nothing.
    unsafe { ring.push(nothing) };
    let entered = ring.enter::<Off>(true, &mut Vec::new(), &Counts::default());
    entered.map_err(explain)
}

/// A ring with places for so many files, and its buffers.
pub(super) fn prepare<P: Probe>(files: usize) -> io::Result<(Ring, ProvidedBuffers)> {
    let ring = Ring::open::<P>()?;
    ring.submitter().register_files_sparse(files as u32)?;
    let buffers = ProvidedBuffers::register(
        ring.submitter(),
        RECEIVE_GROUP,
        RECEIVE_BUFFERS,
        RECEIVE_BYTES,
    )?;
    ring.enable(&OPERATIONS, FLAGS)?;
    Ok((ring, buffers))
}

/// How handlers' answers come back from other threads, in a part of a sentence.
pub fn way_back() -> String {
    let tried =
        prepare::<Off>(1).and_then(|(mut ring, _buffers)| woken_by::try_message(&mut ring, wake()));
    match tried {
        Ok(()) => "by a message into its ring".to_owned(),
        Err(error) => format!(
            "by an eventfd that its ring reads: the kernel takes no message into a ring from a thread \
             without one ({error}; it needs Linux 6.13)"
        ),
    }
}

pub(super) fn explain(error: io::Error) -> String {
    let lacks = "deferred task work, single issuer or provided buffers; it needs Linux 6.1";
    ring_refusal::explain(&error, lacks)
}

#[cfg(test)]
mod tests {
    use io_uring::squeue::Entry;

    use super::*;
    use crate::io::ring::Completion;

    /// What the kernel says to each of these entries, by their user data.
    fn results(ring: &mut Ring, entries: &[Entry]) -> Vec<(u64, i32)> {
        for entry in entries {
            // SAFETY: they point to nothing.
            unsafe { ring.push(entry.clone()) };
        }
        let mut completions = Vec::new();
        while completions.len() < entries.len() {
            ring.enter::<Off>(true, &mut completions, &Counts::default())
                .expect("the ring is enabled");
        }
        let result = |completion: &Completion| (completion.user_data, completion.result);
        completions.iter().map(result).collect()
    }

    #[test]
    fn the_ring_refuses_what_the_driver_never_asks_for() {
        let Ok(mut ring) = Ring::open::<Off>() else {
            return;
        };
        ring.enable(&OPERATIONS, FLAGS).expect("Linux 6.1 can");
        let cancel = opcode::AsyncCancel2::new(CancelBuilder::any()).build();
        let entries = [
            opcode::Nop::new().build().user_data(1),
            cancel.clone().flags(Flags::ASYNC).user_data(2),
            cancel.user_data(3),
        ];
        let expected = [(1, -libc::EACCES), (2, -libc::EACCES), (3, 0)];
        assert_eq!(results(&mut ring, &entries), expected);
        let again = ring.submitter().register_files_sparse(1).unwrap_err();
        assert_eq!(again.raw_os_error(), Some(libc::EACCES));
    }
}
