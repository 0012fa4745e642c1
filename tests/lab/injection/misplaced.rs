//! The verdict put to the test: a live server that does the work of one stage in another, as if that bore the
//! wrong name. It must never be called right, however noisy the machine; and called wrong, in both rows, as
//! soon as they are known.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use ringlab::config::cores;
use ringlab::measure::probe::Stage;

use super::patient::{Load, Misplaced};
use super::study::{self, Question, Study};
use super::verdict::{Cell, Verdict};
use super::{conclude, inconclusive, list};
use crate::{Lab, say_left_out, tests_at};

tests_at!(
    blocking,
    "blocking",
    Reuse,
    work_in_another_stage_is_never_right
);
tests_at!(epoll, "epoll", Reuse, work_in_another_stage_is_never_right);
tests_at!(
    io_uring,
    "io_uring",
    Reuse,
    work_in_another_stage_is_never_right
);

/// Work that is done elsewhere than is believed, and under which load.
struct Case {
    misplaced: Misplaced,
    load: Load,
}

const KEPT: Case = Case {
    misplaced: Misplaced {
        meant: Stage::Http,
        given: Stage::Copy,
    },
    load: Load::Kept(16),
};
/// On two threads, of which one ends.
const BIRTHS: Case = Case {
    misplaced: Misplaced {
        meant: Stage::Accept,
        given: Stage::Close,
    },
    load: Load::Births(8),
};
/// Many times what a quiet machine takes.
const LONG_ENOUGH: Duration = Duration::from_secs(6);

impl Case {
    /// Asked until both rows are known.
    fn study(&self, lab: Lab, longest: Duration) -> Study {
        let question = Question {
            stages: &|stage| stage == self.misplaced.meant,
            misplaced: Some(self.misplaced),
            longest,
            is_enough: &|verdict| match verdict {
                Verdict::Right => true,
                Verdict::Wrong(cells) => self.tells_both(cells),
                Verdict::Inconclusive(_) => false,
            },
        };
        study::study(lab, self.load, question)
    }

    /// Whether less is found where the work should be, and more where it is.
    fn tells_both(&self, cells: &[Cell]) -> bool {
        let Misplaced { meant, given } = self.misplaced;
        [(meant, false), (given, true)]
            .into_iter()
            .all(|(row, more)| cells.iter().any(|cell| cell.says(meant, row, more)))
    }

    fn not_right(&self, verdict: Verdict) -> Vec<Cell> {
        match verdict {
            Verdict::Right => panic!(
                "work in the row {} is right in {}",
                self.misplaced.given.name(),
                self.misplaced.meant.name()
            ),
            Verdict::Wrong(cells) | Verdict::Inconclusive(cells) => cells,
        }
    }

    /// It is wrong, given time.
    fn is_wrong(&self, lab: Lab) {
        let study = || {
            let study = self.study(lab, study::longest());
            study.print(lab.model.name, self.load);
            study
        };
        let (verdict, needed) = conclude(study);
        if let Verdict::Inconclusive(cells) = &verdict {
            panic!("{}", inconclusive(lab, cells, needed));
        }
        let cells = self.not_right(verdict);
        println!(
            "WRONG ROW, as it should be: {}:{}",
            lab.model.name,
            list(&cells)
        );
        assert!(self.tells_both(&cells), "both rows are wrong");
    }
}

fn work_in_another_stage_is_never_right(lab: Lab) {
    if cores().len() < 2 {
        return say_left_out("server and client need a core each");
    }
    let study = KEPT.study(lab, LONG_ENOUGH);
    // What a busy machine has not shown by now it need not.
    let told = KEPT.not_right(study.verdict);
    println!("{}:{}", lab.model.name, list(&told));
}

fn is_wrong(lab: Lab) {
    KEPT.is_wrong(lab);
}

fn is_wrong_of_births(lab: Lab) {
    BIRTHS.is_wrong(lab);
}

/// The same beside a thread that takes what it can of the server's core.
fn is_wrong_beside_another(lab: Lab) {
    let over = AtomicBool::new(false);
    let core = *cores().last().expect("there is a core");
    let hog = || {
        core_affinity::set_for_current(core_affinity::CoreId { id: core });
        while !over.load(Ordering::Relaxed) {
            std::hint::spin_loop();
        }
    };
    thread::scope(|scope| {
        scope.spawn(hog);
        // The hog ends in any case.
        let wrong = scope.spawn(|| is_wrong(lab)).join();
        over.store(true, Ordering::Relaxed);
        wrong.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

/// A test each, so that each can be asked for.
mod figures {
    use super::{is_wrong, is_wrong_beside_another, is_wrong_of_births};

    macro_rules! figures {
        ($($name:ident: $model:literal, $check:ident;)+) => {
            $(#[test]
            #[ignore = "a measurement: takes seconds on an idle machine, and minutes on another"]
            fn $name() {
                crate::run($model, ringlab::sandbox::Isolation::Reuse, $check);
            })+
        };
    }
    figures! {
        blocking: "blocking", is_wrong;
        epoll: "epoll", is_wrong;
        io_uring: "io_uring", is_wrong;
        blocking_of_births: "blocking", is_wrong_of_births;
        // Its threads run before all ordinary ones, where they may; these do not.
        epoll_beside_another: "epoll", is_wrong_beside_another;
        io_uring_beside_another: "io_uring", is_wrong_beside_another;
    }
}
