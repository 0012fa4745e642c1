//! Compiles the built-in handlers to WebAssembly, packs their data and embeds them.
//!
//! For each `guest/examples/NAME.rs` there is `NAME.wasm` in `OUT_DIR`, and
//! `handlers.rs` there defines `WASM`, a table of names and modules for
//! `sandbox` to include. The cargo started here has a target directory of its
//! own, since the outer one is locked by the cargo that runs this, and none of
//! the outer one's flags and wrappers, which are for the host or for clippy.

use std::ffi::OsStr;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, exit};
use std::{env, fs, io};

// What users' modules go through when they are loaded, these have behind them: the files are small.
#[path = "src/sandbox/packed.rs"]
mod packed;

const TARGET: &str = "wasm32-unknown-unknown";

/// The built-in handlers need little stack, and bring the heap they need. With memory that is
/// small and never grows, a fresh sandbox is cheap to make and a used one cheap
/// to put back. The linker places the stack lowest, where overflow traps.
const RUSTFLAGS: [&str; 2] = [
    "-Clink-arg=-zstack-size=16384",
    "-Clink-arg=--no-growable-memory",
];

/// The handler that is there to grow, and so is linked without the second of these.
const GROWS: &str = "hog";

type Result<T> = std::result::Result<T, Failure>;

struct Failure {
    /// Fact, cause and remedy, in one line.
    sentence: String,
    /// What the compiler said; empty if it was not asked.
    details: String,
}

impl From<String> for Failure {
    fn from(sentence: String) -> Self {
        let details = String::new();
        Self { sentence, details }
    }
}

fn main() {
    // The profile `guest` is in Cargo.toml. The lock file is no input: the
    // guest depends on nothing.
    for input in [
        "build.rs",
        "Cargo.toml",
        "guest/Cargo.toml",
        "guest/src",
        "guest/examples",
        "src/sandbox/packed.rs",
    ] {
        println!("cargo::rerun-if-changed={input}");
    }
    if let Err(failure) = name_toolchain().and_then(|()| embed()) {
        println!("cargo::error={}", failure.sentence);
        if !failure.details.is_empty() {
            // Cargo shows what a build script wrote only if its exit code is not 0.
            eprint!("{}", failure.details);
            exit(1);
        }
    }
}

/// Results name the compiler that made the program.
fn name_toolchain() -> Result<()> {
    let rustc = variable("RUSTC")?;
    let output = Command::new(&rustc)
        .arg("--version")
        .output()
        .map_err(failed("run", Path::new(&rustc)))?;
    let version = String::from_utf8_lossy(&output.stdout);
    let target = variable("TARGET")?;
    let profile = variable("PROFILE")?;
    println!(
        "cargo::rustc-env=RINGLAB_TOOLCHAIN={} for {target}, {profile}",
        version.trim()
    );
    Ok(())
}

fn embed() -> Result<()> {
    let out = PathBuf::from(variable("OUT_DIR")?);
    let root = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    let names = handlers(&root.join("guest/examples"))?;
    require_target()?;
    let modules = compile(&root, &out.join("guest"), &["--examples"], &RUSTFLAGS)?;
    let growing = compile(
        &root,
        &out.join("growing"),
        &["--example", GROWS],
        &RUSTFLAGS[..1],
    )?;

    let mut table = String::from("/// Each built-in handler's name and module.\n");
    table += "pub static WASM: &[(&str, &[u8])] = &[\n";
    for name in &names {
        let from = if name == GROWS { &growing } else { &modules };
        // Cargo makes an identifier of a library's name.
        let file = format!("{}.wasm", name.replace('-', "_"));
        pack(&from.join(&file), &out.join(&file))?;
        writeln!(table, "    ({name:?}, include_bytes!({file:?})),").expect("a string takes all");
    }
    table += "];\n";
    let path = out.join("handlers.rs");
    fs::write(&path, table).map_err(failed("write", &path))
}

/// The names of the handlers that have a module, sorted.
fn handlers(examples: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(examples).map_err(failed("list", examples))? {
        let path = entry.map_err(failed("list", examples))?.path();
        if path.extension() == Some(OsStr::new("rs")) {
            names.extend(path.file_stem().and_then(OsStr::to_str).map(str::to_owned));
        }
    }
    names.sort();
    Ok(names)
}

/// Fails, with the remedy, if the compiler has no standard library for the target.
fn require_target() -> Result<()> {
    let output = Command::new(variable("RUSTC")?)
        .args(["--print", "target-libdir", "--target", TARGET])
        .output()
        .map_err(failed("run", Path::new("rustc")))?;
    // rustc names the directory whether it is there or not.
    let libraries = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    let is_core = |name: &OsStr| name.to_string_lossy().starts_with("libcore-");
    let installed = fs::read_dir(libraries)
        .is_ok_and(|mut entries| entries.any(|entry| entry.is_ok_and(|e| is_core(&e.file_name()))));
    if installed {
        return Ok(());
    }
    // Which toolchain that is may have been chosen on the command line.
    let toolchain = env::var("RUSTUP_TOOLCHAIN")
        .map(|name| format!(" --toolchain {name}"))
        .unwrap_or_default();
    Err(format!(
        "the handlers are compiled for {TARGET}, which this Rust toolchain lacks; \
         install it with: rustup target add{toolchain} {TARGET}"
    )
    .into())
}

/// Compiles those handlers below `target_dir`; answers where their modules are.
fn compile(root: &Path, target_dir: &Path, which: &[&str], flags: &[&str]) -> Result<PathBuf> {
    let mut cargo = Command::new(variable("CARGO")?);
    cargo
        .args(["build", "--package", "ringlab-guest"])
        .args(which)
        .args(["--profile", "guest", "--target", TARGET, "--target-dir"])
        .arg(target_dir)
        // The outer cargo has settled the lock file, and fetched what is to fetch.
        .args(["--locked", "--manifest-path"])
        .arg(root.join("Cargo.toml"));
    for (name, _) in env::vars_os() {
        if is_of_the_outer_build(&name.to_string_lossy()) {
            cargo.env_remove(name);
        }
    }
    let output = cargo
        // This one wins over every other source of flags, configuration files included.
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        // Empty means none, also where a configuration file names one.
        .env("RUSTC_WRAPPER", "")
        .env("RUSTC_WORKSPACE_WRAPPER", "")
        .output()
        .map_err(failed("run", Path::new("cargo")))?;
    if !output.status.success() {
        return Err(Failure {
            sentence: format!("the handlers in guest/ do not compile for {TARGET}"),
            details: String::from_utf8_lossy(&output.stderr).into_owned(),
        });
    }
    Ok(target_dir.join(TARGET).join("guest/examples"))
}

/// Whether a variable steers the build that this is part of and must not reach
/// another. Of cargo's own, those stay that say where packages come from: the
/// lock file is read as a whole.
fn is_of_the_outer_build(variable: &str) -> bool {
    let any = |starts: &[&str]| starts.iter().any(|start| variable.starts_with(start));
    let packages = ["CARGO_HOME", "CARGO_HTTP_", "CARGO_NET_", "CARGO_REGISTR"];
    any(&["CARGO_", "RUSTC_"]) && !any(&packages)
        || ["MAKEFLAGS", "MFLAGS", "RUSTFLAGS", "RUSTDOCFLAGS"].contains(&variable)
}

fn pack(from: &Path, to: &Path) -> Result<()> {
    let wasm = fs::read(from).map_err(failed("read", from))?;
    fs::write(to, packed::packed(&wasm)).map_err(failed("write", to))
}

fn variable(name: &str) -> Result<String> {
    env::var(name)
        .map_err(|error| format!("{name}: {error}; cargo sets it for build scripts").into())
}

fn failed(verb: &str, path: &Path) -> impl FnOnce(io::Error) -> Failure {
    move |error| format!("cannot {verb} {}: {error}", path.display()).into()
}
