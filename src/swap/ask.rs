//! What a swapper may be asked, and what it answers: plain data, a line of JSON each on the socket.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::sandbox::LoadError;

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ask {
    /// How things are.
    Status,
    /// Another handler for a route; the only one, if none is named.
    Swap {
        /// The route's path.
        route: Option<String>,
        /// A built-in's name, or a file's absolute path.
        to: String,
    },
    /// The handler before this one.
    Back {
        /// The route's path.
        route: Option<String>,
    },
    /// The handler's file anew, of the route of this number or of all.
    Reload {
        /// The route's number.
        route: Option<usize>,
    },
}

/// How things are, after what was asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Answer {
    /// Whether a handler was exchanged.
    pub changed: bool,
    /// Every route.
    pub routes: Vec<RouteStatus>,
    /// Exchanged handlers that are in use still, counted in each shard.
    pub retired: usize,
}

/// One route.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RouteStatus {
    /// Its path; empty where one handler answers everything.
    pub path: String,
    /// 1 at the start, one more with each exchange.
    pub version: u64,
    /// The built-in's name or the file's path.
    pub handler: String,
    /// FNV-1a over the module; none for a handler that is linked in.
    pub hash: Option<String>,
    /// The module's length, in bytes.
    pub bytes: Option<usize>,
    /// What stands between two requests.
    pub isolation: String,
    /// What loading the module took, in microseconds.
    pub compile_us: u64,
    /// When this version began.
    pub since: SystemTime,
    /// Requests that this version was called for.
    pub served: u64,
    /// The handler to go back to.
    pub before: Option<String>,
}

/// Why it cannot be done, in a sentence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{0}")]
pub struct Refusal(pub String);

impl From<&str> for Refusal {
    fn from(sentence: &str) -> Refusal {
        Refusal(sentence.to_owned())
    }
}

impl From<LoadError> for Refusal {
    fn from(error: LoadError) -> Refusal {
        Refusal(error.to_string())
    }
}
