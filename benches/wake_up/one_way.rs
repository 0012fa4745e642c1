//! Letters from several producers to one consumer, by each way of telling that there are some.

use std::sync::{Barrier, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput};
use nix::sys::eventfd::EventFd;
use ringlab::io::Driver;
use ringlab::io::epoll::Epoll;
use ringlab::io::io_uring::{self, IoUring};
use ringlab::io::signal::{self, SignalDriven};
use ringlab::measure::probe::Off;

use crate::mailbox::Mailbox;
use crate::queue::Queue;
use crate::{Cores, driver, pin, sleep};

/// Letters on their way at most, where that is bounded: more than a consumer falls behind.
const ROOM: usize = 1 << 20;

/// Has `producers` threads `send` so many letters together, while the caller runs `receive`.
fn exchange(
    cores: Cores,
    producers: u64,
    letters: u64,
    send: impl Fn(u64) + Sync,
    receive: impl FnOnce(),
) -> Duration {
    let together = Barrier::new(producers as usize + 1);
    thread::scope(|scope| {
        for nth in 0..producers {
            let (send, together) = (&send, &together);
            let share = letters / producers + u64::from(nth < letters % producers);
            scope.spawn(move || {
                pin(cores.others);
                together.wait();
                (0..share).for_each(send);
            });
        }
        together.wait();
        let start = Instant::now();
        receive();
        start.elapsed()
    })
}

/// Takes `left` letters out of `mailbox`, and sleeps by `sleep` whenever it is empty.
fn empty(mailbox: &Mailbox<u64>, mut left: u64, mut sleep: impl FnMut()) {
    let mut letters = Vec::new();
    while left > 0 {
        mailbox.take(&mut letters);
        left -= letters.len() as u64;
        letters.clear();
        if left > 0 && mailbox.fall_asleep() {
            sleep();
        }
    }
}

fn by_driver<D: Driver>(cores: Cores, producers: u64, letters: u64) -> Duration {
    let mailbox = Mailbox::new();
    let mut driver = driver::<D>();
    let waker = driver.waker();
    let send = |letter| {
        if mailbox.post(letter) {
            waker.wake();
        }
    };
    let receive = || empty(&mailbox, letters, || sleep(&mut driver));
    exchange(cores, producers, letters, send, receive)
}

fn by_eventfd(cores: Cores, producers: u64, letters: u64) -> Duration {
    let mailbox = Mailbox::new();
    let event = EventFd::new().expect("a descriptor");
    let send = |letter| {
        if mailbox.post(letter) {
            event.write(1).expect("it is far from full");
        }
    };
    let receive = || {
        empty(&mailbox, letters, || {
            event.read().expect("it blocks until there is something");
        });
    };
    exchange(cores, producers, letters, send, receive)
}

fn by_condition(cores: Cores, producers: u64, letters: u64) -> Duration {
    let queue = Queue::new(ROOM);
    let send = |mut letter| {
        while let Err(back) = queue.push(letter) {
            letter = back;
            thread::yield_now();
        }
    };
    let receive = || {
        for _ in 0..letters {
            queue.pop(&mut 0, || ()).expect("it is open");
        }
    };
    exchange(cores, producers, letters, send, receive)
}

fn by_channel(cores: Cores, producers: u64, letters: u64) -> Duration {
    let (sender, receiver) = mpsc::sync_channel(ROOM);
    let send = |letter| sender.send(letter).expect("somebody receives");
    let receive = || {
        for _ in 0..letters {
            receiver.recv().expect("somebody sends");
        }
    };
    exchange(cores, producers, letters, send, receive)
}

type Way = fn(Cores, u64, u64) -> Duration;

pub fn bench(criterion: &mut Criterion, cores: Cores) {
    let mut ways: Vec<(&str, Way)> = Vec::new();
    match io_uring::check() {
        Ok(()) => {
            eprintln!("io_uring: woken {}", io_uring::way_back());
            ways.push(("io_uring and mailbox", by_driver::<IoUring<Off>>));
        }
        Err(reason) => eprintln!("io_uring: skipped: {reason}"),
    }
    ways.push(("epoll and mailbox", by_driver::<Epoll<Off>>));
    match signal::check() {
        Ok(()) => ways.push(("signal and mailbox", by_driver::<SignalDriven<Off>>)),
        Err(reason) => eprintln!("signal: skipped: {reason}"),
    }
    ways.push(("eventfd and mailbox", by_eventfd));
    ways.push(("mutex and condition", by_condition));
    ways.push(("channel", by_channel));
    let mut group = criterion.benchmark_group("one way");
    group.throughput(Throughput::Elements(1));
    for producers in 1..=4 {
        for &(name, way) in &ways {
            let id = BenchmarkId::new(name, format!("producers {producers}"));
            group.bench_function(id, |bencher| {
                bencher.iter_custom(|letters| way(cores, producers, letters));
            });
        }
    }
    group.finish();
}
