//! A module made ready to run in one engine, and one running copy of it.

use super::afterwards::Afterwards;
use super::artifact::Artifact;
use super::deadline::{Ticker, Watch, next_look};
use super::entry::{Entry, EntryExport};
use super::first_bytes::FirstBytes;
use super::growth::Growth;
use super::home::Home;
use super::host::Host;
use super::image::Image;
use super::limits::{Limits, START_DEADLINE};
use super::load_error::Fault;
use super::memories::Memories;
use super::snapshot::Snapshot;
use super::{Answer, Call, Failure, Isolation, abi, engine, growth, slice};
use crate::measure::counter::Counter;
use crate::measure::probe::{Probe, Stage};
use std::io;
use std::pin::Pin;
use std::ptr::NonNull;
use std::sync::{Arc, Once};
use wasmtime::unix::StoreExt;
use wasmtime::{Engine, InstancePre, Linker, Memory, ModuleExport, Store, UpdateDeadline};

/// A module in an engine of its own, with all that can be known about it before a request.
pub(super) struct Blueprint {
    engine: Engine,
    pre: InstancePre<Host>,
    memory: ModuleExport,
    handle: EntryExport,
    /// Address of the request area: a constant of the module, the same in every instance since
    /// there are no imports that it could depend on.
    area: u32,
    /// What a memory begins with, before a start function that may grow it.
    first_bytes: usize,
    /// What of it the host writes.
    image: Arc<Image>,
    home: Home,
    afterwards: Afterwards,
    /// For `reset`: what there is to put back.
    state: Option<State>,
    limits: Limits,
}

/// What an instance has that its code may change.
struct State {
    globals: Vec<ModuleExport>,
    /// The memory as an instance begins.
    image: Arc<[u8]>,
    /// No start function makes one begin otherwise than another.
    is_alike: bool,
}

impl Blueprint {
    /// Loads `artifact` into a new engine, and tries one instance.
    ///
    /// # Errors
    /// What only an instance shows: its start function fails, or its request area lies outside
    /// its memory. Or the host cannot make the pool.
    pub(super) fn new(
        artifact: &Artifact,
        isolation: Isolation,
        limits: &Limits,
    ) -> Result<Blueprint, Fault> {
        let home = Home::of(isolation, artifact, limits);
        Blueprint::at(home, artifact, isolation, limits)
    }

    /// Tries one instance of `artifact` in wasmtime's pool, which refuses more than others do.
    ///
    /// # Errors
    /// As for [`Blueprint::new`].
    pub(super) fn try_in_pool(artifact: &Artifact, limits: &Limits) -> Result<(), Fault> {
        Blueprint::at(Home::Pool, artifact, Isolation::Reuse, limits).map(drop)
    }

    fn at(
        home: Home,
        artifact: &Artifact,
        isolation: Isolation,
        limits: &Limits,
    ) -> Result<Blueprint, Fault> {
        growth::look_for_huge_pages();
        let afterwards = Afterwards::of(isolation);
        let memory_bytes = artifact.memory_bytes();
        let limits = &limits.for_memory_of(memory_bytes);
        let engine = home.engine(limits, artifact.data(), memory_bytes);
        let engine = engine.map_err(|error| Fault::host(&error))?;
        let module = artifact
            .load_into(&engine)
            .map_err(|error| Fault::invalid(&error))?;
        let export = |name| module.get_export_index(name).expect("found when compiled");
        let (memory, area) = (export(abi::MEMORY), export(abi::AREA));
        let handle = EntryExport::of(&module, abi::HANDLE).expect("checked when compiled");
        let state = (afterwards == Afterwards::Reset).then(|| State {
            globals: artifact
                .changing_globals()
                .iter()
                .map(|name| export(name))
                .collect(),
            image: Arc::default(),
            is_alike: !artifact.has_start(),
        });
        let pre = Linker::new(&engine)
            .instantiate_pre(&module)
            .map_err(|error| Fault::invalid(&error))?;
        let mut blueprint = Blueprint {
            engine,
            pre,
            memory,
            handle,
            area: 0,
            first_bytes: memory_bytes,
            image: Arc::clone(artifact.image()),
            home,
            afterwards,
            state,
            limits: limits.clone(),
        };
        blueprint.try_out(&area)?;
        Ok(blueprint)
    }

    /// Makes an instance, under the deadline and [`START_DEADLINE`], and notes where its request area is
    /// and how its memory begins.
    fn try_out(&mut self, area: &ModuleExport) -> Result<(), Fault> {
        let _ticker = self
            .ticker()
            .map_err(|error| Fault::Host(error.to_string()))?;
        let mut store = self.store();
        if let Some(watch) = &mut store.data_mut().watch {
            watch.shorten(START_DEADLINE);
        }
        let (instance, memory) = self
            .instantiate(&mut store)
            .map_err(|error| Fault::start(&error, store.data().refused))?;
        let area = instance
            .get_module_export(&mut store, area)
            .and_then(|export| export.into_global())
            .and_then(|global| global.get(&mut store).i32())
            .expect("checked when compiled")
            .cast_unsigned();
        // Of a memory that grows, what grew may be watched otherwise than its first bytes, or not at all.
        let first_bytes = &memory.data(&store)[..self.first_bytes];
        abi::check_area(first_bytes, area).map_err(Fault::Area)?;
        self.area = area;
        if let Some(state) = &mut self.state {
            state.image = memory.data(&store).into();
        }
        Ok(())
    }

    /// Makes an instance in `store`, and runs the module's start function, if it has one.
    fn instantiate(
        &self,
        store: &mut Store<Host>,
    ) -> wasmtime::Result<(wasmtime::Instance, Memory)> {
        let instance = self.pre.instantiate(&mut *store)?;
        let memory = instance
            .get_module_export(&mut *store, &self.memory)
            .and_then(|export| export.into_memory())
            .expect("checked when compiled");
        if !self.home.has_image() {
            self.image.write(memory.data_mut(store));
        }
        Ok((instance, memory))
    }

    /// What becomes of its instances when they have answered.
    #[inline]
    pub(super) fn afterwards(&self) -> Afterwards {
        self.afterwards
    }

    /// What interrupts guests of the calling thread, if anything may.
    ///
    /// # Errors
    /// See [`Ticker::start`].
    pub(super) fn ticker(&self) -> io::Result<Option<Ticker>> {
        let ticker = self.limits.is_interruptible();
        ticker.then(|| Ticker::start(&self.engine)).transpose()
    }

    fn store(&self) -> Store<Host> {
        let mut store = Store::new(
            &self.engine,
            Host {
                watch: Watch::new(&self.limits),
                memory_bytes: self.limits.memory_bytes,
                table_entries: self.limits.table_entries,
                memory_now_bytes: 0,
                growth: None,
                refused: None,
            },
        );
        store.limiter(|host| host);
        if self.limits.is_interruptible() {
            store.epoch_deadline_callback(|mut store| {
                let host = store.data_mut();
                let watch = host.watch.as_mut();
                let update = watch.map_or(UpdateDeadline::Interrupt, Watch::tick);
                if matches!(update, UpdateDeadline::Yield(_)) {
                    slice::note_held(host.memory_now_bytes);
                }
                Ok(update)
            });
            store.set_epoch_deadline(next_look());
        }
        if let Some(memories) = self.home.watched() {
            let memories = Arc::clone(memories);
            let on_signal = move |signal, info: *const libc::siginfo_t, _context| {
                // SAFETY: wasmtime hands on what the kernel gave its handler, and SIGSEGV has an
                // address.
                signal == libc::SIGSEGV && memories.on_fault(unsafe { (*info).si_addr() }.addr())
            };
            // SAFETY: `on_signal` is async-signal-safe as `Memories::on_fault` is: no lock, no
            // allocation, one system call.
            unsafe { store.set_signal_handler(on_signal) };
        }
        store
    }
}

impl State {
    /// # Errors
    /// The kernel refuses to protect the memory.
    fn snapshot(
        &self,
        store: &mut Store<Host>,
        instance: &wasmtime::Instance,
        memory: Memory,
    ) -> Result<Snapshot, Failure> {
        let mut globals = Vec::with_capacity(self.globals.len());
        for export in &self.globals {
            let global = instance.get_module_export(&mut *store, export);
            globals.push(
                global
                    .and_then(|export| export.into_global())
                    .expect("a global"),
            );
        }
        Snapshot::take(store, memory, &globals, &self.image, self.is_alike)
            .map_err(|_| Failure::Exhausted)
    }
}

/// A guest on its way through a request: the instance, and what it returned in the end.
pub(super) type Running = Pin<Box<dyn Future<Output = (Box<Instance>, wasmtime::Result<u32>)>>>;

/// One running copy of a module: a store, its memory, its code's entry.
///
/// Boxed, since it goes from hand to hand: into a slot, a lease, a fiber and back, at some ten
/// nanoseconds each time for some hundred bytes.
pub(super) struct Instance {
    store: Store<Host>,
    memory: Memory,
    first_bytes: FirstBytes,
    handle: Entry,
    area: u32,
    /// For `reset`: how it began.
    snapshot: Option<Snapshot>,
    /// For `fresh`: where its memory is from, if not from wasmtime's pool.
    memories: Option<Arc<Memories>>,
}

impl Instance {
    /// Takes a slot of the pool, or maps memory, and runs the module's start function, if it has one.
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
        let handle = blueprint
            .handle
            .find(&instance, &mut store, !blueprint.afterwards.is_once())
            .expect("it is this module's");
        let snapshot = match &blueprint.state {
            Some(state) => Some(state.snapshot(&mut store, &instance, memory)?),
            None => None,
        };
        // SAFETY: our engines never move a memory, and the store goes where this goes.
        let first_bytes = unsafe { FirstBytes::of(memory, &mut store, blueprint.first_bytes) };
        let base = NonNull::new(memory.data_ptr(&store)).expect("a memory has an address");
        // SAFETY: our engines reserve so much for each memory, between guards, and open what it has of
        // it; `Drop` ends this before the store.
        let growth = unsafe { Growth::of(base, memory.data_size(&store), engine::RESERVED_BYTES) };
        store.data_mut().growth = Some(growth);
        Ok(Box::new(Instance {
            store,
            memory,
            first_bytes,
            handle,
            area: blueprint.area,
            snapshot,
            memories: blueprint.home.watched().cloned(),
        }))
    }

    /// All of its linear memory.
    pub(super) fn memory(&self) -> &[u8] {
        self.memory.data(&self.store)
    }

    /// Lets the guest answer `call`. The answer is lent out of guest memory. Bytes of the request are
    /// `copied` into it.
    ///
    /// # Errors
    /// All but [`Failure::RequestTooLarge`] leave the instance in an unknown state, such as a
    /// displaced stack pointer after a trap: it must not be called again, or after
    /// [`Failure::ResponseTooLarge`] only if it is put back as it began.
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
        self.handle.call(&mut self.store, length)
    }

    /// Has the guest begin with the request of `length` that was written, on a stack of its own: the
    /// future runs a slice each time it is polled. Dropping it ends the guest where it stands.
    pub(super) fn begin(mut self: Box<Self>, length: u32) -> Running {
        // A tick that came before is nothing to this guest, which would be suspended for it.
        self.store.set_epoch_deadline(next_look());
        Box::pin(async move {
            let returned = self.handle.call_in_slices(&mut self.store, length).await;
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
        if self.snapshot.is_some() || self.memories.is_some() {
            self.make_writable(call).map_err(|_| Failure::Exhausted)?;
        }
        let memory = self.first_bytes.write(&mut self.store);
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
        let range = abi::request_range(self.first_bytes.read(&self.store), self.area, call);
        let range = range.unwrap_or_default();
        match (&self.snapshot, &self.memories) {
            (Some(snapshot), _) => snapshot.make_writable(range),
            (None, Some(memories)) => {
                memories.make_writable(self.memory.data_ptr(&self.store), range)
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
        match abi::read_answer(self.first_bytes.read(&self.store), record, limits) {
            // Perhaps in what it grew.
            Err(_) => abi::read_answer(self.memory(), record, limits),
            answer => answer,
        }
    }

    /// What of its memory will be put back when this is dropped, in bytes.
    #[inline]
    pub(super) fn bytes_to_reset(&self, blueprint: &Blueprint) -> usize {
        let base = self.memory.data_ptr(&self.store);
        blueprint.home.bytes_to_zero(base, blueprint.first_bytes)
    }

    /// After a call that did not fail: puts its state back as it began, and returns how many bytes of
    /// memory that took. `None`: it cannot, since the memory grew.
    ///
    /// Only for an instance that was made for `reset`.
    #[inline]
    pub(super) fn reset(&mut self) -> Option<usize> {
        let snapshot = self.snapshot.as_mut().expect("made for reset");
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
        let Some(growth) = &mut self.store.data_mut().growth else {
            return;
        };
        if !growth.end() {
            // Lost, rather than lent as it is.
            let empty = Store::new(self.store.engine(), Host::default());
            std::mem::forget(std::mem::replace(&mut self.store, empty));
        }
    }
}
