//! What the queues refuse, and what a worker does with what goes wrong.

use std::sync::Arc;

use super::pool::work;
use super::queue::Queue;
use super::remote::Errand;
use super::{Home, Job, Wake};
use crate::http;
use crate::sandbox::{Failure, Handler, Isolation, Limits, ShardSandbox, Source};

#[test]
fn what_does_not_fit_comes_back() {
    let queue = Queue::new(2);
    assert_eq!(queue.push('a'), Ok(()));
    assert_eq!(queue.push('b'), Ok(()));
    assert_eq!(queue.push('c'), Err('c'));
    assert_eq!(queue.pop(), Some('a'));
    assert_eq!(queue.push('c'), Ok(()));
    assert_eq!(queue.remove(|item| *item == 'b'), Some('b'));
    queue.close();
    assert_eq!(queue.push('d'), Err('d'), "closed");
    assert_eq!((queue.pop(), queue.pop()), (Some('c'), None));
}

#[test]
fn a_panic_costs_the_request_it_happens_in() {
    let source = Source::Builtin("hello".to_string());
    let handler = Handler::load(&source, Isolation::Native, &Limits::default()).unwrap();
    let check = |lines: &[u8]| http::check_header_lines(lines).map_err(|bad| bad.reason());
    let handler = ShardSandbox::new(&handler, check).unwrap();
    let home = Home::new(Wake::Thread(std::thread::current()));
    let queue = Queue::new(2);
    for _ in 0..2 {
        let errand = Errand {
            job: Job::default(),
            handler: handler.clone(),
            home: home.clone(),
        };
        assert!(queue.push(errand).is_ok());
    }
    queue.close();
    let mut runs = 0;
    work(&queue, |errand| {
        runs += 1;
        assert!(runs != 1, "the first one is lost");
        errand.job.fail(Failure::Deadline);
    });
    let mut home_again = Vec::new();
    home.take(&mut home_again);
    let outcomes: Vec<_> = home_again.iter().map(|job| job.outcome()).collect();
    assert_eq!(outcomes, [Err(Failure::Panic), Err(Failure::Deadline)]);
    assert_eq!(
        Arc::strong_count(&home),
        1,
        "nobody holds on to what is done"
    );
}
