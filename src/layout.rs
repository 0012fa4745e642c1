//! How a server's cores are laid out: as threads of one process, or as processes.

use std::fmt;
use std::str::FromStr;

/// A layout. Either has one pinned thread that serves for each core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Layout {
    /// All of them in one process.
    Threads,
    /// Each in a process of its own.
    Processes,
}

impl Layout {
    /// Every layout, the cheapest first.
    pub const ALL: [Layout; 2] = [Layout::Threads, Layout::Processes];

    /// One sentence for listings.
    pub fn sentence(self) -> &'static str {
        match self {
            Layout::Threads => "One process with a pinned thread for each core.",
            Layout::Processes => {
                "A process for each core, on one address, under a parent that serves nothing: Node's cluster."
            }
        }
    }

    fn name(self) -> &'static str {
        match self {
            Layout::Threads => "threads",
            Layout::Processes => "processes",
        }
    }
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// No layout has this name.
#[derive(Debug, thiserror::Error)]
#[error("no layout is called {0:?}; choose one of threads, processes")]
pub struct UnknownLayout(String);

impl FromStr for Layout {
    type Err = UnknownLayout;

    fn from_str(text: &str) -> Result<Layout, UnknownLayout> {
        Layout::ALL
            .into_iter()
            .find(|layout| layout.name() == text)
            .ok_or_else(|| UnknownLayout(text.to_owned()))
    }
}
