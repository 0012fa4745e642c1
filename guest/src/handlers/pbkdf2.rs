//! `pbkdf2`: a password made into a key with HMAC-SHA256, slow on purpose.
//!
//! What a login does: 32-bit arithmetic on a few hundred bytes, as often as is asked for.

use super::number_within;
use super::sha256::{DIGEST, Hmac};
use crate::{Request, Response};

/// Iterations of `/pbkdf2`: about a millisecond.
const DEFAULT: u32 = 1000;
/// The most iterations: some ten seconds.
const MOST: u32 = 10_000_000;

/// Answers `/pbkdf2?iterations=N&password=P&salt=S` with the key of 32 bytes (RFC 8018 section 5.2
/// with HMAC-SHA256), in hexadecimal digits. P and S are taken as they stand, nothing decoded, and
/// are `password` and `salt` if they are missing; N is 1000. Answers 400 if N is not 1 to
/// 10 000 000.
pub fn handle<'a>(request: &Request<'a>) -> Response<'a> {
    let password = request.query("password").unwrap_or("password");
    let salt = request.query("salt").unwrap_or("salt");
    match number_within(request, "iterations", DEFAULT, 1..=MOST) {
        Some(iterations) => {
            let key = derive(password.as_bytes(), salt.as_bytes(), iterations);
            Response::text(hex(&key) + "\n")
        }
        None => Response::text("pbkdf2 takes ?iterations=N, a whole number from 1 to 10000000\n")
            .with_status(400),
    }
}

/// The first block of PBKDF2, which is the whole of a key as long as a digest.
fn derive(password: &[u8], salt: &[u8], iterations: u32) -> [u8; DIGEST] {
    let hmac = Hmac::new(password);
    let mut code = hmac.code(&[salt, &1u32.to_be_bytes()]);
    let mut key = code;
    for _ in 1..iterations {
        code = hmac.code(&[&code]);
        for (byte, other) in key.iter_mut().zip(code) {
            *byte ^= other;
        }
    }
    key
}

pub(super) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = |byte: &u8| {
        [
            DIGITS[usize::from(byte >> 4)],
            DIGITS[usize::from(byte & 15)],
        ]
    };
    let mut text = String::with_capacity(2 * bytes.len() + 1);
    text.extend(bytes.iter().flat_map(digits).map(char::from));
    text
}

#[cfg(test)]
mod tests {
    use super::super::check;
    use super::*;

    /// RFC 7914 section 11; its keys are of 64 bytes, of which these are the first 32.
    #[test]
    fn known_keys() {
        let key = "55ac046e56e3089fec1691c22544b605f94185216dde0465e68b9d57c20dacbc";
        check(
            handle,
            "/?password=passwd&salt=salt&iterations=1",
            200,
            &format!("{key}\n"),
        );
        let key = "4ddcd8f60b98be21830cee5ef22701f9641a4418d04c0414aeff08876b34ab56";
        check(
            handle,
            "/?password=Password&salt=NaCl&iterations=80000",
            200,
            &format!("{key}\n"),
        );
        // The widely published one for `password` and `salt`.
        let key = derive(b"password", b"salt", 4096);
        assert_eq!(
            hex(&key),
            "c5e478d59288c841aa530db6845c4c8d962893a001ce4e11a4963873aa98134a"
        );
    }

    #[test]
    fn what_is_missing_has_a_default() {
        let explicit = "/?password=password&salt=salt&iterations=1000";
        let (_, _, key) = super::super::get(handle, explicit);
        check(handle, "/pbkdf2", 200, &key);
    }

    #[test]
    fn iterations_out_of_range_are_refused() {
        for n in ["", "0", "x", "10000001"] {
            check(
                handle,
                &format!("/?iterations={n}"),
                400,
                "pbkdf2 takes ?iterations=N",
            );
        }
    }
}
