//! From a name or a file to a handler that is checked and compiled.

use super::artifact::Artifact;
use super::instance::Blueprint;
use super::limits::Limits;
use super::load_error::{Fault, LoadError};
use super::{Isolation, builtin};
use ringlab_guest::Handler as NativeHandler;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

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
    limits: Limits,
    program: Program,
}

/// What answers a request.
pub(super) enum Program {
    Native(NativeHandler),
    Reuse(Artifact),
    Fresh(Artifact),
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
        let loaded = match source {
            Source::Builtin(name) => load_builtin(name, isolation, limits),
            Source::File(path) => load_file(path, isolation, limits),
        };
        let (program, module) = loaded.map_err(|fault| LoadError {
            handler: source.to_string(),
            fault,
        })?;
        let description = Description {
            name: source.to_string(),
            module,
        };
        Ok(Handler(Arc::new(Loaded {
            description,
            limits: limits.clone(),
            program,
        })))
    }

    /// What stands between two requests.
    pub fn isolation(&self) -> Isolation {
        match self.0.program {
            Program::Native(_) => Isolation::Native,
            Program::Reuse(_) => Isolation::Reuse,
            Program::Fresh(_) => Isolation::Fresh,
        }
    }

    /// Which handler this is, for results.
    pub fn describe(&self) -> &Description {
        &self.0.description
    }

    /// What one request may use.
    pub fn limits(&self) -> &Limits {
        &self.0.limits
    }

    pub(super) fn program(&self) -> &Program {
        &self.0.program
    }
}

fn load_builtin(
    name: &str,
    isolation: Isolation,
    limits: &Limits,
) -> Result<(Program, Option<ModuleIdentity>), Fault> {
    let unknown = || Fault::UnknownBuiltin(builtin::suggest(name));
    if isolation == Isolation::Native {
        let handler = builtin::native(name).ok_or_else(unknown)?;
        return Ok((Program::Native(handler), None));
    }
    compile(builtin::wasm(name).ok_or_else(unknown)?, isolation, limits)
}

fn load_file(
    path: &Path,
    isolation: Isolation,
    limits: &Limits,
) -> Result<(Program, Option<ModuleIdentity>), Fault> {
    if isolation == Isolation::Native {
        return Err(Fault::NativeFile);
    }
    compile(&read(path)?, isolation, limits)
}

fn read(path: &Path) -> Result<Vec<u8>, Fault> {
    let limit = FILE_LIMIT_MIB * 1024 * 1024;
    let mut file = File::open(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Fault::Missing,
        _ => Fault::Unreadable(error),
    })?;
    let mut wasm = Vec::new();
    // One byte more than allowed shows that the file is too large, whatever its metadata says.
    file.by_ref()
        .take(limit + 1)
        .read_to_end(&mut wasm)
        .map_err(Fault::Unreadable)?;
    if wasm.len() as u64 > limit {
        return Err(Fault::TooLarge);
    }
    Ok(wasm)
}

fn compile(
    wasm: &[u8],
    isolation: Isolation,
    limits: &Limits,
) -> Result<(Program, Option<ModuleIdentity>), Fault> {
    let artifact = Artifact::compile(wasm, limits)?;
    let trial = Limits {
        instances: 1,
        ..limits.clone()
    };
    Blueprint::new(&artifact, &trial)?;
    let identity = ModuleIdentity {
        bytes: wasm.len(),
        fnv1a64: fnv1a64(wasm),
    };
    let program = match isolation {
        Isolation::Fresh => Program::Fresh(artifact),
        Isolation::Reuse | Isolation::Native => Program::Reuse(artifact),
    };
    Ok((program, Some(identity)))
}

/// Fowler, Noll and Vo's hash 1a (RFC 9923).
fn fnv1a64(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
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

    /// The published test vectors of FNV-1a.
    #[test]
    fn the_hash_is_fnv1a() {
        assert_eq!(fnv1a64(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a64(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv1a64(b"foobar"), 0x8594_4171_f739_67e8);
    }
}
