//! What is compared: arms that differ in one thing, two named loads, and the order of the blocks.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::block::Pass;
use super::setting::Setting;
use super::stretch::{ALL_COUNTED, CALLS_COUNTED};
use crate::layout::Layout;
use crate::models::{self, Model, Shape};
use crate::offload::Policy;
use crate::sandbox::Isolation;

/// One way to serve.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arm {
    /// Unique in a plan, as tables show it.
    pub label: String,
    /// The I/O model's name.
    pub model: String,
    /// The isolation's name.
    pub isolation: String,
    /// The handler, by name or file.
    pub handler: String,
    /// The layout's name. Older results have none: they ran as threads.
    #[serde(default = "threads")]
    pub layout: String,
    /// The offload policy's name. Older results have none: their handlers ran inline.
    #[serde(default = "inline")]
    pub offload: String,
}

fn threads() -> String {
    Layout::Threads.to_string()
}

fn inline() -> String {
    Policy::Inline.to_string()
}

impl Arm {
    /// Why it cannot be, whatever the host: what it has on one axis does not go with what it has on
    /// another.
    pub fn check(&self) -> Result<(), String> {
        let model = models::find(&self.model).map(|model| model.shape);
        let (Some(shape), Ok(policy)) = (model, self.offload.parse::<Policy>()) else {
            return Ok(());
        };
        policy
            .check(shape)
            .map_err(|reason| format!("{policy} with {} n/a: {reason}", self.model))?;
        if policy == Policy::TimeSlice && self.isolation == Isolation::Native.to_string() {
            return Err(format!(
                "{policy} with native n/a: nothing interrupts a handler that is linked in"
            ));
        }
        Ok(())
    }
}

/// How many of an arm's system calls the program counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProgramCounts {
    /// All but what [`UNCOUNTED`](super::counts::UNCOUNTED) names, of which a light request has next to
    /// none.
    All,
    /// All that this program asks for itself; not what this is.
    AllBut(&'static str),
    /// All but what so many threads, born meanwhile, call at their birth.
    AllButBirths(u64),
    /// None: an async runtime owns the loop and makes them.
    None,
}

impl Arm {
    /// How many of its system calls the program counts.
    pub fn program_counts(&self) -> ProgramCounts {
        let shape = models::find(&self.model).map(|model| model.shape);
        let parks = shape == Some(Shape::ThreadPerConnection);
        match self.offload.parse() {
            _ if shape == Some(Shape::RuntimeOwned) => ProgramCounts::None,
            Ok(Policy::Spawn) => ProgramCounts::AllBut(
                "what the C library calls at a thread's birth and death, the thread's own timer and sandbox",
            ),
            Ok(Policy::Pool) if parks => ProgramCounts::AllBut(
                "threads parked and unparked, locks that several threads want",
            ),
            Ok(Policy::Pool) => ProgramCounts::AllBut("locks that several threads want"),
            _ if self.maps_for_each_request() => {
                ProgramCounts::AllBut("memory that the sandbox's runtime maps for each request")
            }
            _ => ProgramCounts::All,
        }
    }

    /// Whether handlers run on other threads than those that do the I/O.
    pub fn runs_elsewhere(&self) -> bool {
        matches!(self.offload.parse(), Ok(Policy::Spawn | Policy::Pool))
    }

    /// Whether the sandbox's runtime maps and unmaps memory for each request.
    pub fn maps_for_each_request(&self) -> bool {
        self.isolation == Isolation::OnDemand.to_string()
    }

    /// Whether it needs a generator: `null` has its requests in itself, as fast as it answers them.
    pub fn has_clients(&self) -> bool {
        models::find(&self.model).is_none_or(|model| model.shape != Shape::SelfDriven)
    }
}

/// Under which load a block is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Load {
    /// Closed loop: as much as the arm can.
    Saturation,
    /// Open loop: the same offered rate for all arms.
    EqualRate,
}

impl Load {
    /// Both, in the order in which they run: the rate comes from the capacities.
    pub const ALL: [Load; 2] = [Load::Saturation, Load::EqualRate];
}

/// An experiment.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// What is compared, and where.
    #[serde(flatten)]
    pub setting: Setting,
    /// What is requested.
    pub path: String,
    /// Connections of the generator.
    pub connections: usize,
    /// Rounds at saturation; each runs every arm and the control once.
    pub rounds: usize,
    /// Rounds at the equal rate.
    pub equal_rate_rounds: usize,
    /// Rounds at each load in which the server records where its time goes, each beside a block that
    /// records nothing; they follow the others, and count for the ledger alone.
    pub ledger_rounds: usize,
    /// Rounds at saturation in which the kernel counts too, beside the same blocks that record
    /// nothing; at most [`ledger_rounds`](Self::ledger_rounds), unless time cannot be recorded.
    pub count_rounds: usize,
    /// Load before measuring, in every block.
    pub warm_up: Duration,
    /// The measured part of every block.
    pub window: Duration,
    /// Requests per second at the equal rate; `None`: half the slowest arm's capacity.
    pub rate: Option<f64>,
    /// Of the order of the blocks and of the arrivals.
    pub seed: u64,
    /// Rounds are added until every ratio at saturation is known to within so many percent.
    pub until_percent: Option<f64>,
    /// No round is added after so long.
    pub max_time: Duration,
}

/// The arm that is its own control: the first on epoll, which every kernel has, or else the first.
pub fn control_of(arms: &[Arm]) -> usize {
    let on_epoll = |arm: &Arm| arm.model == "epoll";
    arms.iter().position(on_epoll).unwrap_or(0)
}

/// Observed rounds from which on a price has an interval, and a control that takes a block more: of
/// two rounds an interval is as wide as ten prices.
pub const PRICED_FROM: usize = 4;

/// Page faults per request beyond which they are timed. That costs a thread a microsecond at each context
/// switch, and fewer take some 10 ns of a request.
pub const FAULTS_UNTIMED: f64 = 0.01;

/// A server process takes about this long to be there.
const START: Duration = Duration::from_millis(100);

impl Plan {
    /// About how long it takes.
    pub fn estimate(&self) -> Duration {
        let observed = self.observed(Load::Saturation);
        let longer = |pass: &Pass| match self.counts_beside(Load::Saturation, *pass) {
            Some(longer) => longer,
            None if *pass == Pass::Counts => CALLS_COUNTED,
            None => Duration::ZERO,
        };
        let longer: Duration = observed.iter().flatten().map(longer).sum();
        (START + self.warm_up + self.window) * self.blocks() as u32
            + longer * self.setting.arms.len() as u32
    }

    /// How much longer a block warms up that is held against counting ones, which serve for as long
    /// before their window opens; `None` if there is none of them, or too few rounds to tell a price.
    /// A server that grows cheaper while it serves, as `blocking` does in its first second, would
    /// otherwise make counting look like a gain.
    pub(super) fn counts_beside(&self, load: Load, pass: Pass) -> Option<Duration> {
        let rounds = self.observed(load);
        let is_priced = rounds.len() >= PRICED_FROM && rounds[0].contains(&Pass::Counts);
        (is_priced && pass != Pass::Plain).then_some(ALL_COUNTED)
    }

    /// How many blocks there are, if no round is added.
    pub fn blocks(&self) -> usize {
        let pilot = self.setting.arms.len();
        let compared = self.setting.runners().len() * (self.rounds + self.equal_rate_rounds);
        let recorded = Load::ALL.into_iter().flat_map(|load| self.observed(load));
        pilot
            + compared
            + self.setting.arms.len() * recorded.map(|passes| passes.len()).sum::<usize>()
    }

    /// The observed blocks of an arm under `load`: for each round those that stand side by side, in
    /// the order of an even round.
    ///
    /// The block without an observer stands between the others, next to both: what they cost is
    /// read against it, so that a machine that grows faster or slower does not look like a price. With
    /// [`PRICED_FROM`] rounds there is one more, which is read against it, too.
    pub fn observed(&self, load: Load) -> Vec<Vec<Pass>> {
        let (time, counts) = match load {
            Load::Saturation => (self.ledger_rounds, self.count_rounds),
            Load::EqualRate if self.equal_rate_rounds == 0 => (0, 0),
            Load::EqualRate => (self.ledger_rounds, 0),
        };
        let rounds = 0..time.max(counts);
        let again = (rounds.len() >= PRICED_FROM).then_some(Pass::Again);
        let round = |round| {
            let time = (round < time).then_some(Pass::Time);
            let counts = (round < counts).then_some(Pass::Counts);
            let plain = [Pass::Beside].into_iter();
            time.into_iter().chain(plain).chain(counts).chain(again)
        };
        rounds.map(|nth| round(nth).collect()).collect()
    }

    /// Whether arms differ in their layout, so that memory is of interest besides cost.
    pub fn has_layouts(&self) -> bool {
        let first = &self.setting.arms[0].layout;
        self.setting.arms.iter().any(|arm| arm.layout != *first)
    }

    /// Whether arms differ in their isolation, so that what each costs and buys is of interest.
    pub fn has_isolations(&self) -> bool {
        let first = &self.setting.arms[0].isolation;
        self.setting.arms.iter().any(|arm| arm.isolation != *first)
    }
}

/// Every combination of the values asked for, each with the shortest label that tells it apart.
pub fn arms(
    models: &[&Model],
    isolations: &[Isolation],
    layouts: &[Layout],
    offloads: &[Policy],
    handlers: &[String],
) -> Vec<Arm> {
    let others = [
        isolations.len(),
        layouts.len(),
        offloads.len(),
        handlers.len(),
    ];
    let only_models = others.iter().all(|values| *values == 1);
    let mut arms = Vec::new();
    for handler in handlers {
        for isolation in isolations {
            for model in models {
                for (layout, offload) in layouts
                    .iter()
                    .flat_map(|layout| offloads.iter().map(move |offload| (layout, offload)))
                {
                    let mut label = vec![];
                    if models.len() > 1 || only_models {
                        label.push(model.name.to_string());
                    }
                    if isolations.len() > 1 {
                        label.push(isolation.to_string());
                    }
                    if layouts.len() > 1 {
                        label.push(layout.to_string());
                    }
                    if offloads.len() > 1 {
                        label.push(offload.to_string());
                    }
                    if handlers.len() > 1 {
                        label.push(handler.clone());
                    }
                    arms.push(Arm {
                        label: label.join(" "),
                        model: model.name.to_string(),
                        isolation: isolation.to_string(),
                        handler: handler.clone(),
                        layout: layout.to_string(),
                        offload: offload.to_string(),
                    });
                }
            }
        }
    }
    arms
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::tests::plan;
    use crate::models::find;

    #[test]
    fn who_is_held_against_a_counting_block_warms_up_for_as_long() {
        let longer = |ledger_rounds, count_rounds, load| {
            let plan = Plan {
                ledger_rounds,
                count_rounds,
                equal_rate_rounds: 1,
                ..plan()
            };
            let passes = [Pass::Time, Pass::Beside, Pass::Counts, Pass::Again];
            assert_eq!(plan.counts_beside(load, Pass::Plain), None);
            let longer = passes.map(|pass| plan.counts_beside(load, pass));
            assert!(longer.iter().all(|one| *one == longer[0]), "{longer:?}");
            longer[0]
        };
        let enough = PRICED_FROM;
        assert_eq!(longer(enough, enough, Load::Saturation), Some(ALL_COUNTED));
        assert_eq!(longer(0, enough, Load::Saturation), Some(ALL_COUNTED));
        // Nobody counts, or nobody tells a price of it.
        assert_eq!(longer(enough, enough, Load::EqualRate), None);
        assert_eq!(longer(enough, 0, Load::Saturation), None);
        assert_eq!(longer(enough - 1, enough - 1, Load::Saturation), None);
    }

    fn labels(models: &[&str], isolations: &[Isolation], handlers: &[&str]) -> Vec<String> {
        let models: Vec<_> = models.iter().map(|name| find(name).unwrap()).collect();
        let handlers: Vec<_> = handlers.iter().map(|name| name.to_string()).collect();
        let (layouts, offloads) = ([Layout::Threads], [Policy::Inline]);
        arms(&models, isolations, &layouts, &offloads, &handlers)
            .into_iter()
            .map(|arm| arm.label)
            .collect()
    }

    #[test]
    fn labels_name_what_differs_and_nothing_else() {
        let reuse = [Isolation::Reuse];
        assert_eq!(
            labels(&["epoll", "io_uring"], &reuse, &["hello"]),
            ["epoll", "io_uring"]
        );
        assert_eq!(
            labels(&["epoll"], &Isolation::ALL, &["hello"]),
            ["native", "reuse", "reset", "fresh", "on-demand"]
        );
        assert_eq!(
            labels(&["epoll"], &reuse, &["hello", "echo"]),
            ["hello", "echo"]
        );
        assert_eq!(labels(&["epoll"], &reuse, &["hello"]), ["epoll"]);
        let epoll = [find("epoll").unwrap()];
        let (hello, inline) = (["hello".to_string()], [Policy::Inline]);
        let layouts = arms(&epoll, &reuse, &Layout::ALL, &inline, &hello);
        let labels: Vec<_> = layouts.iter().map(|arm| &*arm.label).collect();
        assert_eq!(labels, ["threads", "processes"]);
        let threads = [Layout::Threads];
        let policies = arms(&epoll, &reuse, &threads, &Policy::ALL, &hello);
        let labels: Vec<_> = policies.iter().map(|arm| &*arm.label).collect();
        assert_eq!(labels, ["inline", "spawn", "pool", "time-slice"]);
    }

    #[test]
    fn what_cannot_be_says_why() {
        let models: Vec<_> = ["blocking", "epoll", "tokio_uring"]
            .map(|name| find(name).unwrap())
            .into();
        let isolations = [Isolation::Native, Isolation::Reuse];
        let (hello, threads) = (["hello".to_string()], [Layout::Threads]);
        let arms = arms(&models, &isolations, &threads, &Policy::ALL, &hello);
        let cannot: Vec<_> = arms.iter().filter(|arm| arm.check().is_err()).collect();
        assert!(cannot.iter().all(|arm| arm.offload == "time-slice"));
        let can = |arm: &Arm| arm.model == "epoll" && arm.isolation == "reuse";
        let labels: Vec<_> = cannot.iter().map(|arm| &*arm.label).collect();
        assert_eq!(labels.len(), 5, "{labels:?}");
        assert!(!cannot.iter().any(|arm| can(arm)), "{labels:?}");
    }
}
