//! What a request leaves behind goes with its isolation, wherever and in however many slices it ran.

use std::time::Instant;

use ringlab::models;
use ringlab::offload::Policy;
use ringlab::sandbox::Isolation;

use crate::client::{get, post};
use crate::guests::{File, misbehaving};
use crate::{Lab, PATIENCE};

/// Where nothing but this guest writes.
const MARK: &str = "(i32.const 2048)";

/// Traps when it finds its own mark of an earlier request, and leaves one; a body of one byte has it run
/// for far longer than a slice.
fn marks() -> File {
    let long = "(local.set 1 (i64.const 80000000))
        (loop $again
            (local.set 1 (i64.sub (local.get 1) (i64.const 1)))
            (br_if $again (i64.ne (local.get 1) (i64.const 0))))";
    let text = misbehaving([long]);
    let head = "(export \"handle\") (param i32) (result i32)";
    let mark =
        format!("(if (i32.load {MARK}) (then unreachable)) (i32.store {MARK} (i32.const 1))");
    let text = text.replacen(head, &format!("{head} (local i64) {mark}"), 1);
    File::new("marks.wat", text)
}

fn on_epoll(isolation: Isolation, behaviour: impl Fn(Lab, Policy)) {
    let model = models::find("epoll").expect("it is in the table");
    for policy in [Policy::Spawn, Policy::Pool, Policy::TimeSlice] {
        behaviour(Lab { model, isolation }, policy);
    }
}

/// The status of a light request, after a long one that under `time-slice` was suspended.
fn status_behind_a_long_one(lab: Lab, policy: Policy) -> u16 {
    let guest = marks();
    let name = policy.to_string();
    // One thread and one instance have it all.
    let options = ["--offload", &name, "--workers", "1", "--instances", "1"];
    let mut server = lab.serve(
        guest.path(),
        &[&options[..], &["--deadline", "1h"]].concat(),
    );
    let mut client = server.connect();
    let start = Instant::now();
    loop {
        client.send(post(b"!"));
        let first = client.receive().status;
        client.send(get("/"));
        let second = client.receive().status;
        // Ticks that a hypervisor holds back may miss one.
        if policy != Policy::TimeSlice || server.figures().served.half_run > 0 {
            assert_eq!(first, 200, "{policy}");
            return second;
        }
        assert!(start.elapsed() < PATIENCE, "none is suspended");
    }
}

#[test]
fn nothing_is_left_under_any_policy() {
    for isolation in [Isolation::Reset, Isolation::Fresh, Isolation::OnDemand] {
        on_epoll(isolation, |lab, policy| {
            let status = status_behind_a_long_one(lab, policy);
            assert_eq!(status, 200, "{isolation}, {policy}");
        });
    }
}

/// Or the test above would find nothing whatever was left.
#[test]
fn what_reuse_leaves_is_found_under_every_policy() {
    on_epoll(Isolation::Reuse, |lab, policy| {
        let status = status_behind_a_long_one(lab, policy);
        assert_eq!(status, 500, "{policy}");
    });
}
