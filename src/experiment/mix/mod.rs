//! Light requests beside heavy ones: what each offload policy makes of the light one's latency.
//!
//! An arm is a policy on an I/O model. Each runs with no heavy request, which is what it is read
//! against, and then beside heavy ones of rising length and share. The light requests (`hello`) come in
//! open loop whatever happens to the heavy (`spin`): late answers are the result here, and no fault.
//!
//! | file | subject |
//! |---|---|
//! | `block` | one arm at one step, once |
//! | `run` | all blocks, one after the other |
//! | `analysis` | blocks in, rows and a verdict out |
//! | `result` | what is kept of it all |

pub mod analysis;
pub mod block;
pub mod result;
pub mod run;
#[cfg(test)]
mod tests;

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::setting::Setting;

/// Light requests a second for each core of the server: as many as have their 99.9th percentile carried
/// by less than three seconds, at a few hundredths of the core (but under `spawn`, of which a thread for
/// each takes a third).
pub const LIGHT_RATE: f64 = 4000.0;
/// Heavy requests that may always run, for each core: the handlers' instances bound them.
pub const ALWAYS_MAX: usize = 64;
/// How long a heavy request may be.
const LENGTHS: std::ops::RangeInclusive<Duration> =
    Duration::from_micros(100)..=Duration::from_secs(10);

/// How long all that always run may take together.
const BACKLOG_MAX: Duration = Duration::from_secs(60);

/// Heavy requests of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Heavy {
    /// CPU time that the guest of each takes, alone.
    pub length: Duration,
    /// How many there are.
    pub share: Share,
}

/// How much of the cores the heavy requests ask for.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Share {
    /// So many percent of them: they come evenly, in open loop, so that each block has as many.
    Percent(f64),
    /// All that there is: so many for each core are always there, in closed loop.
    Always(usize),
}

/// Text that is no [`Heavy`].
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum HeavyError {
    /// It has another form.
    #[error(
        "{0:?} is no kind of heavy requests; write how long each takes and how many there are, as a \
         part of the core's time or as a number that always run: `10ms:50%` or `100ms:8`"
    )]
    Form(String),
    /// Its time is out of range.
    #[error(
        "heavy requests of {0} take too little or too much: choose from 100us to 10s, and at most a minute for all that always run"
    )]
    Length(String),
    /// Its share is out of range.
    #[error(
        "a share of {0}: choose more than 0% and at most 100%, or from 1 to {ALWAYS_MAX} that always run"
    )]
    Share(String),
}

impl FromStr for Heavy {
    type Err = HeavyError;

    fn from_str(text: &str) -> Result<Heavy, HeavyError> {
        let form = || HeavyError::Form(text.to_string());
        let (length, share) = text.split_once(':').ok_or_else(form)?;
        let time = length.parse::<humantime::Duration>().map_err(|_| form())?;
        if !LENGTHS.contains(&time) {
            return Err(HeavyError::Length(length.to_string()));
        }
        let refused = || HeavyError::Share(share.to_string());
        let share = match share.strip_suffix('%') {
            Some(percent) => Share::Percent(percent.trim().parse().map_err(|_| form())?),
            None => Share::Always(share.parse().map_err(|_| form())?),
        };
        let is_there = match share {
            Share::Percent(percent) => percent > 0.0 && percent <= 100.0,
            Share::Always(count) => (1..=ALWAYS_MAX).contains(&count),
        };
        let length = *time;
        let heavy = is_there
            .then_some(Heavy { length, share })
            .ok_or_else(refused)?;
        match heavy.backlog() <= BACKLOG_MAX {
            true => Ok(heavy),
            false => Err(HeavyError::Length(text.to_string())),
        }
    }
}

impl fmt::Display for Heavy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let length = humantime::format_duration(self.length);
        match self.share {
            Share::Percent(percent) => write!(f, "{length}:{percent}%"),
            Share::Always(count) => write!(f, "{length}:{count}"),
        }
    }
}

impl Heavy {
    /// The kinds that are run if nobody says otherwise: of the short ones a quarter of the core and a
    /// half, of the longest a half and all of it.
    pub const DEFAULT: [Heavy; 6] = [
        Heavy::new(1, Share::Percent(25.0)),
        Heavy::new(1, Share::Percent(50.0)),
        Heavy::new(10, Share::Percent(25.0)),
        Heavy::new(10, Share::Percent(50.0)),
        Heavy::new(100, Share::Percent(50.0)),
        Heavy::new(100, Share::Always(8)),
    ];

    const fn new(ms: u64, share: Share) -> Heavy {
        let length = Duration::from_millis(ms);
        Heavy { length, share }
    }

    /// How long a light request may have to wait where nothing overtakes a heavy one: until all that
    /// are there are done.
    fn backlog(&self) -> Duration {
        self.length
            * match self.share {
                // Seldom more than a few, as they come evenly.
                Share::Percent(_) => 4,
                Share::Always(count) => count as u32,
            }
    }
}

/// The experiment.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// Policies on models, and where they run; the handler of each arm is what its light requests ask for.
    #[serde(flatten)]
    pub setting: Setting,
    /// The policy under which light requests run; `None`: as the heavy ones.
    pub light: Option<String>,
    /// Light requests per second, over all cores.
    pub rate: f64,
    /// Connections that the light requests are spread over.
    pub connections: usize,
    /// Beside what the light requests run, in turn, after they ran beside nothing.
    pub heavy: Vec<Heavy>,
    /// Rounds; each runs every arm and the control once at every step.
    pub rounds: usize,
    /// Load before measuring, in every block.
    pub warm_up: Duration,
    /// The measured part of every block.
    pub window: Duration,
    /// Of the order of the blocks and of the arrivals.
    pub seed: u64,
}

/// A server is started, and its heavy handler timed twice, in about this.
const START: Duration = Duration::from_millis(265);

impl Plan {
    /// Beside what the light requests run: first nothing, then each kind of heavy ones.
    pub fn steps(&self) -> Vec<Option<Heavy>> {
        let heavy = self.heavy.iter().copied().map(Some);
        [None].into_iter().chain(heavy).collect()
    }

    /// How many blocks there are.
    pub fn blocks(&self) -> usize {
        self.setting.runners().len() * self.steps().len() * self.rounds
    }

    /// Load before the window. One turn of all that always run is over then: until it is, who came
    /// first has been there as long as who came last.
    pub fn warm_up(&self, heavy: Option<Heavy>) -> Duration {
        let turn = heavy.map_or(Duration::ZERO, |heavy| heavy.backlog());
        self.warm_up.max(turn)
    }

    /// About how long it takes.
    pub fn estimate(&self) -> Duration {
        let runs = (self.setting.runners().len() * self.rounds) as u32;
        let block = |heavy: Option<Heavy>| {
            // What is there when the window closes is answered.
            let drain = heavy.map_or(Duration::ZERO, |heavy| heavy.backlog() / 2);
            START + self.warm_up(heavy) + self.window + drain
        };
        self.steps().into_iter().map(block).sum::<Duration>() * runs
    }
}

/// Connections that let light requests be sent on time even where they wait for all heavy ones, and then
/// for the next: a loop takes in some events a turn, and heavy requests are among them again. Bounded by
/// what a server takes.
pub fn connections(rate: f64, heavy: &[Heavy], cores: usize) -> usize {
    let longest = heavy.iter().map(Heavy::backlog).max().unwrap_or_default();
    let waiting = (rate * longest.as_secs_f64() * 2.5).ceil() as usize;
    waiting.clamp(64, 2500 * cores.max(1))
}
