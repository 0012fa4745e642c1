//! What a module's memory begins with, apart from the module.
//!
//! wasmtime writes a module's data by code of the module's own, for each instance: its entry is looked up and
//! called, a tenth of what an instance of one's own for each request takes. Here a copy does. What is left
//! of a segment is an empty passive one: once written, an active one is empty to all instructions anyway, and
//! their numbers stay (WebAssembly 2.0, section 4.5.4, Instantiation).
//!
//! A binary in, a binary and its data out. Not of a module with a start function, which must find its
//! data, nor where it is not plain that nothing else changes: see [`packed`](super::packed).

use super::packed::rewritten;
use std::borrow::Cow;
use std::ops::Range;
use wasm_encoder::DataSection;

/// The bytes of a memory that the host writes when it begins. None where the module's own code does.
#[derive(Debug, Default)]
pub(super) struct Image {
    /// Each with the place of its first.
    segments: Vec<(usize, Box<[u8]>)>,
}

impl Image {
    /// `wasm`, a binary without a start function, without its active data, and that data. All of it stays
    /// where it is not plain, and what cannot be read is left to those who say why.
    pub(super) fn apart(wasm: &[u8]) -> (Cow<'_, [u8]>, Image) {
        let mut image = Image::default();
        let without = rewritten(wasm, |segments| {
            let mut data = DataSection::new();
            for (at, bytes) in segments {
                match at {
                    Some(at) => {
                        image.segments.push((at as usize, bytes.into()));
                        data.passive([]);
                    }
                    None => {
                        data.passive(bytes.iter().copied());
                    }
                }
            }
            Some(data)
        });
        image.segments.retain(|(_, bytes)| !bytes.is_empty());
        match without {
            Ok(Some(without)) => (Cow::Owned(without), image),
            _ => (Cow::Borrowed(wasm), Image::default()),
        }
    }

    /// Where it has bytes.
    pub(super) fn ranges(&self) -> impl Iterator<Item = Range<usize>> {
        let segments = self.segments.iter();
        segments.map(|(at, bytes)| *at..at + bytes.len())
    }

    /// Writes it into `memory`, all zeros, which is as large as the module says or larger.
    pub(super) fn write(&self, memory: &mut [u8]) {
        for (range, (_, bytes)) in self.ranges().zip(&self.segments) {
            memory[range].copy_from_slice(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wasmtime::{Engine, Instance, Module, Store};

    fn binary(fields: &str) -> Vec<u8> {
        let text = format!("(module {fields})");
        wat::parse_str(&text).expect("a text in order")
    }

    /// The memory of a new instance.
    fn begins_with(wasm: &[u8]) -> Vec<u8> {
        let engine = Engine::default();
        let module = Module::new(&engine, wasm).expect("a module");
        let mut store = Store::new(&engine, ());
        let instance = Instance::new(&mut store, &module, &[]).expect("an instance");
        let memory = instance.get_memory(&mut store, "m").expect("exported");
        memory.data(&store).to_vec()
    }

    #[test]
    fn what_is_apart_makes_the_same_memory() {
        let fields = r#"(memory (export "m") 2) (data (i32.const 16) "ab\00c") (data "passive")
            (data (i32.const 131070) "yz") (data (i32.const 7) "")"#;
        let wasm = binary(fields);
        let (without, image) = Image::apart(&wasm);
        assert!(begins_with(&without).iter().all(|byte| *byte == 0));
        let mut memory = vec![0; 131_072];
        image.write(&mut memory);
        assert_eq!(memory, begins_with(&wasm));
        assert_eq!(
            image.ranges().collect::<Vec<_>>(),
            [16..20, 131_070..131_072]
        );
    }

    #[test]
    fn instructions_find_the_segments_as_they_were_once_written() {
        let wasm = binary(
            r#"(memory (export "m") 1) (data (i32.const 16) "ab") (data "pq")
            (func (export "passive") (memory.init 1 (i32.const 0) (i32.const 0) (i32.const 2)))
            (func (export "nothing") (memory.init 0 (i32.const 0) (i32.const 0) (i32.const 0)))
            (func (export "active") (memory.init 0 (i32.const 0) (i32.const 0) (i32.const 1)))
            (func (export "drop") (data.drop 0))"#,
        );
        for wasm in [&*wasm, &*Image::apart(&wasm).0] {
            let engine = Engine::default();
            let module = Module::new(&engine, wasm).expect("a module");
            let mut store = Store::new(&engine, ());
            let instance = Instance::new(&mut store, &module, &[]).expect("an instance");
            let returns = ["passive", "nothing", "active", "drop"].map(|name| {
                let function = instance.get_typed_func::<(), ()>(&mut store, name);
                function.expect("exported").call(&mut store, ()).is_ok()
            });
            assert_eq!(returns, [true, true, false, true]);
            let memory = instance.get_memory(&mut store, "m").expect("exported");
            assert_eq!(&memory.data(&store)[..2], b"pq");
        }
    }

    #[test]
    fn where_it_is_not_plain_all_stays() {
        for fields in [
            "(memory 1)",
            r#"(memory 1) (data (i32.const 0) "abc") (data (i32.const 2) "d")"#,
            r#"(memory 1) (data (i32.const 65535) "ab")"#,
            r#"(data (i32.const 0) "")"#,
            r#"(memory 1) (data (i32.add (i32.const 1) (i32.const 2)) "a")"#,
        ] {
            let wasm = binary(fields);
            let (without, image) = Image::apart(&wasm);
            assert!(matches!(without, Cow::Borrowed(_)), "{fields}");
            assert_eq!(image.ranges().count(), 0, "{fields}");
        }
        assert_eq!(
            &*Image::apart(b"\0asm\x01\0\0\0\x0b").0,
            b"\0asm\x01\0\0\0\x0b"
        );
    }
}
