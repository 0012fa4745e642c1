//! The built-in handlers as WebAssembly: the package's build makes one module of each.

use ringlab_guest::handlers::ALL;
use ringlab_guest::misbehaving;
use wasmtime::{Engine, ExternType, Module};

// `WASM: &[(&str, &[u8])]`, as the sandbox includes it.
include!(concat!(env!("OUT_DIR"), "/handlers.rs"));

#[test]
fn every_handler_has_a_module_and_every_module_a_handler() {
    let well = ALL.iter().map(|(name, _, _)| *name);
    let ill = misbehaving::ALL.iter().map(|(name, _)| *name);
    let mut handlers: Vec<_> = well.chain(ill).collect();
    let mut modules: Vec<_> = WASM.iter().map(|(name, _)| *name).collect();
    handlers.sort_unstable();
    modules.sort_unstable();
    assert_eq!(handlers, modules);
}

/// The pages that a module's memory has at first, and at most.
fn pages(wasm: &[u8]) -> (u64, Option<u64>) {
    let module = Module::new(&Engine::default(), wasm).expect("the build made it");
    assert_eq!(module.imports().len(), 0);
    let Some(ExternType::Memory(memory)) = module.get_export("memory") else {
        panic!("its memory is exported");
    };
    assert!(matches!(
        module.get_export("ringlab_v1"),
        Some(ExternType::Global(_))
    ));
    assert!(matches!(
        module.get_export("handle"),
        Some(ExternType::Func(_))
    ));
    (memory.minimum(), memory.maximum())
}

/// A fresh sandbox is cheap because there is little to make and nothing grows.
#[test]
fn the_memory_of_every_module_is_small_and_fixed_but_for_the_hogs() {
    for (name, wasm) in WASM {
        if *name == "hog" {
            assert_eq!(pages(wasm).1, None);
            continue;
        }
        // One page, but for what takes whole bodies, paints, or keeps what is still to try.
        let expected = match *name {
            "echo" => 17,
            "huge" => 41,
            "deflate" | "json" => 4,
            "mandelbrot" | "redos" => 2,
            _ => 1,
        };
        assert_eq!(pages(wasm), (expected, Some(expected)), "{name}");
    }
}
