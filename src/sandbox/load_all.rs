//! Several handlers loaded at once: each module is compiled once, and distinct ones side by side.

use super::Isolation;
use super::handler::{Handler, Source};
use super::limits::Limits;
use super::load_error::{Fault, LoadError};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// A handler to be loaded.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Where it comes from.
    pub source: Source,
    /// What is to stand between two of its requests.
    pub isolation: Isolation,
    /// What one of its requests may use.
    pub limits: Limits,
}

impl Wanted {
    /// Whether one compiled module does for both.
    fn shares_code_with(&self, other: &Wanted) -> bool {
        self.source == other.source
            && self.isolation.runs_code_of(other.isolation)
            && self.limits == other.limits
    }
}

/// Loads what is wanted, in that order. Those with one source share its compiled module, where their
/// limits are the same and their isolations run the same code; a file is read once for all of them.
/// Threads are started for it, as many as this process has cores, and have ended when it returns.
///
/// # Errors
/// The first of them that cannot be loaded.
pub fn load_all(wanted: &[Wanted]) -> Result<Vec<Handler>, LoadError> {
    let mut distinct: Vec<&Wanted> = Vec::new();
    let which = wanted.iter().map(|one| {
        let same = |other: &&Wanted| one.shares_code_with(other);
        distinct.iter().position(same).unwrap_or_else(|| {
            distinct.push(one);
            distinct.len() - 1
        })
    });
    let which: Vec<usize> = which.collect();
    let loaded = load_distinct(&distinct)?;
    let handlers = wanted.iter().zip(which);
    Ok(handlers
        .map(|(one, nth)| loaded[nth].under(one.isolation))
        .collect())
}

fn load_distinct(distinct: &[&Wanted]) -> Result<Vec<Handler>, LoadError> {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let next = AtomicUsize::new(0);
    // Each thread takes what nobody has taken yet.
    let work = || {
        let mut done = Vec::new();
        loop {
            let nth = next.fetch_add(1, Ordering::Relaxed);
            let Some(one) = distinct.get(nth) else {
                return done;
            };
            done.push((nth, Handler::load(&one.source, one.isolation, &one.limits)));
        }
    };
    let stacks = distinct.iter().map(|one| one.limits.compiler_stack_bytes());
    let stack_bytes = stacks.max().unwrap_or_default();
    let mut loaded = thread::scope(|scope| {
        let threads: Vec<_> = (0..cores.min(distinct.len()))
            .map(|_| {
                thread::Builder::new()
                    .name("compile".to_owned())
                    .stack_size(stack_bytes)
                    .spawn_scoped(scope, work)
            })
            .collect();
        let mut loaded = Vec::with_capacity(distinct.len());
        let mut refused = None;
        for thread in threads {
            match thread {
                Ok(thread) => match thread.join() {
                    Ok(done) => loaded.extend(done),
                    Err(panic) => std::panic::resume_unwind(panic),
                },
                // Those that were started do the work of those that were not.
                Err(error) => refused = Some(error),
            }
        }
        match (refused, distinct.first()) {
            (Some(error), Some(first)) if loaded.is_empty() => Err(LoadError {
                handler: first.source.to_string(),
                fault: Fault::Host(format!("no thread can be started to compile: {error}")),
            }),
            _ => Ok(loaded),
        }
    })?;
    loaded.sort_unstable_by_key(|(nth, _)| *nth);
    loaded.into_iter().map(|(_, handler)| handler).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(wanted: &[(&str, Isolation)]) -> Result<Vec<Handler>, LoadError> {
        let wanted = wanted.iter().map(|(name, isolation)| Wanted {
            source: Source::parse(name),
            isolation: *isolation,
            limits: Limits::default(),
        });
        load_all(&wanted.collect::<Vec<_>>())
    }

    #[test]
    fn one_source_is_compiled_once_for_all_isolations_that_can_share_it() {
        use Isolation::{Fresh, Native, OnDemand, Reset, Reuse};
        let asked = [
            ("hello", Reuse),
            ("echo", Reuse),
            ("hello", Fresh),
            ("hello", Native),
            ("hello", OnDemand),
            ("hello", Reset),
            ("hello", Reuse),
            ("hello", Reset),
        ];
        let loaded = load(&asked).expect("all of them good");
        for ((name, isolation), handler) in asked.iter().zip(&loaded) {
            assert_eq!(handler.describe().name, *name);
            assert_eq!(handler.isolation(), *isolation);
        }
        let sharing = |one: &Handler| -> Vec<usize> {
            let all = (0..).zip(&loaded);
            all.filter_map(|(nth, other)| one.shares_code_with(other).then_some(nth))
                .collect()
        };
        let shared: Vec<_> = loaded.iter().map(sharing).collect();
        let plain = vec![0, 2, 4, 6];
        let reset = vec![5, 7];
        let expected = [
            plain.clone(),
            vec![1],
            plain.clone(),
            vec![],
            plain.clone(),
            reset.clone(),
            plain,
            reset,
        ];
        assert_eq!(shared, expected);
    }

    #[test]
    fn the_first_that_cannot_be_loaded_is_said() {
        let asked = ["hello", "helo", "ecoh", "echo"].map(|name| (name, Isolation::Reuse));
        let error = load(&asked).err().expect("two of them are no handlers");
        assert_eq!(error.handler, "helo");
        assert!(load(&[]).is_ok_and(|none| none.is_empty()));
    }
}
