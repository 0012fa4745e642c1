//! Why a handler cannot be loaded: one sentence each, with fact, cause and remedy.

use super::engine::TABLES;
use super::failure::{Failure, Refused};
use super::handler::FILE_LIMIT_MIB;
use super::limits::START_DEADLINE;
use std::io;
use wasmtime::{ExternType, Trap};

/// A handler could not be loaded.
#[derive(Debug, thiserror::Error)]
#[error("cannot load handler {handler}: {fault}")]
pub struct LoadError {
    /// The name or path that was asked for.
    pub handler: String,
    /// What is wrong with it.
    pub fault: Fault,
}

impl LoadError {
    /// Whether the host is at fault rather than the handler.
    pub fn is_the_hosts(&self) -> bool {
        matches!(self.fault, Fault::Host(_))
    }
}

/// What is wrong with a handler.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// No file is there.
    #[error("there is no such file; give the path of a .wasm or .wat file, or a built-in's name")]
    Missing,
    /// A file is there, but cannot be read.
    #[error("the file cannot be read: {0}; give a regular file that this user may read")]
    Unreadable(io::Error),
    /// The file is over the limit.
    #[error(
        "the file is larger than {FILE_LIMIT_MIB} MiB, the most that is loaded; build the module \
         in release mode and strip it"
    )]
    TooLarge,
    /// Somebody writes it.
    #[error(
        "the file changed while it was read; write it under another name and rename it, or try again"
    )]
    Changing,
    /// Neither the binary format nor the text format; holds the first bytes.
    #[error(
        "it {0}, where a module begins with 00 61 73 6d or, as a text, with a parenthesis; build \
         the handler for the target wasm32-unknown-unknown"
    )]
    NotWasm(String),
    /// The text format's parser refuses it.
    #[error("its text is refused: {0}; correct the text there")]
    Text(String),
    /// The validator, the compiler or the pool refuses it.
    #[error(
        "its code is refused: {0}; build it for plain wasm32-unknown-unknown, without features \
         beyond the default"
    )]
    Invalid(String),
    /// It imports something; holds the first import's module and name.
    #[error(
        "it imports {0}, and a guest imports nothing it was not given; build it without WASI or \
         other bindings"
    )]
    Import(String),
    /// An export of the ABI is missing or of another type.
    #[error("{0}; build it with the guest SDK, or export what guest/ABI.md lists")]
    NoAbi(String),
    /// It exports another version of the ABI.
    #[error("it exports {0}, and this host speaks ringlab_v1; build it with this version's SDK")]
    OtherVersion(String),
    /// It has state that isolation `reset` cannot put back; holds each thing that was found.
    #[error("isolation reset cannot put all of its state back: {}; choose isolation fresh", .0.join("; "))]
    OutOfReach(Vec<String>),
    /// The request area is not where the module says.
    #[error("its request area {0}; let {area} hold the address of its capacity", area = super::abi::AREA)]
    Area(String),
    /// It starts with more memory than a module may.
    #[error(
        "its memory starts with {needs} bytes, over the limit of {limit}; link it with less stack and \
         static data, or raise the limit, which only `serve` can, with --memory"
    )]
    Memory {
        /// Bytes that it starts with.
        needs: u64,
        /// [`Limits::first_memory_bytes`](super::Limits::first_memory_bytes).
        limit: usize,
    },
    /// A table starts with more entries than it may have.
    #[error(
        "a table of it starts with {needs} entries, over the limit of {limit}; link it with fewer \
         functions whose addresses are taken, or raise the limit, which only `serve` can, with --tables"
    )]
    TableEntries {
        /// Entries that the largest starts with.
        needs: u64,
        /// [`Limits::table_entries`](super::Limits::table_entries).
        limit: usize,
    },
    /// It has more tables than a module may.
    #[error("it has {0} tables, over the limit of {TABLES}; put what they hold into fewer")]
    Tables(u32),
    /// The module's start function fails.
    #[error("no instance can be started: {0}; correct the module's start function")]
    Start(Failure),
    /// It does not return in time.
    #[error(
        "no instance can be started: its start function passed its deadline, the {} s of CPU time that it \
         may take, or --deadline if that is less; correct the module's start function",
        START_DEADLINE.as_secs()
    )]
    StartDeadline,
    /// No built-in has this name.
    #[error("no built-in handler has this name; {0}")]
    UnknownBuiltin(String),
    /// A file cannot run natively.
    #[error(
        "isolation native runs handlers that are linked in, and this is a file; choose isolation \
         reuse, reset, fresh or on-demand"
    )]
    NativeFile,
    /// A handler that is there to misbehave cannot run natively.
    #[error(
        "isolation native has no limits, and this handler is there to break them; choose \
         isolation reuse, reset, fresh or on-demand"
    )]
    NativeMisbehaves,
    /// Linked-in code has no loop heads that look whether it is time.
    #[error(
        "nothing interrupts a handler that is linked in, so it cannot be run in slices; choose \
         another isolation, or offload inline"
    )]
    NativeSliced,
    /// This host cannot make a sandbox, whatever the handler.
    #[error("the host cannot make a sandbox: {0}")]
    Host(String),
}

impl Fault {
    pub(super) fn host(error: &wasmtime::Error) -> Fault {
        let causes = error
            .chain()
            .filter_map(|cause| cause.downcast_ref::<io::Error>());
        let errno = causes.filter_map(io::Error::raw_os_error).next();
        let remedy = errno.map_or("", remedy);
        Fault::Host(one_line(error) + remedy)
    }

    /// No first instance could be made: what the module did, if it trapped or was `refused`
    /// something; whatever else fails is the host's.
    pub(super) fn start(error: &wasmtime::Error, refused: Option<Refused>) -> Fault {
        match refused {
            _ if matches!(error.downcast_ref(), Some(Trap::Interrupt)) => Fault::StartDeadline,
            _ if error.is::<Trap>() => Fault::Start(Failure::from_wasmtime(error, refused)),
            Some(refused) => Fault::Start(refused.into()),
            None => Fault::host(error),
        }
    }

    pub(super) fn invalid(error: &wasmtime::Error) -> Fault {
        Fault::Invalid(one_line(error))
    }

    pub(super) fn text(error: &wasmtime::Error) -> Fault {
        let text = one_line(error);
        // The parser draws the place: `reason --> <anon>:LINE:COLUMN | the line | a caret`.
        let drawn = text
            .split_once(" --> <anon>:")
            .and_then(|(reason, drawing)| {
                let (place, _) = drawing.split_once(' ')?;
                let (line, column) = place.split_once(':')?;
                Some(format!("{reason} at line {line}, column {column}"))
            });
        Fault::Text(drawn.unwrap_or(text))
    }

    pub(super) fn not_wasm(file: &[u8]) -> Fault {
        let first: Vec<String> = file
            .iter()
            .take(4)
            .map(|byte| format!("{byte:02x}"))
            .collect();
        Fault::NotWasm(if first.is_empty() {
            "is empty".to_owned()
        } else {
            format!("begins with {}", first.join(" "))
        })
    }

    pub(super) fn export(name: &str, expected: &str, found: Option<ExternType>) -> Fault {
        let kind = match found {
            None => return Fault::NoAbi(format!("it lacks the export {name}, {expected}")),
            Some(ExternType::Func(_)) => "function",
            Some(ExternType::Global(_)) => "global",
            Some(ExternType::Table(_)) => "table",
            Some(ExternType::Memory(_)) => "memory",
            Some(_) => "thing",
        };
        Fault::NoAbi(format!(
            "its export {name} is another {kind} than {expected}"
        ))
    }
}

/// What helps where the host cannot make a sandbox for this reason.
pub(super) fn remedy(errno: i32) -> &'static str {
    match errno {
        // The memory that each instance begins with is a file in memory (memfd_create(2)).
        libc::EFBIG => "; raise `ulimit -f` (RLIMIT_FSIZE)",
        libc::EMFILE => "; raise `ulimit -n`",
        // Of addresses or of mappings (mmap(2)).
        libc::ENOMEM => {
            "; raise `ulimit -v` or `sysctl vm.max_map_count`, or ask for fewer instances"
        }
        _ => "",
    }
}

/// The causes of `error`, on one line: parsers answer with a drawing of several.
fn one_line(error: &wasmtime::Error) -> String {
    let text = format!("{error:#}");
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ")
}
