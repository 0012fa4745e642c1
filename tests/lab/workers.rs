//! Where the workers of a pool run.

use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use ringlab::config;

use crate::client::get;
use crate::server::{Server, some_core};
use crate::{Lab, PATIENCE, on_every_model};

on_every_model![workers_run_apart_from_the_shards];

const WORKERS: usize = 3;

/// The cores that the server's threads of this name may run on, in words of the kernel's, in the order
/// of their numbers.
fn cores_of(server: &Server, name: &str) -> Vec<String> {
    let tasks = format!("/proc/{}/task", server.pid());
    let mut found = Vec::new();
    for task in fs::read_dir(tasks).expect("it runs").flatten() {
        // One may have ended since it was listed.
        let read = |file: &str| fs::read_to_string(task.path().join(file)).unwrap_or_default();
        let thread = read("comm").trim().to_owned();
        let status = read("status");
        let allowed = status
            .lines()
            .find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        if let (true, Some(allowed)) = (thread.starts_with(name), allowed) {
            found.push((thread, allowed.trim().to_owned()));
        }
    }
    found.sort();
    found.into_iter().map(|(_, cores)| cores).collect()
}

fn workers_run_apart_from_the_shards(lab: Lab) {
    let serve = |options: &[&str]| {
        let pool = ["--offload", "pool", "--workers", "3"];
        let server = lab.serve("hello", &[&pool[..], options].concat());
        let mut client = server.connect();
        client.send(get("/"));
        assert_eq!(client.receive().status, 200);
        server
    };
    let check = |server: &Server, cores: &[usize]| {
        let expected = (0..WORKERS).map(|nth| cores[nth % cores.len()].to_string());
        let expected: Vec<_> = expected.collect();
        // A worker goes there when it begins, which need not be soon.
        let start = Instant::now();
        while cores_of(server, "worker ") != expected {
            let found = cores_of(server, "worker ");
            assert!(start.elapsed() < PATIENCE, "{found:?}, not {expected:?}");
            sleep(Duration::from_millis(2));
        }
    };
    let server = serve(&[]);
    let shards = cores_of(&server, "shard ");
    let all = config::cores().into_iter();
    let others: Vec<_> = all
        .filter(|core| !shards.contains(&core.to_string()))
        .collect();
    if others.is_empty() {
        crate::say_left_out("workers on cores of their own: there is one core only");
    } else {
        check(&server, &others);
    }
    let asked = some_core();
    check(&serve(&["--worker-cores", &asked.to_string()]), &[asked]);
}
