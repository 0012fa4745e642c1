//! `ringlab inspect`: what a handler's module is, and which isolations take it.

use super::{Exit, fail, say};
use crate::report::wrap_from;
use crate::sandbox::{Handler, Inspection, Isolation, Limits, Source};
use std::fmt::{Display, Write};

/// Say what a handler's module is, and which isolations take it or why not
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// A file of wasm or its text format, or a built-in handler's name
    #[arg(value_name = "FILE.wasm|FILE.wat|NAME")]
    handler: String,
}

/// Exits 0 if some sandbox takes the module, 2 if none does.
pub fn run(arguments: &Arguments) -> Exit {
    let source = Source::parse(&arguments.handler);
    let file = match source.module() {
        Ok(file) => file,
        Err(error) => return fail(Exit::BadInput, error),
    };
    let found = match Inspection::of(&file) {
        Ok(found) => found,
        Err(fault) => return fail(Exit::BadInput, format_args!("{source}: {fault}")),
    };
    let limits = Limits::default();
    let loaded = Isolation::ALL.map(|isolation| Handler::load(&source, isolation, &limits));
    let sandboxed = Isolation::ALL.iter().zip(&loaded);
    let taken = sandboxed
        .filter(|(isolation, _)| **isolation != Isolation::Native)
        .find_map(|(_, handler)| handler.as_ref().ok());
    say(describe(&source, &found, taken));
    for (isolation, handler) in Isolation::ALL.iter().zip(&loaded) {
        let verdict = match handler {
            Ok(_) => "takes it".to_owned(),
            Err(error) => format!("does not: {}", error.fault),
        };
        say(format_args!("{}\n", line(isolation, &verdict)));
    }
    match taken {
        Some(_) => Exit::Done,
        None => Exit::BadInput,
    }
}

/// `taken`: as a sandbox takes it, if one does.
fn describe(source: &Source, found: &Inspection, taken: Option<&Handler>) -> String {
    let format = if found.is_text { "text" } else { "binary" };
    let abi = match found.abi_version() {
        Some(version) => format!("ringlab, version {version}"),
        None => "none: no export is called ringlab_v1".to_owned(),
    };
    let module = format!(
        "{source}: {format}, {} bytes, fnv1a64 {:016x}, {} functions",
        found.bytes, found.fnv1a64, found.functions
    );
    let mut text = format!("{}\n{}\n", line("module", &module), line("ABI", &abi));
    let mut list = |title: &str, lines: &[String]| {
        for (nth, one) in lines.iter().enumerate() {
            let title = if nth == 0 { title } else { "" };
            writeln!(text, "{}", line(title, one)).expect("a string takes all");
        }
        if lines.is_empty() {
            writeln!(text, "{}", line(title, "none")).expect("a string takes all");
        }
    };
    list("imports", &found.imports);
    list("exports", &found.exports);
    let mut memories = found.memories.clone();
    memories.extend(taken.and_then(|handler| growth(found, handler)));
    list("memory", &memories);
    list("tables", &found.tables);
    list("state", &state(found));
    text
}

/// A title and what belongs to it, which may take several lines.
fn line(title: impl Display, text: &str) -> String {
    wrap_from(&format!("{title:<12}"), text)
}

/// How far `serve` lets its memory grow, if its code asks for that.
fn growth(found: &Inspection, handler: &Handler) -> Option<String> {
    let grows = found.state_changing.contains("memory.grow");
    grows.then(|| match handler.memory_that_may_not_grow() {
        Some(_) => "`serve` lets it grow only with --memory".to_owned(),
        None => format!(
            "`serve` lets it grow to {} bytes, or to what --memory says",
            handler.limits().memory_bytes
        ),
    })
}

/// What a request may leave behind for the next one in a kept instance.
fn state(found: &Inspection) -> Vec<String> {
    let mut state = Vec::new();
    if !found.memories.is_empty() {
        state.push("memory".to_owned());
    }
    if found.mutable_globals > 0 {
        state.push(format!("{} mutable globals", found.mutable_globals));
    }
    if !found.state_changing.is_empty() {
        let names: Vec<_> = found.state_changing.iter().copied().collect();
        state.push(format!("its code has {}", names.join(", ")));
    }
    if found.has_start {
        state.push("a start function, run once in each instance".to_owned());
    }
    state
}
