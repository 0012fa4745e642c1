//! What a module is, told from its bytes alone: for people who write handlers and are refused.
//!
//! Reads every proposal that the parser knows, whether the engine takes it or not, so that a refused
//! module can be looked at too. It deliberately lacks any judgement: which isolation takes a module
//! is answered by loading it.

use super::load_error::Fault;
use super::{abi, artifact};
use crate::hash::fnv1a64;
use std::collections::BTreeSet;
use wasmparser::{
    ExternalKind, FuncType, MemoryType, Operator, Parser, Payload, TableInit, TypeRef,
};

/// The facts about one module.
#[derive(Debug, Default)]
pub struct Inspection {
    /// Length of the file, in bytes.
    pub bytes: usize,
    /// FNV-1a over it, 64 bits wide.
    pub fnv1a64: u64,
    /// Whether the file is the text format.
    pub is_text: bool,
    /// The exported names that say which version of the guest ABI it speaks.
    pub abi: Vec<String>,
    /// Each import, as `module.name: kind`.
    pub imports: Vec<String>,
    /// Each export, as `name: kind`.
    pub exports: Vec<String>,
    /// Each memory: what it starts with and how far it may grow.
    pub memories: Vec<String>,
    /// Each table: its entries at the start and at most.
    pub tables: Vec<String>,
    /// Globals of its own that its code may change.
    pub mutable_globals: usize,
    /// Whether a function runs when an instance is made.
    pub has_start: bool,
    /// Functions of its own.
    pub functions: usize,
    /// Instructions in its code that change what outlives a call besides memory and globals:
    /// `memory.grow`, `table.set` and their like.
    pub state_changing: BTreeSet<&'static str>,
}

impl Inspection {
    /// Reads `file`, a binary or a text.
    ///
    /// # Errors
    /// It is neither, or it ends or breaks off before its end.
    pub fn of(file: &[u8]) -> Result<Inspection, Fault> {
        let is_text = artifact::is_text(file)?;
        let binary = artifact::binary(file)?;
        let mut found = Inspection {
            bytes: file.len(),
            fnv1a64: fnv1a64(file),
            is_text,
            ..Inspection::default()
        };
        found
            .read(&binary)
            .map_err(|error| Fault::Invalid(error.to_string()))?;
        Ok(found)
    }

    fn read(&mut self, binary: &[u8]) -> wasmparser::Result<()> {
        let mut types: Vec<Option<FuncType>> = Vec::new();
        for payload in Parser::new(0).parse_all(binary) {
            match payload? {
                Payload::TypeSection(section) => {
                    for group in section {
                        for ty in group?.into_types() {
                            types.push(match ty.composite_type.inner {
                                wasmparser::CompositeInnerType::Func(function) => Some(function),
                                _ => None,
                            });
                        }
                    }
                }
                Payload::ImportSection(section) => {
                    for import in section.into_imports() {
                        let import = import?;
                        let kind = kind_of_import(&import.ty, &types);
                        self.imports
                            .push(format!("{}.{}: {kind}", import.module, import.name));
                    }
                }
                Payload::FunctionSection(section) => self.functions = section.count() as usize,
                Payload::TableSection(section) => {
                    for table in section {
                        let table = table?;
                        let at_most = match table.ty.maximum {
                            Some(maximum) => format!("{maximum} at most"),
                            None => "without a maximum".to_owned(),
                        };
                        let filled = match table.init {
                            TableInit::RefNull => "",
                            TableInit::Expr(_) => ", filled by an expression",
                        };
                        self.tables.push(format!(
                            "{} entries of {}, {at_most}{filled}",
                            table.ty.initial, table.ty.element_type
                        ));
                    }
                }
                Payload::MemorySection(section) => {
                    for memory in section {
                        self.memories.push(describe_memory(&memory?));
                    }
                }
                Payload::GlobalSection(section) => {
                    for global in section {
                        self.mutable_globals += usize::from(global?.ty.mutable);
                    }
                }
                Payload::ExportSection(section) => {
                    for export in section {
                        let export = export?;
                        if export.name.starts_with(abi::AREA_PREFIX) {
                            self.abi.push(export.name.to_owned());
                        }
                        let kind = kind_of_export(export.kind);
                        self.exports.push(format!("{}: {kind}", export.name));
                    }
                }
                Payload::StartSection { .. } => self.has_start = true,
                Payload::CodeSectionEntry(body) => {
                    for operator in body.get_operators_reader()? {
                        self.state_changing.extend(name_of(&operator?));
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The version of the guest ABI that it speaks, if it speaks one.
    pub fn abi_version(&self) -> Option<&str> {
        self.abi
            .first()
            .and_then(|name| name.strip_prefix(abi::AREA_PREFIX))
    }
}

fn describe_memory(memory: &MemoryType) -> String {
    // Pages are 64 KiB unless the module says otherwise.
    let page_bytes = 1u128 << memory.page_size_log2.unwrap_or(16);
    let size = |pages: u64| format!("{} bytes", u128::from(pages) * page_bytes);
    let at_most = match memory.maximum {
        Some(maximum) if maximum == memory.initial => "never more".to_owned(),
        Some(maximum) => format!("{} at most", size(maximum)),
        None => "without a maximum".to_owned(),
    };
    let shared = if memory.shared { ", shared" } else { "" };
    let wide = if memory.memory64 {
        ", 64-bit addresses"
    } else {
        ""
    };
    format!("{} at first, {at_most}{shared}{wide}", size(memory.initial))
}

fn kind_of_import(ty: &TypeRef, types: &[Option<FuncType>]) -> String {
    match ty {
        TypeRef::Func(index) | TypeRef::FuncExact(index) => {
            match types.get(*index as usize).and_then(Option::as_ref) {
                Some(function) => format!("function {function}"),
                None => "function".to_owned(),
            }
        }
        TypeRef::Table(_) => "table".to_owned(),
        TypeRef::Memory(memory) => format!("memory, {}", describe_memory(memory)),
        TypeRef::Global(global) if global.mutable => "mutable global".to_owned(),
        TypeRef::Global(_) => "global".to_owned(),
        TypeRef::Tag(_) => "exception tag".to_owned(),
    }
}

fn kind_of_export(kind: ExternalKind) -> &'static str {
    match kind {
        ExternalKind::Func | ExternalKind::FuncExact => "function",
        ExternalKind::Table => "table",
        ExternalKind::Memory => "memory",
        ExternalKind::Global => "global",
        ExternalKind::Tag => "exception tag",
    }
}

/// The name of an instruction that changes what outlives a call, other than bytes of memory and
/// values of globals.
fn name_of(operator: &Operator<'_>) -> Option<&'static str> {
    Some(match operator {
        Operator::MemoryGrow { .. } => "memory.grow",
        Operator::DataDrop { .. } => "data.drop",
        Operator::ElemDrop { .. } => "elem.drop",
        Operator::TableSet { .. } => "table.set",
        Operator::TableGrow { .. } => "table.grow",
        Operator::TableFill { .. } => "table.fill",
        Operator::TableCopy { .. } => "table.copy",
        Operator::TableInit { .. } => "table.init",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inspect(text: &str) -> Inspection {
        Inspection::of(text.as_bytes()).expect("it can be read")
    }

    #[test]
    fn every_fact_is_found() {
        let found = inspect(
            r#"(module
                (import "env" "log" (func (param i32 i32)))
                (memory (export "memory") 2 5)
                (table 3 funcref)
                (global (export "ringlab_v1") i32 (i32.const 64))
                (global (mut i32) (i32.const 0))
                (func $start)
                (start $start)
                (elem $e func $start)
                (func (export "handle") (param i32) (result i32)
                    (elem.drop $e)
                    (drop (memory.grow (i32.const 1)))
                    (i32.const 0)))"#,
        );
        assert_eq!(found.abi_version(), Some("1"));
        assert_eq!(found.imports, ["env.log: function (func (param i32 i32))"]);
        let exports = ["memory: memory", "ringlab_v1: global", "handle: function"];
        assert_eq!(found.exports, exports);
        assert_eq!(
            found.memories,
            ["131072 bytes at first, 327680 bytes at most"]
        );
        assert_eq!(found.tables, ["3 entries of funcref, without a maximum"]);
        assert_eq!((found.mutable_globals, found.functions), (1, 2));
        assert!(found.is_text && found.has_start);
        let changing: Vec<_> = found.state_changing.into_iter().collect();
        assert_eq!(changing, ["elem.drop", "memory.grow"]);
    }

    #[test]
    fn a_module_of_a_later_proposal_is_read() {
        let found = inspect("(module (memory i64 1 1) (memory 1 1) (tag))");
        let memories = [
            "65536 bytes at first, never more, 64-bit addresses",
            "65536 bytes at first, never more",
        ];
        assert_eq!(found.memories, memories);
        assert_eq!(found.abi_version(), None);
    }

    #[test]
    fn what_is_no_module_is_refused() {
        let check = |file: &[u8], word: &str| {
            let fault = Inspection::of(file).expect_err("it is no module");
            assert!(fault.to_string().contains(word), "{fault}");
        };
        check(b"", "empty");
        check(b"\x7fELF", "7f 45 4c 46");
        check(b"(module", "text is refused");
        check(b"(\xff\xff", "text is refused");
        check(b"\0asm\x01\0\0\0\x01\x80", "code is refused");
    }
}
