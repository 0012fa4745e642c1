//! What the peers of a simulated run ask for, and every byte that they must get: written down here
//! anew, and not with the server's own code.

use rand::RngExt;
use rand::rngs::StdRng;

use crate::io::simulated::network::{Script, Step};

/// The date of every answer, and the time of day that goes with it.
pub const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
pub const DATE_S: u64 = 784_111_777;

/// The longest body that is sent, so also the longest answer's.
pub const BODY_BYTES: usize = 40_000;

/// No words of the server's own are longer, its answer's head included.
const WORDS_BYTES: usize = 300;

const MS_NS: u64 = 1_000_000;

/// A peer's visit.
#[derive(Clone, Debug)]
pub struct Visit {
    pub script: Script,
    pub answers: Vec<Answer>,
    /// What comes after the last answer: the server's own words to a peer in the wrong.
    pub reject: Vec<u8>,
    /// It reads everything in good time, and does not leave before.
    pub stays: bool,
}

/// The answer to a request.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Where the request ends among the bytes that the peer sends.
    pub due: usize,
    pub bytes: Vec<u8>,
    /// The same if the server ends the connection with it.
    pub last: Vec<u8>,
}

/// A request of its own kind each, and its answer.
struct Request {
    head: String,
    body: Vec<u8>,
    /// Its head asks for `100 Continue`, and its body waits for that.
    waits: bool,
    answer: Vec<u8>,
    last: Vec<u8>,
}

pub const CONTINUE: &str = "HTTP/1.1 100 Continue\r\n\r\n";

fn answer(media_type: &str, body: &[u8], with_body: bool, ending: &str) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 200 OK\r\nserver: ringlab\r\ndate: {DATE}\r\ncontent-type: {media_type}\r\n\
         content-length: {}\r\n{ending}\r\n",
        body.len()
    );
    let body = if with_body { body } else { &[] };
    [head.as_bytes(), body].concat()
}

/// What the server says of its own accord before it closes.
pub fn reject(status: &str, more: &str, sentence: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 {status}\r\nserver: ringlab\r\ndate: {DATE}\r\ncontent-type: text/plain\r\n{more}\
         content-length: {}\r\nconnection: close\r\n\r\n{sentence}\n",
        sentence.len() + 1
    )
    .into_bytes()
}

/// How long the bodies of a visit are.
#[derive(Clone, Copy)]
enum Bodies {
    Any,
    Short,
    Long,
}

/// Bytes that tell where they stand, and in which request.
fn body(random: &mut StdRng, bodies: Bodies) -> Vec<u8> {
    let length = match (bodies, random.random_range(0..10)) {
        (Bodies::Short, _) => random.random_range(0..200),
        (Bodies::Long, _) => random.random_range(BODY_BYTES / 2..=BODY_BYTES),
        (Bodies::Any, 0..5) => random.random_range(0..100),
        (Bodies::Any, 5..9) => random.random_range(0..5_000),
        (Bodies::Any, _) => random.random_range(0..=BODY_BYTES),
    };
    let salt = random.random_range(0..251);
    (0..length).map(|at| ((at + salt) % 251) as u8).collect()
}

fn request(random: &mut StdRng, bodies: Bodies, last: bool) -> Request {
    let mut body = body(random, bodies);
    let (mut fields, mut media_type) = (String::new(), "application/octet-stream");
    if random.random_ratio(1, 3) {
        media_type = "text/x-simulated";
        fields = format!("Content-Type: {media_type}\r\n");
    }
    let mut ending = "";
    let mut version = "1.1";
    if last {
        fields += "Connection: close\r\n";
        ending = "connection: close\r\n";
    } else if random.random_ratio(1, 8) {
        version = "1.0";
        fields += "Connection: keep-alive\r\n";
        ending = "connection: keep-alive\r\n";
    }
    let method = match random.random_range(0..6) {
        0 => "HEAD",
        1 => "GET",
        _ => "POST",
    };
    if method == "GET" {
        body.clear();
    }
    let answered = |ending| answer(media_type, &body, method != "HEAD", ending);
    let (answer, last) = (answered(ending), answered("connection: close\r\n"));
    let waits = version == "1.1" && method == "POST" && !body.is_empty();
    let waits = waits && random.random_ratio(1, 8);
    if waits {
        fields += "Expect: 100-continue\r\n";
    }
    if version == "1.1" && method == "POST" && random.random_ratio(1, 3) {
        fields += "Transfer-Encoding: chunked\r\n";
        body = chunked(random, &body);
    } else if method != "GET" {
        fields += &format!("Content-Length: {}\r\n", body.len());
    }
    Request {
        head: format!("{method} /simulated HTTP/{version}\r\nHost: lab\r\n{fields}\r\n"),
        body,
        waits,
        answer,
        last,
    }
}

fn chunked(random: &mut StdRng, body: &[u8]) -> Vec<u8> {
    let mut wire = Vec::new();
    for chunk in body.chunks(random.random_range(16..2_000)) {
        wire.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
        wire.extend(chunk);
        wire.extend(b"\r\n");
    }
    wire.extend(b"0\r\n\r\n");
    wire
}

/// What is written, request by request.
#[derive(Default)]
struct Wire {
    steps: Vec<Step>,
    sent: usize,
    due: usize,
}

impl Wire {
    /// Sends `bytes`, in parts with rests between them: short ones, so that no deadline passes.
    fn send(&mut self, random: &mut StdRng, bytes: &[u8]) {
        self.sent += bytes.len();
        let parts = match random.random_range(0..8) {
            0 if bytes.len() < 100 => bytes.len(),
            1..4 => random.random_range(1..8),
            _ => 1,
        };
        let length = bytes.len().div_ceil(parts.max(1)).max(1);
        for part in bytes.chunks(length) {
            self.steps.push(Step::Send(part.to_vec()));
            if parts > 1 {
                let rest_ns = random.random_range(0..4 * MS_NS);
                self.steps.push(Step::Rest(rest_ns));
            }
        }
    }

    /// Goes on when all answers so far have come.
    fn wait(&mut self) {
        self.steps.push(Step::Await(self.due));
    }
}

/// What becomes of a visit after its last whole request.
#[derive(Clone, Copy)]
enum End {
    HalfClose,
    WaitAndClose,
    AskToClose,
    Idle,
    Reset,
    FinWithin,
    StallInHead,
    StallInBody,
    Nonsense,
    NeverRead,
    CrawlingRead,
}

const ENDS: [End; 16] = [
    End::HalfClose,
    End::HalfClose,
    End::WaitAndClose,
    End::WaitAndClose,
    End::WaitAndClose,
    End::AskToClose,
    End::AskToClose,
    End::Idle,
    End::Reset,
    End::Reset,
    End::FinWithin,
    End::StallInHead,
    End::StallInBody,
    End::Nonsense,
    End::NeverRead,
    End::CrawlingRead,
];

const POST: &str = "POST /stalled HTTP/1.1\r\nHost: lab\r\nContent-Length: 100\r\n\r\n";

/// A visit of any kind.
pub fn visit(random: &mut StdRng) -> Visit {
    let end = ENDS[random.random_range(0..ENDS.len())];
    // Long pipelines are more than the session and the connection hold together.
    let (requests, bodies) = match random.random_range(0..20) {
        0 => (random.random_range(1..400), Bodies::Short),
        1 | 2 => (random.random_range(20..150), Bodies::Long),
        _ => (random.random_range(0..12), Bodies::Any),
    };
    let mut wire = Wire::default();
    let mut answers = Vec::new();
    let waits_for_each = random.random_ratio(1, 3);
    for nth in 0..requests {
        let last = matches!(end, End::AskToClose) && nth + 1 == requests;
        let Request {
            head,
            body,
            waits,
            answer,
            last,
        } = request(random, bodies, last);
        let reads = !matches!(end, End::NeverRead | End::CrawlingRead);
        let mut told = Vec::new();
        if waits && reads {
            wire.send(random, head.as_bytes());
            told = CONTINUE.into();
            wire.due += CONTINUE.len();
            wire.wait();
            wire.send(random, &body);
        } else if waits {
            // It goes on at once, and may be told to all the same.
            let head = head.replace("Expect: 100-continue\r\n", "");
            wire.send(random, &[head.as_bytes(), &body].concat());
        } else {
            wire.send(random, &[head.as_bytes(), &body].concat());
        }
        wire.due += answer.len();
        answers.push(Answer {
            due: wire.sent,
            bytes: [&told, &answer[..]].concat(),
            last: [&told, &last[..]].concat(),
        });
        if waits_for_each && reads {
            wire.wait();
        }
    }
    finish(random, end, wire, answers)
}

fn finish(random: &mut StdRng, end: End, mut wire: Wire, answers: Vec<Answer>) -> Visit {
    let mut words = Vec::new();
    let mut stays = true;
    match end {
        End::HalfClose => wire.steps.push(Step::Fin),
        End::WaitAndClose => {
            wire.wait();
            wire.steps.push(Step::Fin);
        }
        End::AskToClose | End::Idle => {}
        End::Reset => {
            if random.random() {
                let part = random.random_range(1..POST.len());
                wire.send(random, &POST.as_bytes()[..part]);
            } else {
                let part = random.random_range(0..=wire.steps.len());
                wire.steps.truncate(part);
            }
            wire.steps.push(Step::Reset);
            stays = false;
        }
        End::FinWithin => {
            let part = random.random_range(1..=POST.len());
            wire.send(random, &POST.as_bytes()[..part]);
            wire.steps.push(Step::Fin);
        }
        End::StallInHead => {
            let part = random.random_range(1..POST.len());
            wire.send(random, &POST.as_bytes()[..part]);
            let sentence = "The request head did not arrive in time.";
            words = reject("408 Request Timeout", "", sentence);
        }
        End::StallInBody => {
            let some = "x".repeat(random.random_range(0..100));
            wire.send(random, format!("{POST}{some}").as_bytes());
            let sentence = "The request body did not arrive in time.";
            words = reject("408 Request Timeout", "", sentence);
        }
        End::Nonsense => {
            wire.send(random, b"NONSENSE\r\n\r\n");
            if random.random() {
                wire.send(random, &[b'?'; 2_000]);
            }
            words = reject("400 Bad Request", "", "The request line is malformed.");
        }
        End::NeverRead | End::CrawlingRead => stays = false,
    }
    let (takes_bytes, rests_ns) = match end {
        End::NeverRead => (0, 0),
        End::CrawlingRead => (1, 1_000 * MS_NS),
        _ if wire.due < 2_000 => (
            random.random_range(1..2_000),
            random.random_range(0..MS_NS / 2),
        ),
        _ => (
            random.random_range(1_000..100_000),
            random.random_range(0..5 * MS_NS),
        ),
    };
    let longest = |answer: &Answer| answer.bytes.len().max(answer.last.len());
    Visit {
        script: Script {
            due_bytes: answers.iter().map(longest).sum::<usize>() + WORDS_BYTES,
            connects_ns: super::BEGINS_NS + random.random_range(0..50 * MS_NS),
            steps: wire.steps,
            takes_bytes,
            rests_ns,
        },
        answers,
        reject: words,
        stays,
    }
}
