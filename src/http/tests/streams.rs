//! Whole streams: bounded whatever comes, and the same however they are cut.

use super::*;

/// Whatever is sent, in reads of whatever size, what is carried stays within the bound, which
/// [`Peer::note_carried`] asserts; and the bound is not a wild guess.
#[test]
fn the_carry_is_bounded() {
    let line = format!("GET /{} HTTP/1.1\r\n", "t".repeat(39));
    let block = format!(
        "transfer-encoding: chunked\r\nhost: a\r\nx: {}",
        "y".repeat(153)
    );
    let body = format!("32;\r\n{}\r\n", "b".repeat(50));
    let extension = format!("0;{}", "x".repeat(254));
    let wires = [
        "x".repeat(1000),
        "\r\n".repeat(1000),
        format!("{line}{}", "x".repeat(1000)),
        format!("{line}{}", "x: y\r\n".repeat(1000)),
        format!("{line}{block}\r\n\r\n{body}{extension}"),
        format!(
            "{line}{block}\r\n\r\n{}",
            "1;aaaaaaaaaaaaa\r\nb\r\n".repeat(40)
        ),
        chunked(&format!("{body}0\r\nt: {}", "t".repeat(1000))),
        chunked(&format!("{body}0\r\n{}", "t: t\r\n".repeat(1000))),
    ];
    let mut carried_max = 0;
    for wire in &wires {
        for read in [1, 7, 64, 1000] {
            let mut peer = Peer::new(SMALL);
            wire.as_bytes()
                .chunks(read)
                .for_each(|bytes| peer.read(bytes));
            carried_max = carried_max.max(peer.carried_max);
        }
    }
    let bound = SMALL.carry_bytes();
    assert!(carried_max > bound - bound / 8, "{carried_max} of {bound}");
}

/// A decoder is kept for every connection, also the idle ones.
#[test]
fn the_decoder_is_small() {
    assert!(size_of::<Decoder>() <= 160, "{}", size_of::<Decoder>());
}

/// Marsaglia's xorshift64: enough disorder for a test, and the seed gives the same run again.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        // Zero is the one state that never changes; small seeds take a few steps to mix.
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        for _ in 0..8 {
            random.below(1);
        }
        random
    }

    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) as usize % bound
    }

    fn pick<'a, T: ?Sized>(&mut self, from: &[&'a T]) -> &'a T {
        from[self.below(from.len())]
    }

    /// Cuts `wire` at random places, mostly into a few large parts or into many small ones.
    fn cut<'a>(&mut self, mut wire: &'a [u8]) -> Vec<&'a [u8]> {
        let longest = [4, 40, 400, 4000][self.below(4)];
        let mut reads = Vec::new();
        while !wire.is_empty() {
            let (read, rest) = wire.split_at((1 + self.below(longest)).min(wire.len()));
            reads.push(read);
            wire = rest;
        }
        reads
    }

    /// A valid request of any kind, and how [`render`] shows it.
    fn request(&mut self, number: usize) -> (String, String) {
        let method = self.pick(&["GET", "POST", "HEAD", "PUT", "X-own"]);
        let connection = self.pick(&["", "Connection: keep-alive\r\n", "connection: x\r\n"]);
        let field = self.pick(&["", "x: y\r\n", "cookie: a=b; c=d; e=f\r\naccept: */*\r\n"]);
        let stray = self.pick(&["", "", "", "\r\n"]);
        let body: String = (0..self.below(80))
            .map(|i| (b'a' + (i % 26) as u8) as char)
            .collect();
        let (framing, sent, body) = match self.below(3) {
            0 => ("", String::new(), String::new()),
            1 => ("length", body.clone(), body),
            _ => {
                let mut sent = String::new();
                for read in self.cut(body.as_bytes()) {
                    let extension = self.pick(&["", ";a", " ; a=\"b\""]);
                    let data = str::from_utf8(read).unwrap();
                    sent += &format!("{:x}{extension}\r\n{data}\r\n", data.len());
                }
                sent += self.pick(&["0\r\n\r\n", "00;x\r\nt: t\r\n\r\n"]);
                ("chunked", sent, body)
            }
        };
        let framing = match framing {
            "length" => format!("Content-Length: {}\r\n", body.len()),
            "chunked" => "Transfer-Encoding: chunked\r\n".to_owned(),
            _ => String::new(),
        };
        (
            format!(
                "{stray}{method} /{number} HTTP/1.1\r\n{field}Host: a:80\r\n{framing}{connection}\r\n{sent}"
            ),
            format!("{method} /{number} 1.1 keep-alive {}:{body}", body.len()),
        )
    }

    /// A stream of `count` valid requests, and how [`render`] shows them.
    fn stream(&mut self, count: usize) -> (Vec<u8>, Vec<String>) {
        let (wires, shown): (Vec<_>, Vec<_>) = (0..count).map(|n| self.request(n)).unzip();
        (wires.concat().into_bytes(), shown)
    }
}

#[test]
fn valid_streams_cut_at_random() {
    for seed in 0..200 {
        let mut random = Random::new(seed);
        let (wire, requests) = random.stream(50);
        let expected = Outcome {
            requests,
            end: End::Waiting(Waiting::Request),
        };
        let limits = Limits::default();
        assert_eq!(feed(limits, [&wire[..]]), expected, "seed {seed}, whole");
        assert_eq!(feed(limits, random.cut(&wire)), expected, "seed {seed}");
    }
}

/// Damaged streams do not panic, stay within the carry's bound, and come to the same end however
/// they are cut, with limits low enough to be met.
#[test]
fn damaged_streams_cut_at_random() {
    let splinters: [&[u8]; 16] = [
        b"\r", b"\n", b"\r\n", b"\r\n\r\n", b"\0", b" ", b":", b"0", b"ff", b";", b",", b"\xff",
        b"HTTP/2.0", b"content-length: 3\r\n", b"transfer-encoding: chunked\r\n",
        b"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
    ];
    let mut rejected = 0;
    for seed in 0..2000 {
        let mut random = Random::new(seed);
        let (mut wire, _) = random.stream(4);
        for _ in 0..random.below(4) {
            let at = random.below(wire.len());
            match random.below(4) {
                0 => wire[at] = random.below(256) as u8,
                1 => drop(wire.remove(at)),
                2 => drop(wire.splice(at..at, random.pick(&splinters).iter().copied())),
                _ => wire.truncate(at.max(1)),
            }
        }
        let outcome = decode_all_ways(&wire, SMALL);
        let cut = random.cut(&wire);
        assert_eq!(
            feed(SMALL, cut),
            outcome,
            "seed {seed}: {}",
            wire.escape_ascii()
        );
        rejected += usize::from(matches!(outcome.end, End::Rejected { .. }));
    }
    // Neither all nor none, or the test would be about something else.
    assert!((500..1900).contains(&rejected), "{rejected} rejected");
}
