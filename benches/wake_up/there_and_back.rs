//! A request to a worker and its answer back, beside two threads that do nothing but wake each other.

use std::sync::Arc;
use std::thread;

use criterion::Criterion;
use nix::sys::eventfd::EventFd;
use ringlab::http::{self, Decoder, HeaderStorage, Reply, Request, Step};
use ringlab::io::epoll::Epoll;
use ringlab::io::io_uring::{self, IoUring};
use ringlab::io::signal::{self, SignalDriven};
use ringlab::io::{Buf, Driver, Token};
use ringlab::measure::probe::Off;
use ringlab::offload::{Offload, Remote, Started, Wake, Workers};
use ringlab::sandbox::{Handler, Isolation, Limits, ShardSandbox, Source};
use ringlab::served::Served;

use crate::{Cores, driver, pin, sleep};

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";
const IN_FLIGHT: u64 = 16;
/// More than enough for a handler that does nothing.
const STACK_BYTES: usize = 1 << 20;

/// The I/O thread's side of `pool`, without sessions.
struct Pool<'a> {
    remote: Remote<Arc<Workers>, Off>,
    request: &'a Request<'a, 'a>,
    reply: Reply,
    out: Buf,
    served: Served,
    next: u64,
}

impl<'a> Pool<'a> {
    fn new(cores: Cores, request: &'a Request<'a, 'a>, wake: Wake) -> Self {
        let source = Source::parse("hello");
        let handler = Handler::load(&source, Isolation::Native, &Limits::default());
        let shard = ShardSandbox::new(&handler.expect("it is built in"), |lines| {
            http::check_header_lines(lines).map_err(http::BadHeaderLine::reason)
        });
        let workers = Workers::start(1, 64, &[cores.others], STACK_BYTES);
        let workers = workers.expect("a thread can be started");
        Pool {
            remote: Remote::new(
                workers,
                shard.expect("it needs nothing"),
                wake,
                Arc::default(),
            ),
            request,
            reply: request.reply(),
            out: Buf::new(),
            served: Served::default(),
            next: 0,
        }
    }

    fn start(&mut self) {
        let owner = Token::numbered(self.next);
        self.next += 1;
        let (out, date) = (&mut self.out, [b' '; 29]);
        let started =
            (self.remote).start(owner, self.request, self.reply, &date, out, &self.served);
        assert_eq!(started, Started::Later);
    }

    /// Whether an answer has come.
    fn finish(&mut self) -> bool {
        let Some(job) = self.remote.next(&self.served) else {
            return false;
        };
        job.outcome().expect("the handler is fine");
        self.remote.recycle(job);
        true
    }

    /// There and back, with a thread that sleeps by `sleep` meanwhile.
    fn round_trip(&mut self, mut sleep: impl FnMut()) {
        self.start();
        while !self.finish() {
            if self.remote.may_sleep() {
                sleep();
            }
        }
    }
}

/// Two threads and two eventfds.
struct PingPong {
    there: Arc<EventFd>,
    back: Arc<EventFd>,
}

impl PingPong {
    fn new(cores: Cores) -> PingPong {
        let event = || Arc::new(EventFd::new().expect("a descriptor"));
        let this = PingPong {
            there: event(),
            back: event(),
        };
        let (there, back) = (this.there.clone(), this.back.clone());
        thread::spawn(move || {
            pin(cores.others);
            // A higher count is the end.
            while there.read() == Ok(1) {
                back.write(1).expect("it is far from full");
            }
        });
        this
    }

    fn round_trip(&self) {
        self.there.write(1).expect("it is far from full");
        self.back
            .read()
            .expect("it blocks until there is something");
    }
}

impl Drop for PingPong {
    fn drop(&mut self) {
        let _ = self.there.write(2);
    }
}

fn by_driver<D: Driver>(
    criterion: &mut Criterion,
    name: &str,
    cores: Cores,
    request: &Request<'_, '_>,
) {
    let mut driver = driver::<D>();
    let mut pool = Pool::new(cores, request, Wake::Driver(driver.waker()));
    let mut group = criterion.benchmark_group("there and back");
    group.bench_function(name, |bencher| {
        bencher.iter(|| pool.round_trip(|| sleep(&mut driver)));
    });
    group.finish();
}

fn bare(criterion: &mut Criterion, name: &str, cores: Cores) {
    let bare = PingPong::new(cores);
    let mut group = criterion.benchmark_group("there and back");
    group.bench_function(name, |bencher| bencher.iter(|| bare.round_trip()));
    group.finish();
}

pub fn bench(criterion: &mut Criterion, cores: Cores) {
    let mut storage = HeaderStorage::new();
    let step = Decoder::new().decode(REQUEST, &mut storage, &http::Limits::default());
    let Step::Request { request, .. } = step else {
        panic!("{step:?}, not a request");
    };
    let request = &request;
    bare(criterion, "bare eventfds", cores);
    by_driver::<Epoll<Off>>(criterion, "pool, epoll", cores, request);
    match io_uring::check() {
        Ok(()) => by_driver::<IoUring<Off>>(criterion, "pool, io_uring", cores, request),
        Err(reason) => eprintln!("io_uring: skipped: {reason}"),
    }
    match signal::check() {
        Ok(()) => by_driver::<SignalDriven<Off>>(criterion, "pool, signal", cores, request),
        Err(reason) => eprintln!("signal: skipped: {reason}"),
    }
    let mut pool = Pool::new(cores, request, Wake::Thread(thread::current()));
    let mut group = criterion.benchmark_group("there and back");
    group.bench_function("pool, a parked thread", |bencher| {
        bencher.iter(|| pool.round_trip(thread::park));
    });
    (0..IN_FLIGHT).for_each(|_| pool.start());
    group.bench_function("pool, in flight 16", |bencher| {
        bencher.iter(|| {
            while !pool.finish() {
                std::hint::spin_loop();
            }
            pool.start();
        });
    });
    group.finish();
    // As a control: what the machine did meanwhile shows here.
    bare(criterion, "bare eventfds again", cores);
}
