//! One running copy of a module, from one request to the next.

use super::blueprint::Blueprint;
use super::deadline::next_look;
use super::entry::Entry;
use super::first_bytes::FirstBytes;
use super::growth::Growth;
use super::host::Host;
use super::limits::Limits;
use super::load_error::Fault;
use super::loans::Loans;
use super::snapshot::Snapshot;
use super::{Answer, Call, Failure, abi, engine};
use crate::measure::counter::Counter;
use crate::measure::probe::{Probe, Stage};
use std::io;
use std::pin::Pin;
use std::ptr::NonNull;
use std::sync::Once;
use wasmtime::{Memory, Store};

/// A guest on its way through a request: the instance, and what it returned in the end.
pub(super) type Running = Pin<Box<dyn Future<Output = (Box<Instance>, wasmtime::Result<u32>)>>>;

/// One running copy of a module, and the store it lives in.
///
/// Under `fresh` it has predecessors there: to make a store takes as long as to make an instance, and to end it
/// again. So an instance that has answered is left behind in its store, where nothing calls it any more, and
/// the next request gets another one there, with a memory, globals and tables of its own. All go with the
/// store: when an instance fails, when one has grown, and when [`Loans::keep`] says so.
///
/// Boxed, since it goes from hand to hand: into a slot, a lease, a fiber and back, at some ten
/// nanoseconds each time for some hundred bytes.
pub(super) struct Instance {
    store: Store<Host>,
    guest: Guest,
    area: u32,
    /// Given back after the store is gone.
    loans: Loans,
    /// It is called no more, and its store may have another for the next request.
    is_left: bool,
}

/// What of an [`Instance`] is its own.
struct Guest {
    memory: Memory,
    first_bytes: FirstBytes,
    handle: Entry,
    /// For `reset`: how it began.
    snapshot: Option<Snapshot>,
}

impl Guest {
    /// Of an `instance` that was made in `store` just now.
    ///
    /// # Errors
    /// The kernel refuses to protect its memory.
    fn of(
        instance: &wasmtime::Instance,
        memory: Memory,
        store: &mut Store<Host>,
        blueprint: &Blueprint,
    ) -> Result<Guest, Failure> {
        let handle = blueprint
            .handle
            .find(instance, &mut *store, !blueprint.afterwards.is_once())
            .expect("it is this module's");
        let snapshot = match &blueprint.state {
            Some(state) => Some(state.snapshot(store, instance, memory)?),
            None => None,
        };
        // SAFETY: our engines never move a memory, and the store goes where this goes.
        let first_bytes = unsafe { FirstBytes::of(memory, store, blueprint.first_bytes) };
        let base = NonNull::new(memory.data_ptr(&*store)).expect("a memory has an address");
        // SAFETY: our engines reserve so much for each memory, between guards, and open what it has of
        // it; `Drop` ends this before the store, and `leave` before another takes its place.
        let growth = unsafe { Growth::of(base, memory.data_size(&*store), engine::RESERVED_BYTES) };
        let host = store.data_mut();
        host.growth = Some(growth);
        // What a start function was refused and lived with is no request's.
        host.refused = None;
        Ok(Guest {
            memory,
            first_bytes,
            handle,
            snapshot,
        })
    }
}

impl Instance {
    /// In a store of its own: takes a slot of the pool, or a memory, or maps one, and runs the module's
    /// start function, if it has one.
    ///
    /// # Errors
    /// The start function fails, no slot is free, or the kernel refuses.
    pub(super) fn new(blueprint: &Blueprint) -> Result<Box<Instance>, Failure> {
        let mut store = blueprint.store();
        let (instance, memory) = blueprint.instantiate(&mut store).map_err(|error| {
            let failure = Failure::from_wasmtime(&error, store.data().refused);
            if failure == Failure::Exhausted {
                say_once(&error);
            }
            failure
        })?;
        Ok(Box::new(Instance {
            guest: Guest::of(&instance, memory, &mut store, blueprint)?,
            store,
            area: blueprint.area,
            loans: Loans::new(blueprint.home.watched().cloned()),
            is_left: false,
        }))
    }

    /// The instance for a request: the one that was kept; if it has been left, another in its store; or one
    /// in a new store. After an error none is kept.
    ///
    /// # Errors
    /// As for [`Instance::new`].
    #[inline]
    pub(super) fn next<'k>(
        kept: &'k mut Option<Box<Instance>>,
        blueprint: &Blueprint,
    ) -> Result<&'k mut Box<Instance>, Failure> {
        if let Some(instance) = kept
            && instance.is_left
            && !instance.succeed(blueprint)
        {
            // What the store gives back may be what was lacking, such as addresses.
            *kept = None;
        }
        match kept {
            Some(instance) => Ok(instance),
            none => Ok(none.insert(Instance::new(blueprint)?)),
        }
    }

    /// Another takes its place in the store, if one can be made.
    fn succeed(&mut self, blueprint: &Blueprint) -> bool {
        let Ok((instance, memory)) = blueprint.instantiate(&mut self.store) else {
            return false;
        };
        let Ok(guest) = Guest::of(&instance, memory, &mut self.store, blueprint) else {
            return false;
        };
        self.guest = guest;
        self.is_left = false;
        true
    }

    /// It has answered and is called no more; `bytes` of its memory are to be zeroed. Whether its store may
    /// have another.
    pub(super) fn leave(&mut self, bytes: usize) -> bool {
        let has_grown = self.memory().len() > self.guest.first_bytes.len();
        let host = self.store.data_mut();
        // What grew is given back at once.
        let is_as_it_began = !has_grown && !host.has_grown_tables && host.end_growth();
        if is_as_it_began && self.loans.keep(bytes) {
            // Nothing grows until there is another.
            host.growth = None;
            self.is_left = true;
        }
        self.is_left
    }

    /// Whether it is called no more, and waits in its store for another.
    pub(super) fn is_left(&self) -> bool {
        self.is_left
    }

    /// All of its linear memory.
    pub(super) fn memory(&self) -> &[u8] {
        self.guest.memory.data(&self.store)
    }

    /// Lets the guest answer `call`. The answer is lent out of guest memory. Bytes of the request are
    /// `copied` into it.
    ///
    /// # Errors
    /// All but [`Failure::RequestTooLarge`] leave the instance in an unknown state, such as a
    /// displaced stack pointer after a trap: it must not be called again, or after
    /// [`Failure::ResponseTooLarge`] or [`Failure::HeaderLinesTooLarge`] only if it is put back as it
    /// began.
    #[inline]
    pub(super) fn call<P: Probe>(
        &mut self,
        call: &Call<'_>,
        limits: &Limits,
        copied: &Counter,
    ) -> Result<Answer<'_>, Failure> {
        let length = self.write::<P>(call, copied)?;
        let returned = P::within(Stage::Guest, || self.run(length));
        self.end(returned, limits)
    }

    /// Runs the guest on the caller's stack, with the request of `length` that was written, until it
    /// returns.
    #[inline]
    pub(super) fn run(&mut self, length: u32) -> wasmtime::Result<u32> {
        // The epoch deadline stays where it was. If ticks passed since, the guest calls its watch
        // at once, once; setting it anew would cost every request more than that costs one.
        self.guest.handle.call(&mut self.store, length)
    }

    /// Has the guest begin with the request of `length` that was written, on a stack of its own: the
    /// future runs a slice each time it is polled. Dropping it ends the guest where it stands.
    pub(super) fn begin(mut self: Box<Self>, length: u32) -> Running {
        // A tick that came before is nothing to this guest, which would be suspended for it.
        self.store.set_epoch_deadline(next_look());
        Box::pin(async move {
            let returned = self
                .guest
                .handle
                .call_in_slices(&mut self.store, length)
                .await;
            (self, returned)
        })
    }

    /// Writes the request where the guest expects it, and returns its length there. What of it are
    /// `copied` bytes, its head and its body, is added to those.
    ///
    /// # Errors
    /// [`Failure::RequestTooLarge`], and the instance is as it was; or the kernel refuses.
    #[inline]
    pub(super) fn write<P: Probe>(
        &mut self,
        call: &Call<'_>,
        copied: &Counter,
    ) -> Result<u32, Failure> {
        if self.guest.snapshot.is_some() || self.loans.memories().is_some() {
            self.make_writable(call).map_err(|_| Failure::Exhausted)?;
        }
        let memory = self.guest.first_bytes.write(&mut self.store);
        let written = P::within(Stage::Copy, || abi::write_request(memory, self.area, call));
        match written {
            Ok(_) => copied.add((call.head.len() + call.body.len()) as u64),
            Err(_) => self.store.data_mut().end_request(),
        }
        written
    }

    /// Where pages are watched: says which of them the host is about to write.
    #[inline]
    fn make_writable(&self, call: &Call<'_>) -> io::Result<()> {
        let range = abi::request_range(self.guest.first_bytes.read(&self.store), self.area, call);
        let range = range.unwrap_or_default();
        match (&self.guest.snapshot, self.loans.memories()) {
            (Some(snapshot), _) => snapshot.make_writable(range),
            (None, Some(memories)) => {
                memories.make_writable(self.guest.memory.data_ptr(&self.store), range)
            }
            (None, None) => Ok(()),
        }
    }

    /// The guest has `returned`: what it answers.
    ///
    /// # Errors
    /// As for [`Instance::call`].
    #[inline]
    pub(super) fn end(
        &mut self,
        returned: wasmtime::Result<u32>,
        limits: &Limits,
    ) -> Result<Answer<'_>, Failure> {
        let record = match returned {
            Ok(record) => record,
            Err(error) => {
                let refused = self.store.data().refused;
                return Err(Failure::from_wasmtime(&error, refused));
            }
        };
        self.store.data_mut().end_request();
        match abi::read_answer(self.guest.first_bytes.read(&self.store), record, limits) {
            // Perhaps in what it grew.
            Err(_) => abi::read_answer(self.memory(), record, limits),
            answer => answer,
        }
    }

    /// What of its memory will be put back when this is dropped, in bytes.
    #[inline]
    pub(super) fn bytes_to_reset(&self, blueprint: &Blueprint) -> usize {
        let base = self.guest.memory.data_ptr(&self.store);
        blueprint.home.bytes_to_zero(base, blueprint.first_bytes)
    }

    /// After a call that did not fail: puts its state back as it began, and returns how many bytes of
    /// memory that took. `None`: it cannot, since the memory grew.
    ///
    /// Only for an instance that was made for `reset`.
    #[inline]
    pub(super) fn reset(&mut self) -> Option<usize> {
        let snapshot = self.guest.snapshot.as_mut().expect("made for reset");
        snapshot.restore(&mut self.store)
    }
}

/// Why no instance could be made, which no answer says.
#[cold]
fn say_once(error: &wasmtime::Error) {
    static SAID: Once = Once::new();
    let error = Fault::host(error);
    SAID.call_once(|| tracing::warn!(%error, "no instance could be made: 503"));
}

impl Drop for Instance {
    fn drop(&mut self) {
        if !self.store.data_mut().end_growth() {
            // Lost, rather than lent as it is, and with it what was left behind.
            self.loans.lose();
            let empty = Store::new(self.store.engine(), Host::default());
            std::mem::forget(std::mem::replace(&mut self.store, empty));
        }
    }
}
