//! The axes of a comparison, and its cores, out of the arguments.

use super::super::{Cores, Refusal};
use super::Arguments;
use crate::cli::Exit;
use crate::config::cores;
use crate::descriptors;
use crate::experiment::plan::Arm;
use crate::layout::Layout;
use crate::models::{self, MODELS, Model};
use crate::offload::Policy;
use crate::sandbox::Isolation;

impl Arguments {
    /// The models asked for, or else `usual`, that can run here; and why the others cannot.
    pub(super) fn models(
        &self,
        usual: &[&str],
    ) -> Result<(Vec<&'static Model>, Vec<String>), String> {
        let names: Vec<&str> = match self.model.is_empty() {
            true => usual.to_vec(),
            false => self.model.iter().map(String::as_str).collect(),
        };
        let asked: Vec<&Model> = if names.contains(&"all") {
            MODELS.iter().collect()
        } else {
            let find = |name: &&str| {
                models::asked(name).map_err(|sentence| format!("{sentence}, or `all`"))
            };
            names.iter().map(find).collect::<Result<_, _>>()?
        };
        let mut models: Vec<&Model> = Vec::new();
        let mut left_out = Vec::new();
        for model in asked {
            match (model.check)() {
                _ if models.contains(&model) => {}
                Ok(()) => models.push(model),
                Err(reason) => left_out.push(format!("{} n/a: {reason}", model.name)),
            }
        }
        Ok((models, left_out))
    }

    /// Of `arms` those that `check` lets pass. What keeps the others out is added to `left_out`, each
    /// reason once.
    ///
    /// # Errors
    /// None is left: the reasons.
    pub(super) fn possible(
        arms: Vec<Arm>,
        left_out: &mut Vec<String>,
        check: impl Fn(&Arm) -> Result<(), String>,
    ) -> Result<Vec<Arm>, Refusal> {
        let mut possible = Vec::new();
        for arm in arms {
            match check(&arm) {
                Ok(()) => possible.push(arm),
                Err(reason) if left_out.contains(&reason) => {}
                Err(reason) => left_out.push(reason),
            }
        }
        match possible.is_empty() {
            true => Err((Exit::BadInput, left_out.join("; "))),
            false => Ok(possible),
        }
    }

    pub(super) fn isolations(&self) -> Result<Vec<Isolation>, String> {
        if self.isolation.iter().any(|name| name == "all") {
            return Ok(Isolation::ALL.to_vec());
        }
        let mut isolations: Vec<Isolation> = Vec::new();
        for name in &self.isolation {
            let isolation = name
                .parse()
                .map_err(|error: crate::sandbox::UnknownIsolation| error.to_string())?;
            if !isolations.contains(&isolation) {
                isolations.push(isolation);
            }
        }
        Ok(isolations)
    }

    pub(super) fn layouts(&self) -> Result<Vec<Layout>, String> {
        if self.layout.iter().any(|name| name == "all") {
            return Ok(Layout::ALL.to_vec());
        }
        let mut layouts: Vec<Layout> = Vec::new();
        for name in &self.layout {
            let layout = name
                .parse()
                .map_err(|error: crate::layout::UnknownLayout| error.to_string())?;
            if !layouts.contains(&layout) {
                layouts.push(layout);
            }
        }
        Ok(layouts)
    }

    pub(super) fn offloads(&self) -> Result<Vec<Policy>, String> {
        if self.offload.iter().any(|name| name == "all") {
            return Ok(Policy::ALL.to_vec());
        }
        let mut offloads: Vec<Policy> = Vec::new();
        for name in &self.offload {
            let offload = name
                .parse()
                .map_err(|error: crate::offload::UnknownPolicy| error.to_string())?;
            if !offloads.contains(&offload) {
                offloads.push(offload);
            }
        }
        Ok(offloads)
    }

    /// Cores for both ends, apart where there are enough.
    pub(super) fn split_cores(&self) -> Result<(Vec<usize>, Vec<usize>), String> {
        let there = cores();
        let last = there
            .last()
            .copied()
            .ok_or("this process may run on no core")?;
        let server = self.cores.as_ref().map_or_else(|| vec![last], Cores::list);
        let apart: Vec<usize> = there
            .iter()
            .copied()
            .filter(|core| !server.contains(core))
            .collect();
        let client = match &self.client_cores {
            Some(client) => client.list(),
            None if apart.is_empty() && there.len() == 1 => there.clone(),
            None if apart.is_empty() => {
                return Err(
                    "the server has every core; leave at least one to the generator with --cores, or \
                     name the generator's with --client-cores and say --share-cores"
                        .to_string(),
                );
            }
            None => apart.into_iter().take(2 * server.len()).collect(),
        };
        for core in server.iter().chain(&client) {
            if !there.contains(core) {
                return Err(format!(
                    "there is no core {core} to run on here; choose from {there:?}"
                ));
            }
        }
        let shared = client.iter().find(|core| server.contains(core));
        match shared {
            Some(core) if there.len() > 1 && !self.share_cores => Err(format!(
                "server and generator would share core {core} and measure each other; choose others, or say --share-cores"
            )),
            _ => Ok((server, client)),
        }
    }

    /// As many of the connections wanted as there are descriptors for, and a sentence if those are
    /// fewer.
    pub(super) fn affordable(
        wanted: usize,
        server_cores: &[usize],
    ) -> Result<(usize, Option<String>), Refusal> {
        // Server and generator have the same limit, and the server needs more for itself.
        let own = descriptors::of_a_server(server_cores.len());
        let allowed = descriptors::allow(wanted + own);
        if allowed <= own {
            return Err((
                Exit::HostCannot,
                format!(
                    "{allowed} descriptors are too few for a server; raise `ulimit -n` above {own}"
                ),
            ));
        }
        let connections = wanted.min(allowed - own);
        let warning = (connections < wanted).then(|| {
            format!(
                "{allowed} descriptors allow {connections} connections, not {wanted}; raise `ulimit -n`"
            )
        });
        Ok((connections, warning))
    }
}
