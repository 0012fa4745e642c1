//! Whole runs against small servers, each with one fault.
//!
//! They test behaviour: what is counted where, and that every run ends. No
//! assertion depends on how fast this machine is, beyond bounds of seconds. Here is the server and how it
//! is loaded; what is tested is in a file for each subject.

mod answers;
mod ends;
mod loops;

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, getsockname, socket};

use super::*;

/// A server on a free port, one thread per connection; gone when dropped.
struct Server {
    address: SocketAddr,
    gone: Arc<AtomicBool>,
    /// Every open connection, to be cut when the server dies.
    open: Arc<Mutex<HashMap<usize, TcpStream>>>,
    accepting: Option<thread::JoinHandle<()>>,
}

impl Server {
    fn start(life: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        Self::start_counting(move |_, stream| life(stream))
    }

    /// The same; each life is told how many connections there were before.
    fn start_counting(life: impl Fn(usize, TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let gone = Arc::new(AtomicBool::new(false));
        let open = Arc::new(Mutex::new(HashMap::new()));
        let life = Arc::new(life);
        let accepting = thread::spawn({
            let (gone, open) = (Arc::clone(&gone), Arc::clone(&open));
            move || {
                for (number, stream) in listener.incoming().enumerate() {
                    if gone.load(SeqCst) {
                        return;
                    }
                    let stream = stream.unwrap();
                    stream.set_nodelay(true).unwrap();
                    let clone = stream.try_clone().unwrap();
                    open.lock().unwrap().insert(number, clone);
                    let (life, open) = (Arc::clone(&life), Arc::clone(&open));
                    thread::spawn(move || {
                        // The last owner's drop closes; the clone must go first.
                        let last = stream.try_clone().unwrap();
                        life(number, stream);
                        open.lock().unwrap().remove(&number);
                        drop(last);
                    });
                }
            }
        });
        Self {
            address,
            gone,
            open,
            accepting: Some(accepting),
        }
    }

    /// Answers the nth request of a connection (from 0) with `answer(n)`.
    fn answering(answer: impl Fn(usize) -> Vec<u8> + Send + Sync + 'static) -> Self {
        Self::start(move |mut stream| {
            for number in 0.. {
                if read_head(&mut stream).is_none() || stream.write_all(&answer(number)).is_err() {
                    return;
                }
            }
        })
    }

    /// Closes the port and every connection.
    fn die(&mut self) {
        let Some(accepting) = self.accepting.take() else {
            return;
        };
        self.gone.store(true, SeqCst);
        let _ = TcpStream::connect(self.address);
        accepting.join().unwrap();
        for stream in self.open.lock().unwrap().values() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.die();
    }
}

/// One request's head; `None` at the end of the stream.
fn read_head(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if stream.read(&mut byte).ok()? == 0 {
            return None;
        }
        head.push(byte[0]);
    }
    Some(head)
}

fn ok(body: &str) -> Vec<u8> {
    answer("200 OK", "", body)
}

fn answer(status: &str, headers: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\n\r\n{body}").into_bytes()
}

fn plan(server: &Server) -> Plan {
    plan_to(server.address)
}

/// Four connections, closed loop, 50 ms of warm-up and 100 ms of window.
fn plan_to(address: SocketAddr) -> Plan {
    Plan {
        connections: 4,
        warm_up: Duration::from_millis(50),
        duration: Duration::from_millis(100),
        request_timeout: Duration::from_secs(5),
        ..Plan::new(address, "test", vec![Target::get("/")])
    }
}

fn open_loop(rate: f64) -> Mode {
    Mode::Open {
        rate,
        arrivals: Arrivals::Constant,
    }
}

/// Runs a plan, and checks what must hold of every run.
fn check(plan: &Plan) -> Outcome {
    let began = Instant::now();
    let outcome = run(plan, &AtomicBool::new(false), &mut ()).expect("the run takes place");
    let bound = plan.warm_up + plan.duration + plan.request_timeout + Duration::from_secs(5);
    assert!(
        began.elapsed() < bound,
        "the run took {:?}",
        began.elapsed()
    );
    assert_adds_up(&outcome);
    outcome
}

/// The same, in a longer window and a longer one until it was long enough: what a machine that stalls
/// kept from happening in the first one does then.
fn check_until(plan: &Plan, mut enough: impl FnMut(&Outcome) -> bool) -> Outcome {
    let mut plan = plan.clone();
    loop {
        let outcome = check(&plan);
        if enough(&outcome) || plan.duration > Duration::from_secs(5) {
            return outcome;
        }
        plan.duration *= 4;
    }
}

fn assert_adds_up(outcome: &Outcome) {
    let broken = audit(outcome).into_iter().find(|f| f.check == "accounting");
    assert_eq!(broken, None);
}

/// A run in which every request fails for one cause, or nearly every one: the
/// last of a connection may be cut by its close.
fn check_fails(answer: impl Fn(usize) -> Vec<u8> + Send + Sync + 'static, cause: Failure) {
    let server = Server::answering(answer);
    let outcome = check(&plan(&server));
    assert!(
        outcome.failed.of(cause) > 0,
        "{cause:?}: {:?}",
        outcome.failed
    );
    assert_eq!(outcome.failed.total(), outcome.failed.of(cause));
    assert_eq!(outcome.in_flight_at_end, 0);
}
