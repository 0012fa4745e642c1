//! From WebAssembly, binary or text, to machine code whose exports are known to be right.

use super::engine::{Data, TABLES};
use super::entry::EntryExport;
use super::image::Image;
use super::limits::Limits;
use super::load_error::Fault;
use super::packed::{data_bytes, packed};
use super::resettable::Resettable;
use super::{Isolation, abi, engine, memories};
use std::borrow::Cow;
use std::sync::Arc;
use wasmparser::{Parser, Payload};
use wasmtime::{Engine, ExternType, Module, Mutability};

/// A compiled module. Its bytes come from [`Module::serialize`] in this process and nowhere else.
pub(super) struct Artifact {
    code: Vec<u8>,
    memory_bytes: usize,
    data: Data,
    image: Arc<Image>,
    has_start: bool,
    /// The exports added for `reset`: the globals that its code changes.
    changing_globals: Vec<String>,
}

impl Artifact {
    /// Validates and compiles `wasm`, a binary or a text. Milliseconds of CPU time for a small
    /// module, seconds for a large one: not for a shard's thread.
    ///
    /// # Errors
    /// Whatever is wrong with the module, as far as it shows without an instance.
    pub(super) fn compile(
        wasm: &[u8],
        isolation: Isolation,
        limits: &Limits,
    ) -> Result<Artifact, Fault> {
        let text = is_text(wasm)?;
        let given = binary(wasm)?;
        let wasm = packed(&given);
        let (wasm, changing_globals) = match isolation {
            Isolation::Reset => {
                let module = Resettable::of(&wasm)?;
                (Cow::Owned(module.wasm), module.globals)
            }
            _ => (wasm, Vec::new()),
        };
        let data = if memories::suits(data_bytes(&wasm)) {
            Data::Copied
        } else {
            Data::Mapped
        };
        let has_start = has_start(&wasm);
        // `reset` has rewritten the module already, and keeps an image of its own.
        let is_apart = data == Data::Copied && isolation != Isolation::Reset && !has_start;
        let (wasm, image) = match is_apart {
            true => Image::apart(&wasm),
            false => (Cow::Borrowed(&*wasm), Image::default()),
        };
        let engine = engine::compiling(limits, data).map_err(|error| Fault::host(&error))?;
        let module = Module::new(&engine, &wasm).map_err(|error| {
            // Places are told in the module as it was given: this one is laid out otherwise.
            let error = Module::new(&engine, &given).err().unwrap_or(error);
            if text {
                Fault::text(&error)
            } else {
                Fault::invalid(&error)
            }
        })?;
        let memory_bytes = check_types(&module, limits)?;
        let code = module.serialize().map_err(|error| Fault::host(&error))?;
        Ok(Artifact {
            code,
            memory_bytes,
            data,
            image: Arc::new(image),
            has_start,
            changing_globals,
        })
    }

    /// The names under which it exports the globals that its code changes, if it was compiled for
    /// `reset`.
    pub(super) fn changing_globals(&self) -> &[String] {
        &self.changing_globals
    }

    /// What the module's memory starts with.
    pub(super) fn memory_bytes(&self) -> usize {
        self.memory_bytes
    }

    /// How its data gets into a memory: what an engine must be made for that runs it.
    pub(super) fn data(&self) -> Data {
        self.data
    }

    /// What of its data is no part of the machine code: to be written into the memory of each instance that is
    /// made, if its home does not.
    pub(super) fn image(&self) -> &Arc<Image> {
        &self.image
    }

    /// Whether code of it runs when an instance is made.
    pub(super) fn has_start(&self) -> bool {
        self.has_start
    }

    /// The module, ready to run in `engine`. Copies the machine code.
    ///
    /// # Errors
    /// The pool's limits refuse the module: too many tables, too large an instance.
    pub(super) fn load_into(&self, engine: &Engine) -> wasmtime::Result<Module> {
        // SAFETY: `code` is what `Module::serialize` returned in this process, unchanged: the
        // field is private and `compile` alone sets it.
        unsafe { Module::deserialize(engine, &self.code) }
    }
}

fn has_start(wasm: &[u8]) -> bool {
    let mut payloads = Parser::new(0).parse_all(wasm);
    payloads.any(|payload| matches!(payload, Ok(Payload::StartSection { .. })))
}

/// Whether `wasm` is a text rather than a binary.
pub(super) fn is_text(wasm: &[u8]) -> Result<bool, Fault> {
    if wasm.starts_with(b"\0asm") {
        return Ok(false);
    }
    // A text begins with a parenthesis, `(module` or a field, or with a comment.
    match wasm.trim_ascii_start().first() {
        Some(b'(' | b';') => Ok(true),
        _ => Err(Fault::not_wasm(wasm)),
    }
}

/// `wasm` as a binary, if it is a text.
pub(super) fn binary(wasm: &[u8]) -> Result<Cow<'_, [u8]>, Fault> {
    if !is_text(wasm)? {
        return Ok(Cow::Borrowed(wasm));
    }
    let text = std::str::from_utf8(wasm).map_err(|error| Fault::Text(error.to_string()))?;
    match wat::parse_str(text) {
        Ok(binary) => Ok(Cow::Owned(binary)),
        Err(error) => Err(Fault::text(&wasmtime::Error::new(error))),
    }
}

/// Checks imports, exports and tables, and returns the size that the memory starts with, in bytes.
fn check_types(module: &Module, limits: &Limits) -> Result<usize, Fault> {
    if let Some(import) = module.imports().next() {
        return Err(Fault::Import(format!(
            "{}.{}",
            import.module(),
            import.name()
        )));
    }
    match module.get_export(abi::AREA) {
        Some(ExternType::Global(global))
            if global.mutability() == Mutability::Const && global.content().is_i32() => {}
        other => {
            if let Some(version) = other_version(module) {
                return Err(Fault::OtherVersion(version));
            }
            let expected = "an immutable i32 global, the address of its request area";
            return Err(Fault::export(abi::AREA, expected, other));
        }
    }
    if EntryExport::of(module, abi::HANDLE).is_none() {
        let expected = "a function (i32) -> i32 from a request's length to a record's address";
        let other = module.get_export(abi::HANDLE);
        return Err(Fault::export(abi::HANDLE, expected, other));
    }
    let memory = match module.get_export(abi::MEMORY) {
        Some(ExternType::Memory(memory)) => memory,
        other => return Err(Fault::export(abi::MEMORY, "its linear memory", other)),
    };
    let tables = module.resources_required();
    if tables.num_tables > TABLES {
        return Err(Fault::Tables(tables.num_tables));
    }
    let needs = tables.max_initial_table_size.unwrap_or(0);
    if needs > limits.table_entries as u64 {
        let limit = limits.table_entries;
        return Err(Fault::TableEntries { needs, limit });
    }
    let needs = memory.minimum().saturating_mul(memory.page_size());
    match usize::try_from(needs) {
        Ok(bytes) if bytes <= limits.first_memory_bytes => Ok(bytes),
        _ => Err(Fault::Memory {
            needs,
            limit: limits.first_memory_bytes,
        }),
    }
}

/// The export by which the module says that it speaks another version of the ABI.
fn other_version(module: &Module) -> Option<String> {
    module
        .exports()
        .map(|export| export.name())
        .find(|name| *name != abi::AREA && name.starts_with(abi::AREA_PREFIX))
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Linkers write the sizes of sections in five bytes each; who rewrites them writes fewer.
    #[test]
    fn what_is_wrong_is_told_by_its_place_in_the_module_as_it_was_given() {
        let module = [
            &b"\0asm\x01\0\0\0"[..],
            // A type, its size in five bytes; a function of it; a memory.
            b"\x01\x84\x80\x80\x80\x00\x01\x60\0\0",
            b"\x03\x02\x01\0",
            b"\x05\x03\x01\0\x01",
            // The function drops what is not there, at byte 32.
            b"\x0a\x05\x01\x03\0\x1a\x0b",
            // Data that is told apart.
            b"\x0b\x07\x01\0\x41\0\x0b\x01a",
        ]
        .concat();
        let compiled = Artifact::compile(&module, Isolation::Fresh, &Limits::default());
        let Some(Fault::Invalid(sentence)) = compiled.err() else {
            panic!("it is invalid");
        };
        assert!(sentence.contains("offset 32:"), "{sentence}");
    }
}
