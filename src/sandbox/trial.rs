//! One request to one instance, for people who write handlers: what it leaves written in memory.

use super::blueprint::Blueprint;
use super::handler::{Handler, Program};
use super::instance::Instance;
use super::limits::Limits;
use super::load_error::{Fault, LoadError};
use super::{Call, Failure, Isolation};
use crate::measure::counter::Counter;
use crate::measure::probe::Off;

/// The bytes that are looked at together: a page of x86-64 and most others.
pub const PAGE_BYTES: usize = 4096;

/// What a request did to the memory of a new instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Touched {
    /// Linear memory before the request, in bytes.
    pub before_bytes: usize,
    /// Linear memory after it, in bytes.
    pub after_bytes: usize,
    /// Pages of [`PAGE_BYTES`] whose content differs afterwards, the request itself among them. Pages
    /// that were read, or written with what they held, cannot be told from untouched ones.
    pub changed_pages: usize,
}

/// Calls a new instance of `handler` once, and compares its whole memory. `None`: it is linked in and
/// has no memory of its own. A request that fails has its memory looked at all the same.
///
/// The calling thread's stack must have [`Limits::thread_stack_bytes`].
///
/// # Errors
/// No instance can be made.
pub fn touched(handler: &Handler, call: &Call<'_>) -> Result<Option<Touched>, LoadError> {
    let Program::Wasm(artifact) = handler.program() else {
        return Ok(None);
    };
    let error = |fault| LoadError {
        handler: handler.describe().name.clone(),
        fault,
    };
    let limits = Limits {
        instances: 1,
        ..handler.limits().clone()
    };
    let blueprint = Blueprint::new(artifact, Isolation::Fresh, &limits).map_err(error)?;
    let ticker = blueprint.ticker();
    let _ticker = ticker.map_err(|cause| error(Fault::Host(cause.to_string())))?;
    let failed = |failure| match failure {
        // It is the first, and all that could be in its way is the host.
        Failure::Exhausted => error(Fault::Host("there is no room for an instance".to_owned())),
        failure => error(Fault::Start(failure)),
    };
    let mut instance = Instance::new(&blueprint).map_err(failed)?;
    let before = instance.memory().to_vec();
    let _ = instance.call::<Off>(call, &limits, &Counter::default());
    let after = instance.memory();
    // What grew was zeros.
    let mut padded = before.chunks(PAGE_BYTES);
    let changed = |page: &&[u8]| match padded.next() {
        Some(before) => *page != before,
        None => page.iter().any(|byte| *byte != 0),
    };
    Ok(Some(Touched {
        before_bytes: before.len(),
        after_bytes: after.len(),
        changed_pages: after.chunks(PAGE_BYTES).filter(changed).count(),
    }))
}
