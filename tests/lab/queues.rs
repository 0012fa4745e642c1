//! The queues between I/O threads and workers, under a model checker: every order in which their
//! threads can run is tried. A lost wake-up is a deadlock, which it reports.

use loom::sync::atomic::{AtomicBool, Ordering};
use loom::sync::{Arc, Notify};
use loom::thread;

use mailbox::Mailbox;
use queue::Queue;

/// What the program takes from the standard library.
mod sync {
    pub use loom::sync::{Condvar, Mutex, MutexGuard};
}

#[path = "../../src/offload/mailbox.rs"]
mod mailbox;
#[expect(dead_code, reason = "nobody times the waking here")]
#[path = "../../src/offload/queue.rs"]
mod queue;

/// Two producers, two workers, one withdrawal, then the end: each item is done once or taken back,
/// and all threads end.
#[test]
fn a_queue_loses_nothing_and_wakes_whoever_it_must() {
    let mut model = loom::model::Builder::new();
    // More preemptions find no more here and take minutes.
    model.preemption_bound = Some(2);
    model.check(|| {
        let queue = Arc::new(Queue::new(2));
        let workers = [(); 2].map(|()| {
            let queue = queue.clone();
            thread::spawn(move || {
                let mut sum = 0;
                while let Some(item) = queue.pop(&mut 0, || ()) {
                    sum += item;
                }
                sum
            })
        });
        let producer = {
            let queue = queue.clone();
            thread::spawn(move || drop(queue.push(1).expect("there is room")))
        };
        drop(queue.push(2).expect("there is room"));
        let withdrawn = queue.remove(|item| *item == 2).unwrap_or(0);
        producer.join().expect("it does not panic");
        queue.close();
        let done: u32 = workers.map(|worker| worker.join().unwrap()).iter().sum();
        assert_eq!(done + withdrawn, 3);
    });
}

/// Whoever closes a queue wakes all, so what a push owes is seen only while nobody does.
#[test]
fn a_push_alone_wakes_a_worker() {
    loom::model(|| {
        let queue = Arc::new(Queue::new(1));
        let taken = Arc::new(Notify::new());
        let worker = {
            let (queue, taken) = (queue.clone(), taken.clone());
            thread::spawn(move || {
                assert_eq!(queue.pop(&mut 0, || ()), Some(1));
                taken.notify();
            })
        };
        drop(queue.push(1).expect("there is room"));
        taken.wait();
        worker.join().expect("it does not panic");
    });
}

/// A worker with nothing to do, asleep or about to be, tidies up after it was told to. Were it missed,
/// nobody would end the queue.
#[test]
fn who_sleeps_is_told_to_tidy_up() {
    loom::model(|| {
        let queue = Arc::new(Queue::<u32>::new(1));
        let exchanged = Arc::new(AtomicBool::new(false));
        let worker = {
            let (queue, exchanged) = (queue.clone(), exchanged.clone());
            thread::spawn(move || {
                let end = || {
                    if exchanged.load(Ordering::Relaxed) {
                        queue.close();
                    }
                };
                assert_eq!(queue.pop(&mut 0, end), None);
            })
        };
        exchanged.store(true, Ordering::Relaxed);
        queue.tidy();
        worker.join().expect("it does not panic");
    });
}

/// Two workers post; the reader sleeps when there is nothing, and is woken at most once a sleep.
#[test]
fn a_reader_misses_no_letter_and_is_woken_once_a_sleep() {
    loom::model(|| {
        let mailbox = Arc::new(Mailbox::new());
        let bell = Arc::new(Notify::new());
        let rings = [1, 2].map(|letter| {
            let (mailbox, bell) = (mailbox.clone(), bell.clone());
            thread::spawn(move || {
                let must_wake = mailbox.post(letter);
                if must_wake {
                    bell.notify();
                }
                u32::from(must_wake)
            })
        });
        let (mut sum, mut sleeps) = (0, 0);
        let mut letters = Vec::new();
        while sum < 3 {
            mailbox.take(&mut letters);
            sum += letters.drain(..).sum::<i32>();
            if sum < 3 && mailbox.fall_asleep() {
                sleeps += 1;
                bell.wait();
            }
        }
        let rings: u32 = rings.map(|ring| ring.join().unwrap()).iter().sum();
        // The checker also wakes the reader for no reason.
        assert!(rings <= sleeps, "{rings} wake-ups for {sleeps} sleeps");
    });
}
