//! What becomes of an instance when it has answered, or failed to: the last step of a request, by which the
//! isolations differ.

use super::blueprint::Blueprint;
use super::instance::Instance;
use super::{Answer, Failure, Isolation};
use crate::measure::counter::Counter;

/// What becomes of an instance that answered.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Afterwards {
    /// The next request gets it as it is.
    Keep,
    /// The next request gets it as it began.
    Reset,
    /// The next request gets another.
    Discard,
}

impl Afterwards {
    pub(super) fn of(isolation: Isolation) -> Afterwards {
        match isolation {
            Isolation::Reuse => Afterwards::Keep,
            Isolation::Reset => Afterwards::Reset,
            // A native one has no instances.
            Isolation::Native | Isolation::Fresh | Isolation::OnDemand => Afterwards::Discard,
        }
    }

    /// Whether an instance answers one request only.
    pub(super) fn is_once(self) -> bool {
        self == Afterwards::Discard
    }

    /// Whether the instance that came to this is in a known state: a request that was never written did it
    /// no harm, and any other failure may have. What is in none is not put back.
    ///
    /// One whose answer is valid but for its length is in a known state too, once it is put back: the length
    /// is the host's limit and not the guest's. As it is, the next request would get what this one left, and
    /// perhaps be too large itself.
    #[inline]
    pub(super) fn spares(self, answer: &Result<Answer<'_>, Failure>) -> bool {
        match answer {
            Ok(_) | Err(Failure::RequestTooLarge) => true,
            Err(Failure::ResponseTooLarge | Failure::HeaderLinesTooLarge) => {
                self == Afterwards::Reset
            }
            Err(_) => false,
        }
    }

    /// Makes an instance ready for the next request, if it is `unharmed` and may have one, or its store may
    /// have the next one. False: it must go. Counts what is put back, now or when the store goes.
    #[inline]
    pub(super) fn keeps(
        self,
        instance: &mut Instance,
        unharmed: bool,
        blueprint: &Blueprint,
        reset_bytes: &Counter,
    ) -> bool {
        let (kept, bytes) = match self {
            Afterwards::Keep if unharmed => return true,
            Afterwards::Reset if unharmed => match instance.reset() {
                Some(bytes) => (true, bytes),
                None => (false, instance.bytes_to_reset(blueprint)),
            },
            Afterwards::Discard if unharmed => {
                let bytes = instance.bytes_to_reset(blueprint);
                (instance.leave(bytes), bytes)
            }
            _ => (false, instance.bytes_to_reset(blueprint)),
        };
        reset_bytes.add(bytes as u64);
        kept
    }
}
