//! Bugs that were found once: each test does what showed one, and says what was wrong.

use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use procfs::process::{Process, Stat};
use ringlab::config::Config;
use ringlab::sandbox::Source;
use ringlab::server::Server as ServerInProcess;

use crate::client::{Client, get, pattern, post};
use crate::guests::{File, misbehaving, store};
use crate::server::{Server, some_core};
use crate::{Lab, PATIENCE, on_every_model, on_every_model_that_sleeps};

on_every_model_that_sleeps![
    a_client_that_reads_nothing_costs_no_cpu,
    an_idle_connection_costs_few_system_calls,
];

on_every_model![
    a_long_body_and_fin_at_once_are_answered,
    a_thousand_descriptors_are_enough,
    an_idle_server_is_drained_at_once,
    vanishing_around_a_deadline_harms_nobody,
    keep_alive_counts_from_when_the_answer_was_taken,
    asking_on_does_not_put_off_the_deadline_to_read,
    a_stalled_pipeline_is_drained_to_its_end,
    requests_that_came_with_the_signal_are_answered,
    a_request_that_comes_in_part_with_the_signal_is_answered,
    a_crowd_over_the_limit_is_told_or_closed,
];

/// The length of a long answer's body.
const LONG: usize = 192 * 1024;
/// Longer than any socket buffers hold.
const ENDLESS: usize = 15_000_000;

/// Where a guest's record has the length of its answer's body.
const ANSWER_LENGTH: u32 = 16;

/// A handler that answers a request whose body has n bytes with a body of `lengths[n - 1]`, and
/// every other as the one before.
fn answers_of(lengths: &[usize]) -> File {
    let words = lengths
        .iter()
        .map(|length| u32::try_from(*length).expect("less than 4 GiB"));
    let cases: Vec<_> = words.map(|length| store(ANSWER_LENGTH, length)).collect();
    let longest = lengths.iter().max().expect("there is one");
    let pages = (longest + 1024).div_ceil(64 * 1024);
    let guest = misbehaving(cases.iter().map(String::as_str));
    let memory = "(memory (export \"memory\") ";
    assert!(guest.contains(&format!("{memory}4)")));
    let guest = guest.replace(&format!("{memory}4)"), &format!("{memory}{pages})"));
    File::new("long.wat", guest)
}

/// What [`answers_of`] answers with its `nth` length, from 1.
fn nth_request(nth: usize) -> Vec<u8> {
    post(&vec![b'x'; nth])
}

/// More long answers than any socket buffers hold: 19 MB.
const MANY: usize = 100;

/// A client that has asked for [`MANY`] long answers and read nothing, and whose server has come as
/// far with it as it can.
fn blocked(server: &mut Server) -> Client {
    let mut client = server.connect();
    let before = server.figures().served.bytes_in;
    let requests = nth_request(1).repeat(MANY);
    client.send(&requests);
    server.until_received(before + requests.len() as u64);
    let mut so_far = 0;
    while so_far != server.figures().served.bytes_out {
        so_far = server.figures().served.bytes_out;
        thread::sleep(Duration::from_millis(50));
    }
    client
}

/// Of the process that the calling thread has started.
fn child() -> Stat {
    let own = Process::myself().and_then(|own| {
        let thread = own.task_from_tid(nix::unistd::gettid().as_raw())?;
        Process::new(thread.children()?[0].cast_signed())?.stat()
    });
    own.expect("this thread has started a server")
}

fn cpu_time() -> Duration {
    let stat = child();
    let ticks = stat.utime + stat.stime;
    Duration::from_secs(ticks) / u32::try_from(procfs::ticks_per_second()).expect("100 or so")
}

/// epoll: a socket with unread bytes, or with FIN, was always ready, and reading had been paused.
fn a_client_that_reads_nothing_costs_no_cpu(lab: Lab) {
    const WATCHED: Duration = Duration::from_millis(300);
    let handler = answers_of(&[LONG]);
    let mut server = lab.serve(handler.path(), &[]);
    let mut client = blocked(&mut server);
    let then: [fn(&mut Client); 2] = [|client| client.send("G"), |client| client.send_fin()];
    for act in then {
        act(&mut client);
        let (calls, time) = (server.figures(), cpu_time());
        thread::sleep(WATCHED);
        let time = cpu_time() - time;
        assert!(time < WATCHED / 2, "{time:?} of CPU time");
        // Where the core is busy otherwise, a loop shows in these.
        let io = server.figures().since(&calls).io;
        assert!(io.system_calls() < 100, "{io:?}");
    }
}

/// Lengths around what one receive takes. The end of the stream came together with the last bytes,
/// and was forgotten over them.
fn a_long_body_and_fin_at_once_are_answered(lab: Lab) {
    let mut server = lab.serve("echo", &[]);
    for length in [65_000, 65_536, 70_000, 131_072, 500_000].repeat(4) {
        let mut client = server.connect();
        let body = pattern(length);
        let sender = client.send_aside(post(&body));
        let response = client.receive();
        assert_eq!(response.status, 200);
        assert!(response.body == body, "of {length} bytes");
        client.expect_fin();
        sender
            .join()
            .expect("no panic")
            .expect("the server takes it");
    }
    let figures = server.until("closed", |now| now.served.closed == now.served.accepted);
    assert_eq!(figures.served.timed_out, 0);
}

/// The timer kept exact time and the deadlines did not: it fired again and again until they agreed.
fn an_idle_connection_costs_few_system_calls(lab: Lab) {
    let mut server = lab.serve("hello", &[]);
    let mut client = server.connect();
    client.expect_open();
    let before = server.figures();
    let start = Instant::now();
    thread::sleep(Duration::from_millis(600));
    let io = server.figures().since(&before).io;
    let limit = 30.0 * start.elapsed().as_secs_f64();
    assert!(io.system_calls() as f64 <= limit, "{io:?}");
    client.expect_open();
}

/// The ring's table of files was asked for in full, with as many descriptors as there were.
fn a_thousand_descriptors_are_enough(lab: Lab) {
    let server = lab.serve_with_descriptors(1024, "hello", &[]);
    let mut clients: Vec<_> = (0..20).map(|_| server.connect()).collect();
    clients.iter_mut().for_each(Client::expect_open);
}

/// In this process, since the program's own way down wakes the shards more than once.
fn an_idle_server_is_drained_at_once(lab: Lab) {
    let mut config = Config::new(Source::parse("hello"), vec![some_core()]);
    config.model = lab.model;
    config.drain = PATIENCE;
    let server = ServerInProcess::start(config).expect("a port and a core");
    thread::sleep(Duration::from_millis(300));
    let start = Instant::now();
    assert!(server.drain());
    assert!(start.elapsed() < PATIENCE / 10, "{:?}", start.elapsed());
}

/// The deadline shut down, or answered on, a connection that was just being closed, or its place's
/// next one.
fn vanishing_around_a_deadline_harms_nobody(lab: Lab) {
    const CLIENTS: u32 = 200;
    // Deadlines of 100 ms are looked at every 25 ms.
    let (first, last) = (Duration::from_millis(90), Duration::from_millis(140));
    let mut server = lab.serve("hello", &["--head-timeout", "100ms"]);
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let mut client = server.connect();
            client.send("GET / HT");
            (client, Instant::now())
        })
        .collect();
    for (nth, (client, sent)) in (0..CLIENTS).zip(clients) {
        let leaves = sent + first + (last - first) * nth / CLIENTS;
        thread::sleep(leaves.saturating_duration_since(Instant::now()));
        match nth % 2 {
            0 => drop(client),
            _ => client.reset(),
        }
    }
    server.connect().expect_open();
    let figures = server.until("all closed", |now| {
        now.served.accepted > u64::from(CLIENTS) && now.served.closed == now.served.accepted
    });
    assert_eq!(figures.served.answered, 1);
    server.connect().expect_open();
}

/// Silence was counted from the request, so whoever read slowly had none left.
fn keep_alive_counts_from_when_the_answer_was_taken(lab: Lab) {
    let options = [
        "--keep-alive",
        "1200ms",
        "--response",
        "16MiB",
        "--memory",
        "32MiB",
    ];
    // Many answers, behind which decoding rests, and one that is too long for the buffers.
    let (long, endless) = (answers_of(&[LONG]), answers_of(&[ENDLESS]));
    let mut of_long = lab.serve(long.path(), &options);
    let of_endless = lab.serve(endless.path(), &options);
    let mut one = of_endless.connect();
    one.send(nth_request(1));
    let mut many = blocked(&mut of_long);
    thread::sleep(Duration::from_millis(1600));
    for _ in 0..MANY {
        assert_eq!(many.receive().body.len(), LONG);
    }
    assert_eq!(one.receive().body.len(), ENDLESS);
    // Longer than it takes to look at the deadlines once, and far from the next one.
    thread::sleep(Duration::from_millis(350));
    for (client, length) in [(&mut many, LONG), (&mut one, ENDLESS)] {
        client.send(get("/"));
        assert_eq!(client.receive().body.len(), length);
    }
    many.expect_fin();
    one.expect_fin();
}

/// Each request renewed the time to take the answers before it.
fn asking_on_does_not_put_off_the_deadline_to_read(lab: Lab) {
    let handler = answers_of(&[ENDLESS, 4]);
    let long = ["--response", "16MiB", "--send-timeout", "400ms"];
    let mut server = lab.serve(handler.path(), &long);
    let mut client = server.connect();
    let start = Instant::now();
    // One that is not taken, and then small ones, which the server has room for.
    client.send(nth_request(1));
    while server.figures().served.timed_out == 0 {
        assert!(start.elapsed() < PATIENCE / 3, "the deadline does not come");
        // It may be closed by now.
        let _ = client.send_what_fits(&nth_request(2));
        thread::sleep(Duration::from_millis(50));
    }
    server.until("closed", |now| now.served.closed == 1);
}

/// Going down, a connection that was not read from had nothing under way, and was closed.
fn a_stalled_pipeline_is_drained_to_its_end(lab: Lab) {
    let handler = answers_of(&[LONG]);
    let mut server = lab.serve(handler.path(), &[]);
    let mut client = blocked(&mut server);
    server.signal(Signal::SIGTERM);
    thread::sleep(Duration::from_millis(100));
    for nth in 1..=MANY {
        let response = client.receive();
        assert_eq!((response.status, response.body.len()), (200, LONG));
        let last = (nth == MANY).then_some("close");
        assert_eq!(response.header("connection"), last, "answer {nth}");
    }
    client.expect_fin();
    drop(client);
    assert_eq!(server.end().0.code(), Some(0));
}

/// What the kernel had accepted but the program had not was reset with the listening socket.
fn requests_that_came_with_the_signal_are_answered(lab: Lab) {
    for _ in 0..3 {
        let server = lab.serve("hello", &[]);
        let mut clients: Vec<_> = (0..50).map(|_| server.connect()).collect();
        for client in &mut clients {
            client.send(get("/"));
        }
        server.signal(Signal::SIGTERM);
        for mut client in clients {
            assert_eq!(client.receive().status, 200);
            client.expect_fin();
        }
        let (status, said) = server.end();
        assert_eq!((status.code(), &*said), (Some(0), ""));
    }
}

/// One that had come in part was cut off: where a thread or a task waits in its own calls, and where a
/// driver takes in a share of what has come in each turn.
fn a_request_that_comes_in_part_with_the_signal_is_answered(lab: Lab) {
    // More than any driver takes in within three turns.
    const CLIENTS: usize = 450;
    let server = lab.serve("hello", &[]);
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| server.connect()).collect();
    clients.iter_mut().for_each(Client::expect_open);
    let request = get("/");
    let (part, rest) = request.split_at(20);
    // It goes down with a thread for each still to be woken.
    server.while_stopped(|| {
        for client in &mut clients {
            client.send(part);
        }
        server.signal(Signal::SIGTERM);
    });
    for mut client in clients {
        client.send(rest);
        assert_eq!(client.receive().status, 200);
        client.expect_fin();
    }
    let (status, said) = server.end();
    assert_eq!((status.code(), &*said), (Some(0), ""));
}

/// Who came when there was not even a place to be refused at waited forever, or took a place.
fn a_crowd_over_the_limit_is_told_or_closed(lab: Lab) {
    let mut server = lab.serve("hello", &["--connections", "2"]);
    let mut kept = [server.connect(), server.connect()];
    kept.iter_mut().for_each(Client::expect_open);
    let start = Instant::now();
    let crowd: Vec<_> = (0..200).map(|_| server.connect()).collect();
    for mut client in crowd {
        assert!(!client.is_served());
    }
    assert!(start.elapsed() < PATIENCE / 3, "{:?}", start.elapsed());
    kept.iter_mut().for_each(Client::expect_open);
    drop(kept);
    server.until("closed", |now| now.served.closed == now.served.accepted);
    server.connect().expect_open();
}
