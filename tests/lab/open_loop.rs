//! Load at an offered rate, from the thread that measures, when the lab's own generator would send it.

use std::collections::VecDeque;
use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use ringlab::load::{Arrivals, Schedule};

use crate::closed_loop::{REQUEST, came, open};

/// Who is sent later than this was not sent when it was due.
const LATE_NS: u64 = 50_000;

/// Connections, each asked when a request is due and it has none under way.
///
/// Nobody sleeps until the next is due, nor for an answer: when a request leaves is not for the scheduler to
/// say, and no send has to wake anybody here.
pub struct Paced {
    streams: Vec<TcpStream>,
    /// Those of them with no request under way, the longest idle first.
    idle: VecDeque<usize>,
    /// The others, and bytes of its answer that each has still to receive.
    missing: Vec<(usize, usize)>,
    answer_bytes: usize,
    rate: f64,
    pub due: u64,
    /// Of those that were due, the ones sent late.
    pub late: u64,
    /// And those that never were: their time was over.
    pub unsent: u64,
}

impl Paced {
    /// So many, which together ask `rate` times a second.
    pub fn connect(address: SocketAddr, connections: usize, rate: f64) -> Self {
        let mut answer_bytes = 0;
        let connect = |_| {
            let (stream, bytes) = open(address);
            answer_bytes = bytes;
            stream
        };
        Self {
            streams: (0..connections).map(connect).collect(),
            idle: (0..connections).collect(),
            missing: Vec::with_capacity(connections),
            answer_bytes,
            rate,
            due: 0,
            late: 0,
            unsent: 0,
        }
    }

    /// Asks and answers for so long, at moments that follow from `seed`, as those of independent users.
    pub fn drive(&mut self, time: Duration, seed: u64) {
        let length_ns = time.as_nanos() as u64;
        let schedule = Schedule::new(Arrivals::Poisson, self.rate, (0, 1), seed, length_ns);
        let mut schedule = schedule.peekable();
        let started = Instant::now();
        loop {
            let now_ns = started.elapsed().as_nanos() as u64;
            if now_ns > length_ns {
                break;
            }
            // One at a time: who is late is sent as soon as there is anybody to send it.
            if !self.idle.is_empty()
                && let Some(due_ns) = schedule.next_if(|due_ns| *due_ns <= now_ns)
            {
                self.due += 1;
                self.late += u64::from(now_ns - due_ns > LATE_NS);
                self.ask();
            }
            self.take_answers();
        }
        let unsent = schedule.count() as u64;
        self.due += unsent;
        self.unsent += unsent;
    }

    fn ask(&mut self) {
        let Some(next) = self.idle.pop_front() else {
            return;
        };
        let mut stream = &self.streams[next];
        stream.write_all(REQUEST).expect("there is room for one");
        self.missing.push((next, self.answer_bytes));
    }

    fn take_answers(&mut self) {
        let (streams, idle) = (&self.streams, &mut self.idle);
        self.missing.retain_mut(|(of, missing)| {
            *missing -= came(&streams[*of]);
            if *missing == 0 {
                idle.push_back(*of);
            }
            *missing > 0
        });
    }
}
