//! Where the instances of one engine have their memories.

use super::Isolation;
use super::artifact::Artifact;
use super::engine::{self, Data};
use super::limits::Limits;
use super::memories::{Memories, RESIDENT_BYTES};
use std::sync::Arc;
use wasmtime::Engine;

/// What an engine's memories come from and go back to.
pub(super) enum Home {
    /// Each is mapped for its instance and unmapped after it.
    OnDemand,
    /// They are lent, and what was written is zeroed in between.
    Memories(Arc<Memories>),
    /// wasmtime's pool, which also has stacks, for guests that run in slices, and puts a whole memory back
    /// whatever was written.
    Pool,
}

impl Home {
    /// Of instances of the module of `artifact`.
    pub(super) fn of(isolation: Isolation, artifact: &Artifact, limits: &Limits) -> Home {
        let data = artifact.data();
        let is_whole = limits.quantum.is_none();
        match isolation {
            // A pool puts a memory back by writing to it, which `reset` protects against writing.
            Isolation::Reset | Isolation::OnDemand => Home::OnDemand,
            Isolation::Reuse | Isolation::Fresh if is_whole && data == Data::Copied => {
                let watches = isolation == Isolation::Fresh;
                let image = Arc::clone(artifact.image());
                Home::Memories(Memories::new(
                    limits.instances,
                    image,
                    RESIDENT_BYTES,
                    watches,
                ))
            }
            Isolation::Native | Isolation::Reuse | Isolation::Fresh => Home::Pool,
        }
    }

    /// An engine for a module whose memory starts with `memory_bytes`.
    ///
    /// # Errors
    /// The host cannot make the pool.
    pub(super) fn engine(
        &self,
        limits: &Limits,
        data: Data,
        memory_bytes: usize,
    ) -> wasmtime::Result<Engine> {
        match self {
            Home::OnDemand => engine::on_demand(limits, data),
            Home::Memories(memories) => engine::lending(limits, memories),
            Home::Pool => engine::pooling(limits, data, memory_bytes),
        }
    }

    /// What lends memories and watches what is written there, if anything does.
    pub(super) fn watched(&self) -> Option<&Arc<Memories>> {
        match self {
            Home::Memories(memories) => Some(memories).filter(|memories| memories.watches()),
            Home::OnDemand | Home::Pool => None,
        }
    }

    /// Whether a memory from here comes with the image of [`Artifact::image`] in it.
    pub(super) fn has_image(&self) -> bool {
        matches!(self, Home::Memories(_))
    }

    /// How many bytes are put back by writing when an instance goes whose memory begins with `first_bytes`
    /// and lies at `base`. What the kernel drops and maps anew is in none of it.
    pub(super) fn bytes_to_zero(&self, base: *const u8, first_bytes: usize) -> usize {
        match self {
            Home::OnDemand => 0,
            Home::Memories(memories) => memories.bytes_to_zero(base),
            Home::Pool => engine::resident_bytes(first_bytes),
        }
    }
}
