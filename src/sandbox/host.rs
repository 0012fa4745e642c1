//! What the host keeps beside an instance, in its store, and what it grants it while it runs.

use super::deadline::Watch;
use super::engine;
use super::failure::Refused;
use super::growth::Growth;
use wasmtime::ResourceLimiter;

/// What the host keeps beside an instance, or beside those that follow each other in a store.
#[derive(Default)]
pub(super) struct Host {
    /// None: nothing interrupts it.
    pub(super) watch: Option<Watch>,
    pub(super) memory_bytes: usize,
    /// What it has of it.
    pub(super) memory_now_bytes: usize,
    /// How it gets more, once the instance is made.
    pub(super) growth: Option<Growth>,
    pub(super) table_entries: usize,
    /// A table has more entries than it began with.
    pub(super) has_grown_tables: bool,
    /// What the guest was refused last during this request.
    pub(super) refused: Option<Refused>,
}

impl Host {
    /// The next request starts anew. (The first one's time includes the start function's.)
    pub(super) fn end_request(&mut self) {
        if let Some(watch) = &mut self.watch {
            watch.restart();
        }
        self.refused = None;
    }

    /// The instance grows no more: see [`Growth::end`].
    #[must_use]
    pub(super) fn end_growth(&mut self) -> bool {
        self.growth.as_mut().is_none_or(Growth::end)
    }
}

impl ResourceLimiter for Host {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        // Without a maximum of its own it is all that there are addresses for.
        let own = maximum.filter(|most| *most < engine::RESERVED_BYTES);
        let is_within_its_own = own.is_none_or(|most| desired <= most);
        let granted = is_within_its_own && desired <= self.memory_bytes;
        if granted {
            self.memory_now_bytes = desired;
            if let Some(growth) = &mut self.growth {
                let most_bytes = maximum.unwrap_or(usize::MAX).min(self.memory_bytes);
                growth.prepare(current, desired, most_bytes)?;
            }
        } else {
            self.refused = Some(match is_within_its_own {
                true => Refused::Memory,
                false => Refused::OwnMemory,
            });
        }
        Ok(granted)
    }

    /// The kernel, or the pool's slot, said no.
    fn memory_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        self.refused = Some(Refused::Memory);
        Ok(())
    }

    fn table_growing(
        &mut self,
        _current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        if desired > self.table_entries {
            self.refused = Some(Refused::Table);
            return Ok(false);
        }
        // A pool's tables have the host's limit as their maximum, if that is less.
        let is_within_its_own = maximum.is_none_or(|most| desired <= most);
        if !is_within_its_own {
            self.refused = Some(Refused::OwnTable);
        }
        let is_made = self.growth.is_some();
        self.has_grown_tables |= is_made && is_within_its_own;
        Ok(is_within_its_own)
    }

    /// Something else said no.
    fn table_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        self.refused = Some(Refused::Table);
        Ok(())
    }
}
