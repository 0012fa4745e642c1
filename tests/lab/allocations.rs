//! A request in steady state allocates nothing in `http`, `io` and `session`.
//!
//! The allocator of this test binary counts, for each thread apart, so that tests side by side do
//! not see each other's.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::HashSet;
use std::fs;
use std::sync::atomic::{AtomicI32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use ringlab::config::Config;
use ringlab::handlers::Handlers;
use ringlab::io::{Op, Token};
use ringlab::measure::probe::Off;
use ringlab::offload::{Threads, Wake};
use ringlab::sandbox::{Isolation, Source};
use ringlab::server::Server;
use ringlab::session::{Context, Session};
use ringlab::shard::Book;

use crate::client::{Client, get, post, post_chunked};
use crate::server::some_core;
use crate::{Lab, on_every_model};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The system's allocator, counted.
struct Counting;

/// What one thread allocated.
struct Account {
    /// Its id, 0 until it is opened.
    thread: AtomicI32,
    allocations: AtomicU64,
}

/// Threads are born by the hundred in a run, and accounts are not used again.
const ACCOUNTS: usize = 16 * 1024;

static BOOK: [Account; ACCOUNTS] = [const {
    Account {
        thread: AtomicI32::new(0),
        allocations: AtomicU64::new(0),
    }
}; ACCOUNTS];
static OPENED: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// This thread's account. Constant and without a destructor: reading it allocates nothing.
    static MINE: Cell<Option<usize>> = const { Cell::new(None) };
}

fn account() -> Option<&'static Account> {
    let index = MINE.get().unwrap_or_else(|| {
        let index = OPENED.fetch_add(1, Ordering::Relaxed);
        MINE.set(Some(index));
        if let Some(account) = BOOK.get(index) {
            account
                .thread
                .store(nix::unistd::gettid().as_raw(), Ordering::Relaxed);
        }
        index
    });
    BOOK.get(index)
}

fn count() {
    if let Some(account) = account() {
        account.allocations.fetch_add(1, Ordering::Relaxed);
    }
}

// SAFETY: everything is handed on to the system's allocator as it came. Counting allocates nothing
// and does not unwind.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise is the one that is asked for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as in `alloc`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as in `alloc`.
        unsafe { System.realloc(memory, layout, size) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as in `alloc`.
        unsafe { System.dealloc(memory, layout) }
    }
}

/// What the calling thread has allocated.
fn here() -> u64 {
    account().map_or(0, |account| account.allocations.load(Ordering::Relaxed))
}

#[test]
fn an_allocation_is_counted_where_it_is_made() {
    let before = here();
    let boxed = std::hint::black_box(Box::new(1));
    assert_eq!(here() - before, 1);
    let elsewhere = std::thread::spawn(|| drop(std::hint::black_box(vec![1u8; 100])));
    let spawned = here();
    elsewhere.join().expect("it does not panic");
    drop(boxed);
    assert!(
        here() - spawned <= 1,
        "joining may cost one, the vector none"
    );
}

const WARM_UP: usize = 20;
const ROUNDS: usize = 1000;

/// A session with a toy for a driver, which takes every send at once.
struct Toy {
    session: Session,
    context: Context<Off>,
    answers: usize,
}

impl Toy {
    fn new(handler: &str, isolation: Isolation) -> Self {
        let mut config = Config::new(Source::parse(handler), vec![some_core()]);
        config.isolation = isolation;
        let loaded = config.validate().expect("a built-in handler");
        let sandboxes = loaded.iter().map(ringlab::shard::sandbox);
        let sandboxes: Result<_, _> = sandboxes.collect();
        let handlers = Arc::new(Handlers::default());
        handlers.begin(sandboxes.expect("they were tried before"), None);
        let context = ringlab::shard::context::<Off>(
            &config,
            handlers,
            &Threads::default(),
            &Wake::Thread(std::thread::current()),
            &Book::default(),
        );
        let context = context.expect("a timer can be made");
        Self {
            session: Session::new(Token::LISTENER, &context),
            context,
            answers: 0,
        }
    }

    fn act(&mut self) {
        while let Some(op) = self.session.next_op() {
            match op {
                Op::Send { buf, .. } => {
                    self.answers += usize::from(buf.starts_with(b"HTTP/1.1 200 "));
                    self.session.sent(buf, &mut self.context);
                }
                Op::Receive => {}
                other => panic!("{other:?} in steady state"),
            }
        }
    }
}

/// One round of `parts`, each a read of its own, makes at least one send; a thousand make no
/// allocation.
fn check_session(what: &str, handler: &str, parts: &[&[u8]]) {
    for isolation in [Isolation::Native, Isolation::Reuse, Isolation::Reset] {
        let mut toy = Toy::new(handler, isolation);
        let mut before = 0;
        for round in 0..WARM_UP + ROUNDS {
            if round == WARM_UP {
                before = here();
            }
            for part in parts {
                toy.session.absorb(part, &mut toy.context);
                toy.act();
            }
        }
        assert_eq!(here() - before, 0, "{what}, {isolation}");
        assert!(toy.answers >= WARM_UP + ROUNDS, "{what}, {isolation}");
    }
}

#[test]
fn a_session_in_steady_state_allocates_nothing() {
    let hello = get("/").into_bytes();
    check_session("whole", "hello", &[&hello]);
    let bytes: Vec<_> = hello.chunks(1).collect();
    check_session("byte by byte", "hello", &bytes);
    check_session("pipelined", "hello", &[&hello.repeat(16)]);
    let two = hello.repeat(2);
    let (one_and_a_half, rest) = two.split_at(two.len() - 10);
    check_session("one and a half", "hello", &[one_and_a_half, rest]);
    let sized = post(&[b'x'; 3000]);
    check_session("a body", "echo", &[&sized]);
    check_session(
        "a body in parts",
        "echo",
        &sized.chunks(1000).collect::<Vec<_>>(),
    );
    let chunked = post_chunked(&[b'x'; 3000], 700);
    check_session("chunks", "echo", &[&chunked]);
    check_session(
        "chunks in parts",
        "echo",
        &chunked.chunks(1000).collect::<Vec<_>>(),
    );
}

on_every_model![a_server_in_steady_state_allocates_nothing];

/// The threads of this process that serve: their ids.
fn serving_threads() -> HashSet<i32> {
    let threads = fs::read_dir("/proc/self/task").expect("Linux lists them");
    let serves = |id: &i32| {
        // A thread may end while it is looked at.
        let name = fs::read_to_string(format!("/proc/self/task/{id}/comm")).unwrap_or_default();
        name.starts_with("shard") || name.starts_with("connection")
    };
    threads
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(serves)
        .collect()
}

fn allocations_of(threads: &HashSet<i32>) -> u64 {
    let theirs = |account: &&Account| threads.contains(&account.thread.load(Ordering::Relaxed));
    let accounts = BOOK.iter().filter(theirs);
    accounts
        .map(|account| account.allocations.load(Ordering::Relaxed))
        .sum()
}

fn a_server_in_steady_state_allocates_nothing(lab: Lab) {
    // One server at a time in this process, so that its threads can be told.
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let others = serving_threads();
    let mut config = Config::new(Source::parse("echo"), vec![some_core()]);
    config.model = lab.model;
    config.isolation = lab.isolation;
    let server = Server::start(config).expect("a port and a core");
    let mut clients = [0; 3].map(|_| Client::connect(server.address()));
    let round = [
        get("/").into_bytes(),
        post(&[b'x'; 1000]),
        post_chunked(&[b'x'; 5000], 700),
    ]
    .concat();
    let serve = |clients: &mut [Client], rounds: usize| {
        for _ in 0..rounds {
            for client in &mut *clients {
                client.send(&round);
            }
            for client in &mut *clients {
                let lengths = [0; 3].map(|_| client.receive().body.len());
                assert_eq!(lengths, [0, 1000, 5000]);
            }
        }
    };
    serve(&mut clients, WARM_UP);
    let threads: HashSet<_> = &serving_threads() - &others;
    assert!(!threads.is_empty());
    let mut so_far = allocations_of(&threads);
    assert!(so_far > 0, "starting allocates");
    // Buffers and queues grow to the most that was ever used at a time, which chance may put off.
    // What a request allocates, it would allocate in every try.
    let settled = (0..10).any(|_| {
        serve(&mut clients, ROUNDS);
        let before = std::mem::replace(&mut so_far, allocations_of(&threads));
        so_far == before
    });
    assert!(settled, "{so_far} allocations and no end");
    drop(clients);
    assert!(server.drain());
}
