//! From a name or a file to a handler that is checked and compiled.

use super::artifact::Artifact;
use super::blueprint::Blueprint;
use super::limits::{Limits, START_DEADLINE};
use super::load_error::{Fault, LoadError};
use super::{Isolation, builtin};
use crate::hash::fnv1a64;
use ringlab_guest::Handler as NativeHandler;
use std::borrow::Cow;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// The largest file that is read, in MiB.
pub(super) const FILE_LIMIT_MIB: u64 = 64;

/// Where a handler comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// One that is built in, by its name.
    Builtin(String),
    /// A WebAssembly module, binary or text.
    File(PathBuf),
}

impl Source {
    /// What `text` on the command line means: a file if it contains a slash or ends in `.wasm` or
    /// `.wat`, otherwise a name.
    pub fn parse(text: &str) -> Source {
        if text.contains('/') || text.ends_with(".wasm") || text.ends_with(".wat") {
            Source::File(PathBuf::from(text))
        } else {
            Source::Builtin(text.to_owned())
        }
    }
}

impl Source {
    /// The module's bytes, binary or text, as they are loaded for any isolation but `native`.
    ///
    /// # Errors
    /// There is no such handler, or its file cannot be read.
    pub fn module(&self) -> Result<Cow<'static, [u8]>, LoadError> {
        module(self).map_err(|fault| LoadError {
            handler: self.to_string(),
            fault,
        })
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Builtin(name) => f.pad(name),
            Source::File(path) => path.display().fmt(f),
        }
    }
}

/// Which handler a result was measured with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// The built-in's name or the file's path.
    pub name: String,
    /// The module as it was loaded; none for a handler that is linked in.
    pub module: Option<ModuleIdentity>,
}

/// Enough to tell two modules apart, not to trust one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModuleIdentity {
    /// Length of the binary or text, in bytes.
    pub bytes: usize,
    /// FNV-1a over them, 64 bits wide.
    pub fnv1a64: u64,
}

impl fmt::Display for Description {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.module {
            Some(ModuleIdentity { bytes, fnv1a64 }) => {
                write!(f, "{} ({bytes} bytes, fnv1a64 {fnv1a64:016x})", self.name)
            }
            None => write!(f, "{} (linked in)", self.name),
        }
    }
}

/// A handler, loaded, checked and compiled. Clones share one copy.
#[derive(Clone)]
pub struct Handler(Arc<Loaded>);

struct Loaded {
    description: Description,
    isolation: Isolation,
    limits: Limits,
    program: Program,
    compile_time: Duration,
}

/// What answers a request.
#[derive(Clone)]
pub(super) enum Program {
    Native(NativeHandler),
    Wasm(Arc<Artifact>),
}

impl Handler {
    /// Loads the handler at `source`, compiles it, and tries one instance of it on the calling
    /// thread, whose stack must have [`Limits::thread_stack_bytes`].
    ///
    /// # Errors
    /// A sentence that names fact, cause and remedy.
    pub fn load(
        source: &Source,
        isolation: Isolation,
        limits: &Limits,
    ) -> Result<Handler, LoadError> {
        let begun = Instant::now();
        let (program, module) = load(source, isolation, limits).map_err(|fault| LoadError {
            handler: source.to_string(),
            fault,
        })?;
        let description = Description {
            name: source.to_string(),
            module,
        };
        Ok(Handler(Arc::new(Loaded {
            description,
            isolation,
            limits: limits.clone(),
            program,
            compile_time: begun.elapsed(),
        })))
    }

    /// The same code under another isolation that runs the same code.
    pub(super) fn under(&self, isolation: Isolation) -> Handler {
        debug_assert!(self.isolation().runs_code_of(isolation));
        Handler(Arc::new(Loaded {
            description: self.0.description.clone(),
            isolation,
            limits: self.0.limits.clone(),
            program: self.0.program.clone(),
            compile_time: self.0.compile_time,
        }))
    }

    /// Whether both run one copy of compiled code, as those that were loaded together from one source
    /// do. What is linked in was not compiled.
    pub fn shares_code_with(&self, other: &Handler) -> bool {
        match (self.program(), other.program()) {
            (Program::Wasm(one), Program::Wasm(other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }

    /// What stands between two requests.
    pub fn isolation(&self) -> Isolation {
        self.0.isolation
    }

    /// Which handler this is, for results.
    pub fn describe(&self) -> &Description {
        &self.0.description
    }

    /// How long it took to read, compile and try it.
    pub fn compile_time(&self) -> Duration {
        self.0.compile_time
    }

    /// What one request may use.
    pub fn limits(&self) -> &Limits {
        &self.0.limits
    }

    /// The linear memory that its instances begin with, in bytes, if that is as much as they may have:
    /// it never grows.
    pub fn memory_that_may_not_grow(&self) -> Option<usize> {
        match self.program() {
            Program::Native(_) => None,
            Program::Wasm(artifact) => Some(artifact.memory_bytes())
                .filter(|first_bytes| *first_bytes >= self.limits().memory_bytes),
        }
    }

    pub(super) fn program(&self) -> &Program {
        &self.0.program
    }
}

fn load(
    source: &Source,
    isolation: Isolation,
    limits: &Limits,
) -> Result<(Program, Option<ModuleIdentity>), Fault> {
    if isolation == Isolation::Native {
        if limits.quantum.is_some() {
            return Err(Fault::NativeSliced);
        }
        let handler = match source {
            Source::Builtin(name) if builtin::misbehaves(name) => {
                return Err(Fault::NativeMisbehaves);
            }
            Source::Builtin(name) => builtin::native(name).ok_or_else(|| unknown(name))?,
            Source::File(_) => return Err(Fault::NativeFile),
        };
        return Ok((Program::Native(handler), None));
    }
    let wasm = module(source)?;
    let artifact = Artifact::compile(&wasm, isolation, limits)?;
    // One instance on trial, so that whatever is wrong is said before the server listens.
    let trial = Limits {
        instances: 1,
        // Its code is gone again when the shards' is listed, perhaps at the same addresses.
        perf_map: false,
        ..limits.clone()
    };
    if artifact.has_start() && !trial.is_interruptible() {
        // Nothing would end a start function, so it is seen to return by code that something does end.
        let trial = Limits {
            deadline: Some(START_DEADLINE),
            ..trial.clone()
        };
        let interruptible = Artifact::compile(&wasm, isolation, &trial)?;
        Blueprint::try_in_pool(&interruptible, &trial)?;
    }
    Blueprint::try_in_pool(&artifact, &trial)?;
    let identity = ModuleIdentity {
        bytes: wasm.len(),
        fnv1a64: fnv1a64(&wasm),
    };
    Ok((Program::Wasm(Arc::new(artifact)), Some(identity)))
}

fn unknown(name: &str) -> Fault {
    Fault::UnknownBuiltin(builtin::suggest(name))
}

fn module(source: &Source) -> Result<Cow<'static, [u8]>, Fault> {
    match source {
        Source::Builtin(name) => builtin::wasm(name)
            .map(Cow::Borrowed)
            .ok_or_else(|| unknown(name)),
        Source::File(path) => read(path).map(Cow::Owned),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Fault> {
    let limit = FILE_LIMIT_MIB * 1024 * 1024;
    let mut file = File::open(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Fault::Missing,
        _ => Fault::Unreadable(error),
    })?;
    let before = Stamp::of(&file)?;
    let mut wasm = Vec::new();
    // One byte more than allowed shows that the file is too large, whatever its metadata says.
    file.by_ref()
        .take(limit + 1)
        .read_to_end(&mut wasm)
        .map_err(Fault::Unreadable)?;
    if wasm.len() as u64 > limit {
        return Err(Fault::TooLarge);
    }
    if Stamp::of(&file)? != before || wasm.len() as u64 != before.bytes {
        return Err(Fault::Changing);
    }
    Ok(wasm)
}

/// What changes when a file is written.
#[derive(PartialEq, Eq)]
struct Stamp {
    bytes: u64,
    modified: Option<SystemTime>,
}

impl Stamp {
    fn of(file: &File) -> Result<Stamp, Fault> {
        let found = file.metadata().map_err(Fault::Unreadable)?;
        // A pipe is as long as it is, and a device never ends.
        if !found.is_file() {
            let error = io::Error::other("it is no regular file");
            return Err(Fault::Unreadable(error));
        }
        Ok(Stamp {
            bytes: found.len(),
            modified: found.modified().ok(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_a_file_if_it_looks_like_one() {
        let check = |text: &str, is_file: bool| {
            let source = Source::parse(text);
            assert_eq!(matches!(source, Source::File(_)), is_file, "{text}");
            assert_eq!(source.to_string(), text);
        };
        check("hello", false);
        check("hello.wasm", true);
        check("hello.wat", true);
        check("./hello", true);
        check("/hello", true);
        check("wasm", false);
    }
}
