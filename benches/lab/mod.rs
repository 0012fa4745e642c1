//! What the benches of whole servers share: which cores they use, and a server for each I/O model.

use ringlab::config::{self, Config};
use ringlab::models::{MODELS, Shape};
use ringlab::sandbox::Source;
use ringlab::server::Server;

/// Who runs where: the client on the first core, the servers on the last. With one core both are
/// the same, and a result holds what it costs to switch between them.
pub struct Cores {
    /// The client's.
    pub client: usize,
    /// Every server's; only the one being measured has work.
    pub server: usize,
}

impl Cores {
    /// Of those that this process may use. To be asked before the calling thread is pinned.
    pub fn choose() -> Cores {
        let usable = config::cores();
        Cores {
            client: *usable.first().expect("this thread runs on a core"),
            server: *usable.last().expect("this thread runs on a core"),
        }
    }
}

/// A server in this process for each model that can run here, all with `hello` under `reuse`; the
/// others are named on standard error with the reason. They end with the process. To be called
/// before the calling thread is pinned: a server refuses a core that its starter may not use.
pub fn start(cores: &Cores) -> Vec<(&'static str, Server)> {
    let mut servers = Vec::new();
    for model in MODELS {
        // They share a core: one that never sleeps would take it from the others.
        if model.shape == Shape::SelfDriven || model.name == "nonblocking" {
            eprintln!(
                "{}: only `ringlab compare` runs it, alone on its core",
                model.name
            );
            continue;
        }
        if let Err(reason) = (model.check)() {
            eprintln!("{}: skipped: {reason}", model.name);
            continue;
        }
        let mut config = Config::new(Source::Builtin("hello".to_owned()), vec![cores.server]);
        config.model = model;
        let server = Server::start(config).expect("loopback has a free port");
        servers.push((model.name, server));
    }
    servers
}
