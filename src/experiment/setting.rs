//! What an experiment compares, and on which cores: the same in all of them.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::plan::Arm;
use crate::load::{self, Target};

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

    /// What the generator does whatever the load is: it asks `server` for `path`, and takes 200 for an
    /// answer.
    pub(super) fn load(&self, path: &str, server: SocketAddr) -> load::Plan {
        let mut request = Target::get(path);
        request.expect.status = Some(200);
        let mut work = load::Plan::new(server, server.to_string(), vec![request]);
        work.cores = self.client_cores.clone();
        // The server would wait for it.
        work.spins = !self.shares_a_core();

        work
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generator_spins_on_cores_of_its_own() {
        let check = |client_cores: &[usize], spins: bool| {
            let setting = Setting {
                arms: Vec::new(),
                control_of: 0,
                left_out: Vec::new(),
                warnings: Vec::new(),
                server_cores: vec![1, 2],
                client_cores: client_cores.to_vec(),
            };
            let load = setting.load("/", SocketAddr::from(([127, 0, 0, 1], 8080)));
            assert_eq!((load.spins, &load.cores[..]), (spins, client_cores));
        };
        check(&[0, 3], true);
        check(&[0, 2], false);
    }
}
