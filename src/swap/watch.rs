//! Asks for a reload when a handler's file has changed.
//!
//! Looks at the files' metadata five times a second rather than having the kernel tell: that works on
//! every file system, however an editor writes, and survives a directory that vanishes and comes back,
//! without a case of its own. A change counts when two looks see the same file, so that one that is
//! still being written is let be; one that is not a handler then is refused, and tried again when it
//! changes.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

use super::{Ask, Swapper};
use crate::control;
use crate::sandbox::Source;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(200);

/// What is looked at: device, file, length, time of change in nanoseconds. None: no file is there.
type Look = Option<(u64, u64, u64, i128)>;

/// One watched file.
struct Watched {
    route: usize,
    path: PathBuf,
    /// What the last look saw.
    last: Look,
    /// What the handler was loaded from, or could not be.
    settled: Look,
}

impl Watched {
    /// Whether the file has become another, and is no longer changing.
    fn has_changed(&mut self, now: Look) -> bool {
        let steady = now == self.last;
        self.last = now;
        let changed = steady && now.is_some() && now != self.settled;
        if changed {
            self.settled = now;
        }
        changed
    }
}

fn look(path: &PathBuf) -> Look {
    let found = fs::metadata(path).ok()?;
    let changed_ns = i128::from(found.mtime()) * 1_000_000_000 + i128::from(found.mtime_nsec());
    Some((found.dev(), found.ino(), found.len(), changed_ns))
}

/// Watches the files of all routes, on a thread of its own. Returns how many there are.
pub fn start(swapper: Swapper) -> usize {
    let sources = swapper.sources().iter().enumerate();
    let files = sources.filter_map(|(route, source)| match source {
        Source::File(path) => Some((route, path.clone())),
        Source::Builtin(_) => None,
    });
    let mut watched: Vec<Watched> = files
        .map(|(route, path)| {
            let now = look(&path);
            Watched {
                route,
                path,
                last: now,
                settled: now,
            }
        })
        .collect();
    let count = watched.len();
    if count > 0 {
        control::helper(control::HELPERS[4], move || {
            loop {
                std::thread::sleep(LOOK);
                for file in &mut watched {
                    if file.has_changed(look(&file.path)) {
                        reload(&swapper, file.route);
                    }
                }
            }
        });
    }
    count
}

fn reload(swapper: &Swapper, route: usize) {
    match swapper.ask(Ask::Reload { route: Some(route) }) {
        Ok(answer) if answer.changed => {
            let now = &answer.routes[route];
            eprintln!("ringlab: {} is version {} now", now.handler, now.version);
        }
        Ok(_) => {}
        Err(refusal) => eprintln!("ringlab: {refusal}; the old one stays"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_counts_once_and_when_it_is_over() {
        let file = |length| Some((1, 1, length, 1));
        let mut watched = Watched {
            route: 0,
            path: PathBuf::new(),
            last: file(1),
            settled: file(1),
        };
        let looks = [
            (file(1), false),
            (file(2), false),
            (file(3), false),
            (file(3), true),
            (file(3), false),
            (None, false),
            (None, false),
            (file(3), false),
            (file(3), false),
            (file(4), false),
            (file(4), true),
        ];
        for (nth, (now, changed)) in looks.into_iter().enumerate() {
            assert_eq!(watched.has_changed(now), changed, "look {nth}");
        }
    }
}
