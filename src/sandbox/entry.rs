//! The way into a guest: its `handle`, whose type is looked at once for all instances of a module.
//!
//! wasmtime looks a function's type up, under a lock, for each instance that is asked for it, and again to
//! keep it: a tenth of what an instance of one's own for each request takes. All instances of a module
//! have functions of the types that it says, so what the module says is enough. An instance that is called
//! often has it looked up all the same: a call of a function whose type is known is shorter, by two
//! nanoseconds of forty.

use std::ptr;
use wasmtime::{
    AsContextMut, ExternType, Func, Instance, Module, ModuleExport, Store, TypedFunc, ValRaw,
};

/// A module's export that takes an `i32` and returns one.
pub(super) struct EntryExport(ModuleExport);

/// The same of one instance. Made by [`EntryExport::find`] alone, which says of what type it is.
pub(super) struct Entry(For);

enum For {
    /// For one call.
    Once(Func),
    /// For many.
    Often(TypedFunc<u32, u32>),
}

impl EntryExport {
    /// `None`: the module exports no such function by that name.
    pub(super) fn of(module: &Module, name: &str) -> Option<EntryExport> {
        let ExternType::Func(function) = module.get_export(name)? else {
            return None;
        };
        let (params, results) = (function.params(), function.results());
        let is_one = params.len() == 1 && results.len() == 1;
        let are_i32 = is_one && params.chain(results).all(|value| value.is_i32());
        are_i32
            .then(|| module.get_export_index(name).map(EntryExport))
            .flatten()
    }

    /// To be called once, or `often`. `None`: the instance is another module's.
    pub(super) fn find(
        &self,
        instance: &Instance,
        mut store: impl AsContextMut,
        often: bool,
    ) -> Option<Entry> {
        let export = instance.get_module_export(&mut store, &self.0)?;
        let function = export.into_func()?;
        match often {
            true => function.typed(&store).ok().map(For::Often).map(Entry),
            false => Some(Entry(For::Once(function))),
        }
    }
}

impl Entry {
    /// Runs the guest on the caller's stack until it returns.
    ///
    /// # Errors
    /// It trapped, or its deadline ended it.
    ///
    /// # Panics
    /// `store` is not its instance's.
    #[inline]
    pub(super) fn call<T: 'static>(
        &self,
        store: &mut Store<T>,
        value: u32,
    ) -> wasmtime::Result<u32> {
        let function = match &self.0 {
            For::Often(function) => return function.call(store, value),
            For::Once(function) => function,
        };
        let mut values = [ValRaw::u32(value)];
        // SAFETY: the function takes one i32 and returns one, as `EntryExport::of` saw, and there is room for
        // that; wasmtime compares the stores. Nothing else runs in this one, above all no `call_in_slices`,
        // whose future has it borrowed until it is gone.
        unsafe { function.call_unchecked(store, ptr::from_mut(&mut values))? };
        Ok(values[0].get_u32())
    }

    /// Runs the guest on a stack of its own, a slice each time that it is polled.
    ///
    /// # Errors
    /// As for [`Entry::call`].
    ///
    /// # Panics
    /// As there.
    pub(super) async fn call_in_slices<T: Send + 'static>(
        &self,
        store: &mut Store<T>,
        value: u32,
    ) -> wasmtime::Result<u32> {
        match &self.0 {
            For::Often(function) => function.call_async(store, value).await,
            // To look its type up is little beside changing stacks.
            For::Once(function) => {
                let typed = function.typed::<u32, u32>(&mut *store)?;
                typed.call_async(store, value).await
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wasmtime::Engine;

    fn instance(text: &str) -> (Module, Store<()>, Instance) {
        let engine = Engine::default();
        let module = Module::new(&engine, text).expect("a module");
        let mut store = Store::new(&engine, ());
        let instance = Instance::new(&mut store, &module, &[]).expect("an instance");
        (module, store, instance)
    }

    const TWICE: &str = "(module (func (export \"f\") (param i32) (result i32)
        (i32.mul (local.get 0) (i32.const 2))))";

    #[test]
    fn it_passes_on_what_it_gets_and_what_it_returns() {
        let (module, mut store, instance) = instance(TWICE);
        let export = EntryExport::of(&module, "f").expect("it has that type");
        for often in [false, true] {
            let entry = export.find(&instance, &mut store, often);
            let entry = entry.expect("it is there");
            for value in [0, 1, 7, u32::MAX / 2] {
                assert_eq!(entry.call(&mut store, value).expect("no trap"), 2 * value);
            }
        }
    }

    #[test]
    fn a_function_of_another_type_is_none_and_so_is_what_is_no_function() {
        for text in [
            "(module)",
            "(module (global (export \"f\") i32 (i32.const 0)))",
            "(module (func (export \"f\")))",
            "(module (func (export \"f\") (param i32)))",
            "(module (func (export \"f\") (result i32) (i32.const 0)))",
            "(module (func (export \"f\") (param i64) (result i32) (i32.const 0)))",
            "(module (func (export \"f\") (param i32) (result f32) (f32.const 0)))",
            "(module (func (export \"f\") (param i32 i32) (result i32) (i32.const 0)))",
            "(module (func (export \"f\") (param i32) (result i32 i32)
                (i32.const 0) (i32.const 0)))",
        ] {
            let (module, ..) = instance(text);
            assert!(EntryExport::of(&module, "f").is_none(), "{text}");
        }
    }

    #[test]
    fn another_modules_instance_has_no_such_entry() {
        let (module, ..) = instance(TWICE);
        let (_, mut store, other) = instance(TWICE);
        let export = EntryExport::of(&module, "f").expect("it has that type");
        for often in [false, true] {
            assert!(export.find(&other, &mut store, often).is_none());
        }
    }

    #[test]
    #[should_panic(expected = "store")]
    fn another_store_is_refused() {
        let (module, mut store, one) = instance(TWICE);
        let export = EntryExport::of(&module, "f").expect("it has that type");
        let entry = export.find(&one, &mut store, false).expect("it is there");
        let mut another = Store::new(module.engine(), ());
        let _ = entry.call(&mut another, 1);
    }
}
