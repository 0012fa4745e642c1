# shellcheck shell=bash
# wasmtime serve, the same engine behind its own server: a hello for wasi:http against ringlab's.
# Sourced by scripts/peers.sh.
#
# The interfaces differ, and with them what a request has to do: wasi:http hands the handler resources
# and streams, through a component's types and an async host; ringlab's ABI hands it bytes in memory
# and takes an answer from there. Both make a new instance for each request (ringlab: isolation fresh)
# out of a pool. So the ratio is what the interface, the server around it and putting instances back cost, not
# the code that the engine makes.
# And it has a ceiling: ringlab's native arm, whose handler stands in no sandbox, shows how much of a
# request is the kernel's TCP, which every server pays. Where cores are fast and system calls dear, that
# is nearly all of ringlab's time, and the ratio says more about the machine.
#
# On one core and on two, because they differ: one core is the best case of a server whose threads share
# an address space. It puts a used instance's memory back by system calls (madvise, page faults after
# it), and each such call on one core has to interrupt the others that run the same process (a TLB
# shootdown). ringlab's fresh makes none, so that a second shard costs a first one nothing.

needed=(wrk curl taskset awk cargo)
readonly WASMTIME_VERSION=48

# Built once, the program and the handler, into this checkout's target. The program with the features and
# the panics of its own releases, but for the compilers of other processors.
prepare_peer() {
    local made=${CARGO_TARGET_DIR:-$here/../target}/peers
    mkdir -p "$made"
    made=$(realpath -- "$made")
    wasmtime=$made/as-released/bin/wasmtime
    if ! [[ -x $wasmtime ]]; then
        say "building wasmtime $WASMTIME_VERSION into $made: about ten minutes, once"
        CARGO_PROFILE_RELEASE_PANIC=abort cargo install wasmtime-cli --version "^$WASMTIME_VERSION" --locked \
            --root "$made/as-released" --target-dir "$made/build" ||
            fail $HOST_CANNOT "wasmtime could not be built; see what cargo says above"
    fi
    rustup target add wasm32-wasip2 >/dev/null 2>&1 || true # without rustup it is there, or cargo says
    cargo build --quiet --locked --release --target wasm32-wasip2 --target-dir "$made/build" \
        --manifest-path "$here/peers/wasi-http-hello/Cargo.toml" ||
        fail $HOST_CANNOT "the handler could not be built; it needs Rust's target wasm32-wasip2"
    component=$made/build/wasm32-wasip2/release/wasi_http_hello.wasm
    version="$("$wasmtime" --version), $(wrk_version)"
}

readonly TUNED="$peer tuned"

# As it comes; or as arm `TUNED`, which keeps memories and tables resident and puts back what the kernel
# says was written to (PAGEMAP_SCAN). Of its options for a pool these are what helps this handler: kept
# async stacks change nothing, and decommits in batches make it worse beside these.
start_peer() {
    local -a options=(--optimize pooling-allocator=y)
    [[ ${1:-} != "$TUNED" ]] || options+=(--optimize pooling-pagemap-scan=y
        --optimize pooling-memory-keep-resident=1048576 --optimize pooling-table-keep-resident=65536)
    launch_peer "$wasmtime" serve -S cli "${options[@]}" --addr "127.0.0.1:$port" "$component"
}

run_peer() {
    echo "The interfaces differ: wasi:http's resources and streams there, bytes in memory here."
    start_peer
    echo "Answer: $peer $(answer_bytes) bytes"
    end_child server
    add_ringlab io_uring fresh
    add_ringlab io_uring reuse
    add_ringlab io_uring native
    [[ -n $size ]] || fail $HOST_CANNOT "ringlab does not start: $(<"$dir/ringlab.log")"
    echo "Answer: ringlab $size bytes"
    if printf '6.7\n%s\n' "$(uname -r)" | sort -V -C; then
        arms+=("$TUNED")
    else
        echo "Left out: $TUNED: PAGEMAP_SCAN is there from Linux 6.7 on"
    fi
    # The last is the A/A control.
    arms=("$peer" "${arms[@]}" "$peer again")
    run_cases
    explain_tables
    [[ " ${arms[*]} " != *" ringlab io_uring native "* ]] ||
        echo "native has no sandbox: TCP, HTTP and the loop. No isolation can answer more, but by chance."
    [[ " ${arms[*]} " != *" $TUNED "* ]] ||
        echo "tuned keeps a used instance's pages and puts back those written to, as the kernel lists them."
}
