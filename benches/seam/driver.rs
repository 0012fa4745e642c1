//! The echo on top of a driver.

use std::sync::Arc;

use ringlab::io::listener::Listener;
use ringlab::io::{Buf, Counts, Done, Driver, Op, Outcome, Submitted, Token};

use super::{ANSWER_BYTES, CONNECTIONS, Meter};

pub fn echo<D: Driver>(listener: Listener, meter: &mut Meter) {
    let mut driver = D::open(listener, CONNECTIONS, Arc::new(Counts::default()))
        .expect("it was checked that it can");
    let mut answers: Vec<Option<Buf>> = vec![None; CONNECTIONS];
    driver.submit(Token::LISTENER, Op::Receive);
    loop {
        driver.wait(None).expect("it was opened");
        while let Some((token, done)) = driver.next() {
            match done {
                Done::Accepted => {
                    answers[token.index()] = Some(vec![b'a'; ANSWER_BYTES]);
                    driver.submit(token, Op::Receive);
                }
                Done::Received(_) => {
                    let buf = answers[token.index()].take();
                    let buf = buf.expect("who asks has got the last answer");
                    let send = Op::Send {
                        buf,
                        awaited: false,
                    };
                    if let Submitted::Done(Outcome::Sent(buf)) = driver.submit(token, send) {
                        answers[token.index()] = Some(buf);
                    }
                    if meter.answered() {
                        // What is still to be pushed out is pushed.
                        let _ = driver.wait(Some(1));
                        return;
                    }
                }
                Done::Finished(Outcome::Sent(buf)) => answers[token.index()] = Some(buf),
                _ => {}
            }
        }
    }
}
