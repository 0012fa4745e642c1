//! Handlers' files that change: taken whole or not at all, watched, and loaded anew at a hangup.

use std::fs;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use ringlab::swap::Ask;

use super::{Directory, Swapped, epoll, saying};
use crate::PATIENCE;
use crate::guests::File;

/// Whatever a read of it finds: all of one, all of the other, or none that is a module.
#[test]
fn a_file_that_is_written_without_end_is_taken_whole_or_not_at_all() {
    let file = File::new("written.wat", saying("tick"));
    let swapped = Swapped::new(epoll(), file.path(), &[]);
    let end = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !end.load(Ordering::Relaxed) {
                for four in ["tick", "tock"] {
                    let content = saying(four);
                    let mut file = fs::File::create(file.path()).expect("it is there");
                    for part in content.as_bytes().chunks(99) {
                        file.write_all(part).expect("it can be written");
                    }
                }
            }
        });
        let mut refusals = Vec::new();
        let start = Instant::now();
        while refusals.is_empty() && start.elapsed() < PATIENCE {
            refusals.extend(swapped.swap(file.path()).err());
            if !["tick", "tock"].contains(&swapped.text().as_str()) {
                refusals.push("it answers something else".into());
            }
        }
        end.store(true, Ordering::Relaxed);
        let refusal = refusals.first().expect("a part is found sooner or later");
        let known = ["is refused", "is empty", "changed while it was read"];
        assert!(known.iter().any(|one| refusal.0.contains(one)), "{refusal}");
    });
}

#[test]
fn a_changed_file_is_watched_and_a_half_written_one_refused() {
    let directory = Directory::new();
    let inner = directory.path("inner");
    let file = inner.join("h.wat");
    let write = |content: &str| {
        fs::create_dir_all(&inner).expect("it can be made");
        fs::write(&file, content).expect("it can be written");
    };
    write(&saying("old "));
    let path = file.to_str().expect("it is text").to_owned();
    let swapped = Swapped::new(epoll(), &path, &["--watch"]);
    assert_eq!(swapped.text(), "old ");
    write(&saying("half")[..200]);
    swapped.server.until_said("its text is refused");
    assert_eq!(swapped.text(), "old ");
    write(&saying("new "));
    swapped.until("new ");
    // Its directory vanishes and comes back.
    fs::remove_dir_all(&inner).expect("it is there");
    thread::sleep(Duration::from_millis(500));
    assert_eq!(swapped.text(), "new ");
    write(&saying("back"));
    swapped.until("back");
    let status = swapped.ask(Ask::Status).expect("always");
    assert_eq!(status.routes[0].version, 3);
    let said = swapped.server.kill();
    assert!(said.contains("the old one stays"), "{said}");
    assert!(said.contains("is version 2 now"), "{said}");
}

#[test]
fn a_hangup_loads_the_files_anew() {
    let directory = Directory::new();
    let file = directory.path("h.wat");
    fs::write(&file, saying("old ")).expect("it can be written");
    let path = file.to_str().expect("it is text").to_owned();
    let swapped = Swapped::new(epoll(), &path, &[]);
    assert_eq!(swapped.text(), "old ");
    fs::write(&file, saying("new ")).expect("it can be written");
    swapped.server.signal(Signal::SIGHUP);
    swapped.until("new ");
}
