//! [`ringlab_guest::misbehaving::liar`] as a WebAssembly module, in one page of memory.
//!
//! Without the SDK's `handler!`, which cannot lie.

#[cfg(target_arch = "wasm32")]
const _: () = {
    use std::sync::atomic::{AtomicU32, Ordering};

    use ringlab_guest::abi::Area;
    use ringlab_guest::misbehaving::liar::lie;

    #[unsafe(export_name = "ringlab_v1")]
    static AREA: Area<{ ringlab_guest::HEAD_CAPACITY }> = Area::new();

    static RECORD: [AtomicU32; 6] = [const { AtomicU32::new(0) }; 6];

    #[unsafe(export_name = "handle")]
    extern "C" fn handle(_len: u32) -> u32 {
        let memory = (std::arch::wasm32::memory_size(0) * 65536) as u32;
        let lie = AREA.with_request(|request| lie(request, RECORD.as_ptr().addr() as u32, memory));
        for (word, value) in RECORD.iter().zip(lie.record) {
            word.store(value, Ordering::Relaxed);
        }
        lie.address
    }
};
