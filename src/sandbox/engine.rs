//! Every switch of wasmtime that this program sets, with its reason.
//!
//! A module is compiled in one engine and runs in another (one a shard: a shared pool's locks
//! cost more than a call). Machine code fits both because both come from [`config`]; only where
//! instances live differs.

use super::limits::Limits;
use super::memories::Memories;
use super::reservation;
use std::sync::Arc;
use wasmtime::{
    Config, Engine, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig,
    ProfilingStrategy, Strategy,
};

/// Addresses that each memory has for itself, in bytes: all that 32 bits reach.
pub(super) const RESERVED_BYTES: usize = 1 << 32;

/// Tables of a module: compilers make one, hand-written modules a few.
pub(super) const TABLES: u32 = 4;

/// The most memory of one pool slot, and the most of its tables, that stays mapped in between two instances
/// and is put back by copying, whatever was written. Above it the kernel drops the pages, and the next
/// instance faults them in again.
const KEEP_RESIDENT_BYTES: usize = 256 * 1024;

/// How many bytes of a memory that starts with `memory_bytes` stay mapped in a pool's slot, and are put
/// back whatever was written.
pub(super) fn resident_bytes(memory_bytes: usize) -> usize {
    memory_bytes.min(KEEP_RESIDENT_BYTES)
}

/// An engine that compiles but runs nothing.
pub(super) fn compiling(limits: &Limits, data: Data) -> wasmtime::Result<Engine> {
    Engine::new(&config(limits, data))
}

/// How a module's data gets into an instance's memory. Part of the machine code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Data {
    /// Copied when the instance is made.
    Copied,
    /// Mapped, each page copied when it is first written.
    Mapped,
}

/// An engine whose instances come from a pool of [`Limits::instances`] slots. `memory_bytes` is
/// what the module's memory starts with.
///
/// # Errors
/// Each slot reserves somewhat over 4 GiB of addresses, without memory behind them: fails where
/// addresses are limited (RLIMIT_AS).
pub(super) fn pooling(
    limits: &Limits,
    data: Data,
    memory_bytes: usize,
) -> wasmtime::Result<Engine> {
    let slots = u32::try_from(limits.instances).unwrap_or(u32::MAX);
    let resident = resident_bytes(memory_bytes);
    let mut pool = PoolingAllocationConfig::new();
    pool.total_core_instances(slots)
        .total_memories(slots)
        .total_tables(slots.saturating_mul(TABLES))
        // An instance keeps its stack, so there are never more.
        .total_stacks(if limits.quantum.is_some() { slots } else { 0 })
        .max_memories_per_module(1)
        .max_tables_per_module(TABLES)
        .max_memory_size(limits.memory_bytes)
        .table_elements(limits.table_entries)
        // As much as the module starts with, so that a guest that never grows costs no system
        // call when its slot is put back.
        .linear_memory_keep_resident(resident)
        .table_keep_resident(KEEP_RESIDENT_BYTES.min(limits.table_entries * size_of::<usize>()));
    let mut config = config(limits, data);
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    if limits.perf_map {
        config.profiler(ProfilingStrategy::PerfMap);
    }
    Engine::new(&config)
}

/// An engine that maps each instance's memory when it is made and unmaps it when it is dropped. How
/// many there are is for the caller to bound.
pub(super) fn on_demand(limits: &Limits, data: Data) -> wasmtime::Result<Engine> {
    let mut config = on_the_heap(limits, data);
    // wasmtime maps data into memories of its own alone.
    if data == Data::Copied {
        config.with_host_memory(reservation::creator());
    }
    Engine::new(&config)
}

/// An engine whose instances are made on the heap and have memories of `memories`, into which their
/// data is copied. How many there are is for the caller to bound.
pub(super) fn lending(limits: &Limits, memories: &Arc<Memories>) -> wasmtime::Result<Engine> {
    let mut config = on_the_heap(limits, Data::Copied);
    config.with_host_memory(memories.creator());
    Engine::new(&config)
}

fn on_the_heap(limits: &Limits, data: Data) -> Config {
    let mut config = config(limits, data);
    config.allocation_strategy(InstanceAllocationStrategy::OnDemand);
    if limits.perf_map {
        config.profiler(ProfilingStrategy::PerfMap);
    }
    config
}

/// What decides about machine code, and so must be the same in all engines.
fn config(limits: &Limits, data: Data) -> Config {
    let mut config = Config::new();
    config
        .strategy(Strategy::Cranelift)
        .cranelift_opt_level(OptLevel::Speed)
        // The deadline and the quantum: see `deadline`.
        .epoch_interruption(limits.is_interruptible())
        .max_wasm_stack(limits.stack_bytes)
        // Guests that are run in slices have such a stack instead of the thread's, and need the same
        // room for what is not theirs, signal frames among it. Only what they touch is memory.
        .async_stack_size(limits.thread_stack_bytes())
        // A slot's memory grows in place, so its base address never changes.
        .memory_may_move(false)
        .memory_reservation(RESERVED_BYTES as u64)
        .memory_init_cow(data == Data::Mapped)
        // Failures are counted by class and nobody walks the guest's frames.
        .wasm_backtrace_max_frames(None)
        .generate_address_map(false)
        .native_unwind_info(false);

    // What compilers of Rust, C, Zig and AssemblyScript emit today stays on: SIMD, bulk memory,
    // multi-value, reference types, extended constant expressions. All else is off, since what is
    // not there cannot be attacked. Threads, GC, exceptions, function references and components
    // are not even compiled in.
    config
        .wasm_simd(true)
        .wasm_bulk_memory(true)
        .wasm_multi_value(true)
        .wasm_extended_const(true)
        .wasm_relaxed_simd(false)
        .wasm_tail_call(false)
        .wasm_multi_memory(false)
        .wasm_memory64(false)
        .wasm_custom_page_sizes(false)
        .wasm_wide_arithmetic(false)
        .wasm_stack_switching(false)
        .wasm_shared_everything_threads(false);
    config
}
