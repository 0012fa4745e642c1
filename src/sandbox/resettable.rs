//! Whether all state that a module's code can change is within the host's reach, told from its bytes;
//! and the module rewritten so that it is.
//!
//! What outlives a call of WebAssembly is: memories, globals, tables, and whether a passive segment
//! was dropped. The host reaches what is exported and of fixed size, so:
//!
//! - memory: one at most, exported as the guest ABI demands. An instance in which it grew is given up; the
//!   instruction itself is in every module with an allocator, and refusing it would refuse nearly all;
//! - globals: those that the code sets are numbers or vectors, and this file exports them;
//! - tables and segments: no instruction of the code changes one.
//!
//! That nothing else is there is shown by validating with [`FEATURES`], a list of what is allowed:
//! a proposal that adds state of another kind is refused because it is not in the list. It
//! deliberately lacks any import: what is behind one may keep state.

use super::load_error::Fault;
use std::collections::{BTreeMap, BTreeSet};
use wasm_encoder::{ExportKind, ExportSection, Module, RawSection};
use wasmparser::{
    Export, ExternalKind, Operator, Parser, Payload, ValType, Validator, WasmFeatures,
};

/// What a module may use: of these it is known which instructions change state.
const FEATURES: WasmFeatures = WasmFeatures::MUTABLE_GLOBAL
    .union(WasmFeatures::SATURATING_FLOAT_TO_INT)
    .union(WasmFeatures::SIGN_EXTENSION)
    .union(WasmFeatures::REFERENCE_TYPES)
    .union(WasmFeatures::MULTI_VALUE)
    .union(WasmFeatures::BULK_MEMORY)
    .union(WasmFeatures::SIMD)
    .union(WasmFeatures::FLOATS)
    .union(WasmFeatures::EXTENDED_CONST);

/// A module all of whose changing state the host reaches.
#[derive(Debug)]
pub(super) struct Resettable {
    /// The module, with exports added; otherwise byte for byte the same.
    pub(super) wasm: Vec<u8>,
    /// The names under which it exports the globals that its code sets.
    pub(super) globals: Vec<String>,
}

impl Resettable {
    /// Reads and rewrites `wasm`, a binary.
    ///
    /// # Errors
    /// [`Fault::OutOfReach`], with all that was found; [`Fault::Import`]; [`Fault::Invalid`].
    pub(super) fn of(wasm: &[u8]) -> Result<Resettable, Fault> {
        let invalid = |error: wasmparser::BinaryReaderError| Fault::Invalid(error.to_string());
        Validator::new_with_features(FEATURES)
            .validate_all(wasm)
            .map_err(invalid)?;
        let found = Found::read(wasm).map_err(invalid)?;
        if let Some(import) = found.import {
            return Err(Fault::Import(import));
        }
        let findings = found.out_of_reach();
        if !findings.is_empty() {
            return Err(Fault::OutOfReach(findings));
        }
        let names = found.names_for_globals();
        let wasm = rewrite(wasm, &names).map_err(invalid)?;
        let globals = names.into_iter().map(|(_, name)| name).collect();
        Ok(Resettable { wasm, globals })
    }
}

/// What a module has that matters here.
#[derive(Default)]
struct Found<'a> {
    /// The first import.
    import: Option<String>,
    /// The type of each global, if it is mutable.
    globals: Vec<Option<ValType>>,
    /// The globals that the code sets.
    set: BTreeSet<u32>,
    exports: Vec<Export<'a>>,
    /// The instructions that change what the host does not reach; for each the first function that
    /// has it.
    changes: BTreeMap<&'static str, u32>,
}

impl<'a> Found<'a> {
    fn read(wasm: &'a [u8]) -> wasmparser::Result<Found<'a>> {
        let mut found = Found::default();
        // There are no imports, or the module is refused: the first body is function 0's.
        let mut function = 0;
        for payload in Parser::new(0).parse_all(wasm) {
            match payload? {
                Payload::ImportSection(section) => {
                    for import in section.into_imports() {
                        let import = import?;
                        let name = format!("{}.{}", import.module, import.name);
                        found.import.get_or_insert(name);
                    }
                }
                Payload::GlobalSection(section) => {
                    for global in section {
                        let ty = global?.ty;
                        found.globals.push(ty.mutable.then_some(ty.content_type));
                    }
                }
                Payload::ExportSection(section) => {
                    for export in section {
                        found.exports.push(export?);
                    }
                }
                Payload::CodeSectionEntry(body) => {
                    for operator in body.get_operators_reader()? {
                        found.look_at(&operator?, function);
                    }
                    function += 1;
                }
                _ => {}
            }
        }
        Ok(found)
    }

    fn look_at(&mut self, operator: &Operator<'_>, function: u32) {
        let name = match operator {
            Operator::GlobalSet { global_index } => {
                self.set.insert(*global_index);
                return;
            }
            Operator::TableSet { .. } => "table.set",
            Operator::TableGrow { .. } => "table.grow",
            Operator::TableFill { .. } => "table.fill",
            Operator::TableCopy { .. } => "table.copy",
            Operator::TableInit { .. } => "table.init",
            Operator::DataDrop { .. } => "data.drop",
            Operator::ElemDrop { .. } => "elem.drop",
            _ => return,
        };
        self.changes.entry(name).or_insert(function);
    }

    /// One clause for each thing that could not be put back.
    fn out_of_reach(&self) -> Vec<String> {
        let changes = self.changes.iter().map(|(name, function)| {
            let what = match *name {
                "data.drop" | "elem.drop" => "a segment is dropped",
                _ => "a table changes",
            };
            format!("{what} ({name}, first in function {function})")
        });
        let globals = self.set.iter().filter_map(|index| {
            let ty = self.globals.get(*index as usize).copied().flatten()?;
            matches!(ty, ValType::Ref(_))
                .then(|| format!("global {index} changes and holds a reference"))
        });
        changes.chain(globals).collect()
    }

    /// A name that no export has yet, for each global that the code sets.
    fn names_for_globals(&self) -> Vec<(u32, String)> {
        let mut prefix = "ringlab_state_".to_owned();
        while self.exports.iter().any(|e| e.name.starts_with(&prefix)) {
            prefix.push('_');
        }
        let name = |index: &u32| (*index, format!("{prefix}{index}"));
        self.set.iter().map(name).collect()
    }
}

/// `wasm` with more exports. All other sections are copied as they are.
fn rewrite(wasm: &[u8], globals: &[(u32, String)]) -> wasmparser::Result<Vec<u8>> {
    let mut module = Module::new();
    for payload in Parser::new(0).parse_all(wasm) {
        let payload = payload?;
        if let Payload::ExportSection(section) = payload {
            let mut exports = ExportSection::new();
            for export in section {
                let export = export?;
                exports.export(export.name, kind(export.kind), export.index);
            }
            for (index, name) in globals {
                exports.export(name, ExportKind::Global, *index);
            }
            module.section(&exports);
        } else if let Some((id, range)) = payload.as_section() {
            let data = &wasm[range];
            module.section(&RawSection { id, data });
        }
    }
    Ok(module.finish())
}

fn kind(kind: ExternalKind) -> ExportKind {
    match kind {
        ExternalKind::Func | ExternalKind::FuncExact => ExportKind::Func,
        ExternalKind::Table => ExportKind::Table,
        ExternalKind::Memory => ExportKind::Memory,
        ExternalKind::Global => ExportKind::Global,
        ExternalKind::Tag => ExportKind::Tag,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<Resettable, Fault> {
        Resettable::of(&wat::parse_str(text).expect("a text in order"))
    }

    fn refused(text: &str, expected: &[&str]) {
        let fault = of(text).expect_err(text);
        let Fault::OutOfReach(findings) = &fault else {
            panic!("{text}: {fault}");
        };
        assert_eq!(findings, expected, "{text}");
    }

    #[test]
    fn what_the_host_cannot_reach_is_found() {
        let function = |body: &str| {
            format!(
                "(module (memory 1) (table 1 funcref) (data $d \"x\") (elem $e func 0)
                    (global $n (mut i32) (i32.const 0)) (global $r (mut funcref) (ref.null func))
                    (func) (func {body}))"
            )
        };
        for (body, name) in [
            ("(table.set (i32.const 0) (ref.null func))", "table.set"),
            (
                "(drop (table.grow (ref.null func) (i32.const 0)))",
                "table.grow",
            ),
            (
                "(table.fill (i32.const 0) (ref.null func) (i32.const 0))",
                "table.fill",
            ),
            (
                "(table.copy (i32.const 0) (i32.const 0) (i32.const 0))",
                "table.copy",
            ),
            (
                "(table.init $e (i32.const 0) (i32.const 0) (i32.const 0))",
                "table.init",
            ),
        ] {
            let finding = format!("a table changes ({name}, first in function 1)");
            refused(&function(body), &[&finding]);
        }
        for (body, name) in [
            ("(data.drop $d)", "data.drop"),
            ("(elem.drop $e)", "elem.drop"),
        ] {
            let finding = format!("a segment is dropped ({name}, first in function 1)");
            refused(&function(body), &[&finding]);
        }
        refused(
            &function("(global.set $r (ref.null func)) (data.drop $d) (data.drop $d)"),
            &[
                "a segment is dropped (data.drop, first in function 1)",
                "global 1 changes and holds a reference",
            ],
        );
        let harmless = "(global.set $n (i32.const 1)) (memory.fill (i32.const 0) (i32.const 0)
            (i32.const 0)) (drop (memory.grow (i32.const 1))) (memory.init $d (i32.const 0) (i32.const 0) (i32.const 0))
            (drop (global.get $r)) (drop (table.get (i32.const 0)))";
        assert!(of(&function(harmless)).is_ok());
    }

    #[test]
    fn what_may_keep_state_that_nobody_listed_is_refused() {
        for module in [
            "(module (memory 1 1 shared))",
            "(module (memory 1) (memory 1))",
            "(module (memory i64 1))",
            "(module (tag))",
            "(module (type (struct (field (mut i32)))))",
            "(module (func $f (return_call $f)))",
        ] {
            let fault = of(module).expect_err(module);
            assert!(matches!(fault, Fault::Invalid(_)), "{module}: {fault}");
        }
        let fault = of("(module (import \"env\" \"g\" (global (mut i32))))");
        assert!(matches!(fault, Err(Fault::Import(name)) if name == "env.g"));
    }

    #[test]
    fn the_globals_that_code_sets_are_exported_and_nothing_else_changes() {
        let text = "(module
            (global (export \"ringlab_state_0\") i32 (i32.const 7))
            (global $a (mut i64) (i64.const 1)) (global (mut f32) (f32.const 2))
            (global $b (mut v128) (v128.const i64x2 3 4))
            (table (export \"t\") 1 funcref) (memory (export \"m\") 1)
            (func (export \"f\") (global.set $a (i64.const 0)) (global.set $b (global.get $b)))
            (@custom \"note\" \"kept\"))";
        let before = wat::parse_str(text).expect("a text in order");
        let found = Resettable::of(&before).expect("in reach");
        assert_eq!(found.globals, ["ringlab_state__1", "ringlab_state__3"]);
        let exports = |wasm: &[u8]| -> Vec<(String, ExternalKind, u32)> {
            let found = Found::read(wasm).expect("valid");
            let owned = |e: &Export<'_>| (e.name.to_owned(), e.kind, e.index);
            found.exports.iter().map(owned).collect()
        };
        let mut expected = exports(&before);
        for (name, index) in found.globals.iter().zip([1, 3]) {
            expected.push((name.clone(), ExternalKind::Global, index));
        }
        assert_eq!(exports(&found.wasm), expected);
        let others = |wasm: &[u8]| -> Vec<(u8, Vec<u8>)> {
            let payloads = Parser::new(0).parse_all(wasm).map(|p| p.expect("valid"));
            payloads
                .filter(|payload| !matches!(payload, Payload::ExportSection(_)))
                .filter_map(|payload| payload.as_section())
                .map(|(id, range)| (id, wasm[range].to_vec()))
                .collect()
        };
        assert_eq!(others(&found.wasm), others(&before));
    }
}
