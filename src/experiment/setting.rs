//! What an experiment compares, and on which cores: the same in all of them.

use serde::{Deserialize, Serialize};

use super::plan::Arm;

/// The part of a plan that every experiment has.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Setting {
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
}

impl Setting {
    /// Arms and the control: the control is the last.
    pub fn runners(&self) -> Vec<Arm> {
        let control = &self.arms[self.control_of];
        let again = Arm {
            label: format!("{} (control)", control.label),
            ..control.clone()
        };
        self.arms.iter().cloned().chain([again]).collect()
    }

    /// Both ends on one core: nothing but CPU time can be read from it.
    pub fn shares_a_core(&self) -> bool {
        let is_servers = |core| self.server_cores.contains(core);
        self.client_cores.iter().any(is_servers)
    }
}
