//! A module made ready to run in one engine, with all that can be known about it before a request.

use super::afterwards::Afterwards;
use super::artifact::Artifact;
use super::deadline::{Ticker, Watch, next_look};
use super::entry::EntryExport;
use super::home::Home;
use super::host::Host;
use super::image::Image;
use super::limits::{Limits, START_DEADLINE};
use super::load_error::Fault;
use super::snapshot::Snapshot;
use super::{Failure, Isolation, abi, growth, slice};
use std::io;
use std::sync::Arc;
use wasmtime::unix::StoreExt;
use wasmtime::{Engine, InstancePre, Linker, Memory, ModuleExport, Store, UpdateDeadline};

/// A module in an engine of its own.
pub(super) struct Blueprint {
    engine: Engine,
    pre: InstancePre<Host>,
    memory: ModuleExport,
    pub(super) handle: EntryExport,
    /// Address of the request area: a constant of the module, the same in every instance since
    /// there are no imports that it could depend on.
    pub(super) area: u32,
    /// What a memory begins with, before a start function that may grow it.
    pub(super) first_bytes: usize,
    /// What of it the host writes.
    image: Arc<Image>,
    pub(super) home: Home,
    pub(super) afterwards: Afterwards,
    /// For `reset`: what there is to put back.
    pub(super) state: Option<State>,
    limits: Limits,
}

/// What an instance has that its code may change.
pub(super) struct State {
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
    pub(super) fn instantiate(
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

    /// What interrupts guests of the calling thread, if anything may.
    ///
    /// # Errors
    /// See [`Ticker::start`].
    pub(super) fn ticker(&self) -> io::Result<Option<Ticker>> {
        let ticker = self.limits.is_interruptible();
        ticker.then(|| Ticker::start(&self.engine)).transpose()
    }

    pub(super) fn store(&self) -> Store<Host> {
        let mut store = Store::new(
            &self.engine,
            Host {
                watch: Watch::new(&self.limits),
                memory_bytes: self.limits.memory_bytes,
                table_entries: self.limits.table_entries,
                has_grown_tables: false,
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
    pub(super) fn snapshot(
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
