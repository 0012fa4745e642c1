//! What is compared: arms that differ in one thing, two named loads, and the order of the blocks.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::block::{CALLS_COUNTED, Pass};
use crate::layout::Layout;
use crate::models::{self, Model, Shape};
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
}

fn threads() -> String {
    Layout::Threads.to_string()
}

impl Arm {
    /// Whether the program's count has all of its system calls: a runtime's own are not in it, be it
    /// that of the loop or that of the sandbox, which maps memory for each request `on-demand`.
    pub fn counts_its_calls(&self) -> bool {
        self.isolation != Isolation::OnDemand.to_string()
            && models::find(&self.model).is_none_or(|model| model.shape != Shape::RuntimeOwned)
    }
}

impl Arm {
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
    /// What is compared; the first is the one that the others are read against.
    pub arms: Vec<Arm>,
    /// The arm that runs a second time as if it were another: the A/A control.
    pub control_of: usize,
    /// What was asked for and cannot be here, each with its reason.
    pub left_out: Vec<String>,
    /// What limits this experiment, each with its cause.
    pub warnings: Vec<String>,
    /// Cores of the server.
    pub server_cores: Vec<usize>,
    /// Cores of the generator.
    pub client_cores: Vec<usize>,
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

/// A server process takes about this long to be there.
const START: Duration = Duration::from_millis(100);

impl Plan {
    /// Arms and the control: the control is the last.
    pub fn runners(&self) -> Vec<Arm> {
        let mut runners = self.arms.clone();
        let control = &self.arms[self.control_of];
        runners.push(Arm {
            label: format!("{} (control)", control.label),
            ..control.clone()
        });
        runners
    }

    /// About how long it takes.
    pub fn estimate(&self) -> Duration {
        let counted = (self.arms.len() * self.count_rounds) as u32;
        (START + self.warm_up + self.window) * self.blocks() as u32 + CALLS_COUNTED * counted
    }

    /// How many blocks there are, if no round is added.
    pub fn blocks(&self) -> usize {
        let pilot = self.arms.len();
        let compared = self.runners().len() * (self.rounds + self.equal_rate_rounds);
        let recorded = Load::ALL.into_iter().flat_map(|load| self.observed(load));
        pilot + compared + self.arms.len() * recorded.map(|passes| passes.len()).sum::<usize>()
    }

    /// The observed blocks of an arm under `load`: for each round those that stand side by side, in
    /// the order of an even round.
    ///
    /// The block without an observer stands between the others, next to both: what they cost is
    /// read against it, so that a machine that grows faster or slower does not look like a price.
    pub fn observed(&self, load: Load) -> Vec<Vec<Pass>> {
        let (time, counts) = match load {
            Load::Saturation => (self.ledger_rounds, self.count_rounds),
            Load::EqualRate if self.equal_rate_rounds == 0 => (0, 0),
            Load::EqualRate => (self.ledger_rounds, 0),
        };
        let round = |round| {
            let time = (round < time).then_some(Pass::Time);
            let counts = (round < counts).then_some(Pass::Counts);
            time.into_iter().chain([Pass::Beside]).chain(counts)
        };
        let rounds = 0..time.max(counts);
        rounds.map(|nth| round(nth).collect()).collect()
    }

    /// Whether arms differ in their layout, so that memory is of interest besides cost.
    pub fn has_layouts(&self) -> bool {
        let first = &self.arms[0].layout;
        self.arms.iter().any(|arm| arm.layout != *first)
    }

    /// Whether arms differ in their isolation, so that what each costs and buys is of interest.
    pub fn has_isolations(&self) -> bool {
        let first = &self.arms[0].isolation;
        self.arms.iter().any(|arm| arm.isolation != *first)
    }

    /// Both ends on one core: nothing but CPU per request can be read from it.
    pub fn shares_a_core(&self) -> bool {
        self.client_cores
            .iter()
            .any(|core| self.server_cores.contains(core))
    }
}

/// Every combination of the values asked for, each with the shortest label that tells it apart.
pub fn arms(
    models: &[&Model],
    isolations: &[Isolation],
    layouts: &[Layout],
    handlers: &[String],
) -> Vec<Arm> {
    let only_models = isolations.len() == 1 && layouts.len() == 1 && handlers.len() == 1;
    let mut arms = Vec::new();
    for handler in handlers {
        for isolation in isolations {
            for model in models {
                for layout in layouts {
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
                    if handlers.len() > 1 {
                        label.push(handler.clone());
                    }
                    arms.push(Arm {
                        label: label.join(" "),
                        model: model.name.to_string(),
                        isolation: isolation.to_string(),
                        handler: handler.clone(),
                        layout: layout.to_string(),
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
    use crate::models::find;

    fn labels(models: &[&str], isolations: &[Isolation], handlers: &[&str]) -> Vec<String> {
        let models: Vec<_> = models.iter().map(|name| find(name).unwrap()).collect();
        let handlers: Vec<_> = handlers.iter().map(|name| name.to_string()).collect();
        arms(&models, isolations, &[Layout::Threads], &handlers)
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
        let layouts = arms(&epoll, &reuse, &Layout::ALL, &["hello".to_string()]);
        let labels: Vec<_> = layouts.iter().map(|arm| &*arm.label).collect();
        assert_eq!(labels, ["threads", "processes"]);
    }
}
