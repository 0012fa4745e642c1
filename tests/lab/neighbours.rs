//! Good requests beside bad ones: whatever a handler does, no other request fails, none gets another's
//! answer, and no connection ends. How long they wait is a soak's to say: `neighbours_soak`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use ringlab::load::{self, Plan, Target};
use ringlab_guest::misbehaving::ALL;

use crate::client::get;
use crate::misbehaving_builtins::misdeeds;
use crate::server::Server;
use crate::{Lab, PATIENCE, on_every_sandbox};

on_every_sandbox![no_request_beside_bad_ones_fails];

const CONNECTIONS: usize = 64;

/// A good handler beside all that are bad, with this deadline, on one core.
pub fn serve(lab: Lab, deadline: &str) -> Server {
    let mut options = vec!["--deadline", deadline];
    let routes = ALL.iter().map(|(name, _)| format!("/{name}={name}"));
    let routes: Vec<_> = routes.chain(["/fine=hello".to_owned()]).collect();
    for route in &routes {
        options.extend(["--route", route]);
    }
    lab.serve_routes(&options)
}

/// Good requests on 64 connections, as many as are answered.
pub fn plan(server: &Server, duration: Duration) -> Plan {
    let address = server.address();
    let mut target = Target::get("/fine");
    target.expect.body = Some(b"Hello, World!\n".to_vec());
    let mut plan = Plan::new(address, address.to_string(), vec![target]);
    plan.connections = CONNECTIONS;
    plan.warm_up = Duration::ZERO;
    plan.duration = duration;
    plan
}

fn no_request_beside_bad_ones_fails(lab: Lab) {
    // The host of a virtual machine may take more than 10 ms from any handler, and it counts.
    let mut server = serve(lab, "100ms");
    let (plan, end) = (plan(&server, PATIENCE), AtomicBool::new(false));
    let misdeeds = misdeeds();
    let good = thread::scope(|scope| {
        let loading = scope.spawn(|| load::run(&plan, &end, &mut ()));
        for misdeed in &misdeeds {
            // Good ones are answered before it and after it, so some are under way in between.
            let before = server.figures().served.answered;
            server.until("good requests go on", |now| now.served.answered > before);
            let mut client = server.connect();
            client.send(get(&misdeed.target));
            let response = client.receive();
            let found = (response.status, response.text().trim_end());
            assert_eq!(found, (misdeed.status, misdeed.reason), "{misdeed:?}");
        }
        let before = server.figures().served.answered;
        server.until("good requests go on", |now| now.served.answered > before);
        end.store(true, Ordering::Relaxed);
        loading.join().expect("it does not panic")
    });
    let good = good.expect("it can be loaded");
    let lost = (good.failed.total(), good.reconnects, good.unsolicited);
    assert_eq!(lost, (0, 0, 0), "{:?}", good.failed);
    let served = server.figures().served;
    assert_eq!(served.failed, misdeeds.len() as u64);
    assert_eq!((served.rejected, served.timed_out), (0, 0));
    for misdeed in &misdeeds {
        let class = (misdeed.class)(&served);
        let alike = misdeeds
            .iter()
            .filter(|other| other.reason == misdeed.reason);
        assert_eq!(class, alike.count() as u64, "{misdeed:?}");
    }
}
