//! Which answers count as answers, and which as failures of what kind.

use super::*;

#[test]
fn wrong_answers_are_failures_by_cause() {
    check_fails(|_| answer("500 Oops", "", "x"), Failure::WrongStatus);
    check_fails(|_| b"SSH-2.0-x\r\n\r\n".to_vec(), Failure::Malformed);
    check_fails(
        |_| b"HTTP/1.1 200 OK\r\n\r\nbody".to_vec(),
        Failure::Unframed,
    );
}

#[test]
fn a_length_that_changes_is_a_failure() {
    let server = Server::answering(|n| ok(if n == 3 { "other" } else { "same" }));
    let mut plan = plan(&server);
    plan.connections = 1;
    let outcome = check_until(&plan, |outcome| outcome.sent > 3);
    assert_eq!(outcome.failed.of(Failure::WrongLength), 1);
    assert_eq!(outcome.failed.total(), 1);
    assert_eq!(outcome.reconnects, 0);
}

#[test]
fn a_wrong_body_of_the_right_length_is_a_failure() {
    let server = Server::answering(|n| ok(if n % 2 == 0 { "right" } else { "wrong" }));
    let mut plan = plan(&server);
    plan.targets[0].expect.body = Some(b"right".to_vec());
    let outcome = check(&plan);
    assert!(outcome.answered > 0);
    assert_eq!(
        outcome.failed.total(),
        outcome.failed.of(Failure::WrongBody)
    );
    assert!(outcome.failed.total().abs_diff(outcome.answered) <= 4);
}

#[test]
fn answers_in_single_bytes_behind_interim_ones_are_right() {
    let server = Server::start(|mut stream| {
        let interim = b"HTTP/1.1 100 Continue\r\n\r\n".to_vec();
        while read_head(&mut stream).is_some() {
            for byte in [interim.clone(), ok("hello")].concat() {
                if stream.write_all(&[byte]).is_err() {
                    return;
                }
            }
        }
    });
    let mut plan = plan(&server);
    plan.targets[0].expect.body = Some(b"hello".to_vec());
    let outcome = check(&plan);
    assert!(outcome.answered > 0);
    assert_eq!(outcome.failed.total(), 0);
}

#[test]
fn bodies_larger_than_any_buffer_go_out_and_come_in_whole() {
    const LENGTH: usize = 8 << 20;
    let server = Server::start(|mut stream| {
        let mut body = vec![0; LENGTH];
        while read_head(&mut stream).is_some() && stream.read_exact(&mut body).is_ok() {
            assert!(body.iter().all(|&b| b == b'b'));
            if stream.write_all(&ok(&"a".repeat(LENGTH))).is_err() {
                return;
            }
        }
    });
    let mut plan = plan(&server);
    plan.connections = 2;
    plan.targets[0].method = "POST".into();
    plan.targets[0].body = vec![b'b'; LENGTH];
    plan.targets[0].expect.length = BodyLength::Exactly(LENGTH as u64);
    let outcome = check(&plan);
    assert!(outcome.answered > 0);
    assert_eq!(outcome.failed.total(), 0);
}

#[test]
fn bytes_that_answer_nothing_are_counted() {
    let server = Server::answering(|_| [ok("x"), b"surplus".to_vec()].concat());
    let outcome = check(&plan(&server));
    assert!(outcome.unsolicited > 0);
    assert!(audit(&outcome).iter().any(|f| f.check == "unsolicited"));
}
