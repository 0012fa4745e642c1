//! What a completion is of, packed into the 64 bits that go with an entry and come back with its
//! completions.
//!
//! It deliberately does not know what an entry asks for, nor whether its token is still valid: whoever
//! takes the completion looks it up.

use crate::io::Token;

/// What a completion is of. In the top byte of its user data; the token has the rest.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    Accept,
    Wake,
    Timer,
    Receive,
    Send,
    Shutdown,
    Close,
    Cancel,
}

const KINDS: [Kind; 8] = [
    Kind::Accept,
    Kind::Wake,
    Kind::Timer,
    Kind::Receive,
    Kind::Send,
    Kind::Shutdown,
    Kind::Close,
    Kind::Cancel,
];

/// Tokens have 24 bits for their index here; a connection limit is far below.
pub(super) const INDEX_MASK: u32 = 0xff_ffff;

pub(super) fn pack(kind: Kind, token: Token) -> u64 {
    (kind as u64) << 56 | u64::from(token.index & INDEX_MASK) << 32 | u64::from(token.generation)
}

/// What a message that wakes completes.
pub(super) fn wake() -> u64 {
    pack(Kind::Wake, Token::LISTENER)
}

pub(super) fn unpack(user_data: u64) -> (Kind, Token) {
    let kind = KINDS[(user_data >> 56) as usize];
    let index = (user_data >> 32) as u32 & INDEX_MASK;
    (
        kind,
        Token {
            index,
            generation: user_data as u32,
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_completion_names_its_kind_and_token() {
        for kind in KINDS {
            let token = Token {
                index: 0xab_cdef,
                generation: u32::MAX,
            };
            let (unpacked, other) = unpack(pack(kind, token));
            assert!(unpacked == kind && other == token);
        }
    }
}
