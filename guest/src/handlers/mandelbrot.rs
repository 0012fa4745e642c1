//! `mandelbrot`: a picture of the set, in floating-point numbers.
//!
//! Additions and multiplications of 64-bit floats, rounded as IEEE 754 says, natively and in the
//! sandbox alike: the pictures are the same to the byte.

use super::number_within;
use crate::{Request, Response};

/// Pixels along each side of `/mandelbrot`.
const DEFAULT_SIZE: u32 = 64;
/// The largest picture: 64 KiB of pixels.
const MOST_SIZE: u32 = 256;
/// After so many steps a point that is still near is taken to be in the set.
const DEFAULT_STEPS: u32 = 100;
/// The most steps that are taken.
const MOST_STEPS: u32 = 100_000;

/// Answers `/mandelbrot?size=N&iterations=M` with a portable graymap (the netpbm project's `P5`) of
/// N by N pixels: the square of side 2.5 around −0.75. The set is black; what leaves it is the
/// darker the longer it stays, M steps at most. N is 64 and M 100 if they are missing. Answers 400
/// if N is not 1 to 256 or M not 1 to 100 000.
pub fn handle<'a>(request: &Request<'a>) -> Response<'a> {
    let size = number_within(request, "size", DEFAULT_SIZE, 1..=MOST_SIZE);
    let steps = number_within(request, "iterations", DEFAULT_STEPS, 1..=MOST_STEPS);
    let (Some(size), Some(steps)) = (size, steps) else {
        return Response::text(
            "mandelbrot takes ?size=N from 1 to 256 and &iterations=M from 1 to 100000\n",
        )
        .with_status(400);
    };
    let header = format!("P5\n{size} {size}\n255\n");
    let mut picture = Vec::with_capacity(header.len() + (size * size) as usize);
    picture.extend_from_slice(header.as_bytes());
    for row in 0..size {
        for column in 0..size {
            // The middle of the pixel.
            let along = |pixel: u32| (f64::from(pixel) + 0.5) / f64::from(size) * 2.5;
            let left = steps_left(along(column) - 2.0, along(row) - 1.25, steps);
            picture.push((u64::from(left) * 255 / u64::from(steps)) as u8);
        }
    }
    Response::bytes(picture).with_header_lines("content-type: image/x-portable-graymap\r\n")
}

/// How many of `steps` are left when z ← z² + c, from z = 0, leaves the circle of radius 2; 0 if it
/// does not.
fn steps_left(re: f64, im: f64, steps: u32) -> u32 {
    let (mut x, mut y) = (0.0, 0.0);
    for done in 0..steps {
        let (xx, yy) = (x * x, y * y);
        if xx + yy > 4.0 {
            return steps - done;
        }
        y = 2.0 * x * y + im;
        x = xx - yy + re;
    }
    0
}

#[cfg(test)]
mod tests {
    use super::super::check;
    use super::*;

    #[test]
    fn points_are_in_the_set_or_leave_it_when_they_should() {
        // In the main cardioid, at the centre of the circle beside it, and its tip.
        for (re, im) in [
            (0.0, 0.0),
            (-1.0, 0.0),
            (-2.0, 0.0),
            (0.25, 0.0),
            (0.0, 1.0),
        ] {
            assert_eq!(steps_left(re, im, 1000), 0, "{re} {im}");
        }
        // |z| is over 2 after one step, and after 1, 2, 5.
        assert_eq!(steps_left(2.1, 0.0, 100), 99);
        assert_eq!(steps_left(1.0, 0.0, 100), 97);
    }

    #[test]
    fn a_picture_has_its_header_and_its_pixels_and_is_symmetric() {
        let response = handle(&Request::new("GET", "/?size=20&iterations=50", &[], b""));
        let pixels = response
            .body()
            .strip_prefix(b"P5\n20 20\n255\n")
            .expect("the header");
        assert_eq!(pixels.len(), 400);
        let rows: Vec<&[u8]> = pixels.chunks(20).collect();
        assert!(rows.iter().eq(rows.iter().rev()));
        // The middle of the cardioid is black, the corners are white.
        assert_eq!((rows[10][14], rows[0][0]), (0, 249));
    }

    #[test]
    fn what_is_out_of_range_is_refused() {
        for query in [
            "size=0",
            "size=257",
            "size=",
            "iterations=0",
            "iterations=100001",
        ] {
            check(handle, &format!("/?{query}"), 400, "mandelbrot takes");
        }
    }
}
