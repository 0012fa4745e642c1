//! The built-in handlers that misbehave: each gets its status and its reason, is counted in its
//! class, and nobody beside it notices.

use std::time::Duration;

use nix::time::ClockId;
use ringlab::served::ServedSnapshot;
use ringlab_guest::misbehaving::{ALL, bad_head, liar};

use crate::client::{Client, get};
use crate::server::PROGRAM;
use crate::{Lab, on_every_sandbox};

on_every_sandbox![
    each_fails_its_own_request_and_is_counted_in_its_class,
    a_deadline_is_of_cpu_time_and_kept_as_said,
];

/// Takes a class of failures out of the figures.
type Class = fn(&ServedSnapshot) -> u64;

/// Something that a handler does wrong, and what follows.
#[derive(Debug)]
pub struct Misdeed {
    /// What is asked for.
    pub target: String,
    pub status: u16,
    /// The line that is the body.
    pub reason: &'static str,
    /// Where it is counted, besides among all that failed.
    pub class: Class,
}

/// All that the built-in handlers do wrong.
pub fn misdeeds() -> Vec<Misdeed> {
    let misdeed = |target: String, status, reason, class: Class| Misdeed {
        target,
        status,
        reason,
        class,
    };
    let bad_record = |target| misdeed(target, 500, "bad record", |served| served.bad_records);
    let bad_lines = |target| {
        misdeed(target, 500, "bad header lines", |served| {
            served.bad_header_lines
        })
    };
    let mut misdeeds = vec![
        misdeed("/trap".into(), 500, "unreachable", |served| served.trapped),
        misdeed("/loop".into(), 504, "deadline", |served| {
            served.deadline_passed
        }),
        misdeed("/hog".into(), 500, "memory limit", |served| {
            served.memory_refused
        }),
        misdeed("/deep".into(), 500, "stack overflow", |served| {
            served.stack_overflowed
        }),
        misdeed("/huge".into(), 500, "response too large", |served| {
            served.response_too_large
        }),
    ];
    for about in liar::LIES {
        let target = format!("/liar?about={about}");
        misdeeds.push(match *about {
            "overlapping" => bad_lines(target),
            _ => bad_record(target),
        });
    }
    for (what, ..) in bad_head::HEADS {
        let target = format!("/bad-head?what={what}");
        misdeeds.push(if what.starts_with("status") {
            bad_record(target)
        } else {
            bad_lines(target)
        });
    }
    misdeeds
}

fn expect_fine(client: &mut Client, after: &str) {
    client.send(get("/fine"));
    let response = client.receive();
    let found = (response.status, response.text());
    assert_eq!(found, (200, "Hello, World!\n"), "after {after}");
}

fn each_fails_its_own_request_and_is_counted_in_its_class(lab: Lab) {
    // Far more CPU time than any but the endless one takes, also where a virtual machine's host is busy
    // and the time that it takes away counts.
    let mut options = vec!["--deadline", "200ms", "--memory", "4MiB"];
    let routes = ALL.iter().map(|(name, _)| format!("/{name}={name}"));
    let routes: Vec<_> = routes.chain(["/fine=hello".to_owned()]).collect();
    for route in &routes {
        options.extend(["--route", route]);
    }
    let mut server = lab.serve_routes(&options);
    let (mut client, mut bystander) = (server.connect(), server.connect());
    let misdeeds = misdeeds();
    for misdeed in &misdeeds {
        let Misdeed { target, class, .. } = misdeed;
        let before = server.figures().served;
        client.send([get(target), get("/fine")].concat());
        let response = client.receive();
        let found = (response.status, response.text());
        let expected = (misdeed.status, &*format!("{}\n", misdeed.reason));
        assert_eq!(found, expected, "{target}");
        assert_eq!(client.receive().text(), "Hello, World!\n", "after {target}");
        expect_fine(&mut bystander, target);
        let served = server.figures().served.since(&before);
        assert_eq!((served.failed, class(&served)), (1, 1), "{target}");
    }
    let served = server.figures().served;
    assert_eq!(served.failed, misdeeds.len() as u64);
    assert_eq!((served.rejected, served.timed_out), (0, 0));
}

/// Never before it, and no later than two ticks of 4 ms and two of the kernel's after it, of the CPU time of
/// whoever serves. What else that did is in it too, so of five requests one at least is as it should be.
fn a_deadline_is_of_cpu_time_and_kept_as_said(lab: Lab) {
    const DEADLINE: Duration = Duration::from_millis(50);
    const ALL_ELSE: Duration = Duration::from_millis(10);
    let kernels_tick = ClockId::CLOCK_MONOTONIC_COARSE.res();
    let kernels_tick = Duration::from(kernels_tick.expect("Linux has it"));
    let latest = DEADLINE + 2 * (Duration::from_millis(4) + kernels_tick) + ALL_ELSE;
    let mut server = lab.serve("loop", &["--deadline", "50ms"]);
    let mut client = server.connect();
    let took = [(); 5].map(|()| {
        let before = server.report();
        client.send(get("/"));
        let response = client.receive();
        assert_eq!((response.status, response.text()), (504, "deadline\n"));
        let report = server.report();
        let [before, after] = [before, report].map(|report| report.cpu_ns - report.helpers_ns);
        Duration::from_nanos(after - before)
    });
    let least = *took.iter().min().expect("there are five");
    assert!((DEADLINE..latest).contains(&least), "{took:?}, {latest:?}");
}

#[test]
fn native_refuses_them_all() {
    for (name, _) in ALL {
        let arguments = ["serve", "--isolation", "native", "--handler", name];
        let output = std::process::Command::new(PROGRAM).args(arguments).output();
        let output = output.expect("the program can be started");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{name}: {said}");
        for words in [
            name,
            "native has no limits",
            "reuse, reset, fresh or on-demand",
        ] {
            assert!(said.contains(words), "{words:?} is not in {said:?}");
        }
    }
}
