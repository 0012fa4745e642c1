#!/usr/bin/env bash
# Builds the handlers that are not in Rust, one for each language, each where its compiler is installed.
#
#   scripts/guests.sh [DIRECTORY]      target/guests by default
#
# Makes DIRECTORY/c.wasm, assemblyscript.wasm and text.wat, and says which it could not make, and how to
# get the compiler; that alone is no failure. CLANG and ASC name other compilers.
set -euo pipefail

if [[ ${1:-} == -h || ${1:-} == --help ]]; then
    sed -n '2,7s/^# \{0,1\}//p' "$0"
    exit 0
fi
# Where it was called, before the directory changes.
out=$(realpath -m -- "${1:-$(dirname "$0")/../target/guests}")
cd "$(dirname "$0")/../guest"
mkdir -p -- "$out"

made() { echo "guests: $1: $out/$2"; }
missing() { echo "guests: $1: left out: $2"; }

# A handler's memory is cheap to make anew if it is small and never grows: one page of 64 KiB, the
# stack lowest in it, where an overflow traps.
build_c() {
    local clang=${CLANG:-clang}
    if ! command -v "$clang" >/dev/null; then
        missing c "there is no $clang; install it and its linker (apt-get install clang lld) or name one with CLANG"
    elif ! "$clang" --print-targets 2>/dev/null | grep -w wasm32 >/dev/null; then
        missing c "$clang has no target wasm32; install LLVM's (apt-get install clang lld) and name it with CLANG"
    elif [[ $("$clang" --target=wasm32 -print-prog-name=wasm-ld) != */* ]]; then
        missing c "there is no wasm-ld to link with; install it (apt-get install lld)"
    else
        "$clang" --target=wasm32 -std=c11 -Wall -Wextra -Werror -O2 -nostdlib -mbulk-memory \
            -Wl,--no-entry -Wl,--export=ringlab_v1 \
            -Wl,--stack-first -Wl,-z,stack-size=16384 -Wl,--initial-memory=65536 -Wl,--max-memory=65536 \
            -o "$out/c.wasm" c/hello.c
        made c c.wasm
    fi
}

build_assemblyscript() {
    local asc=${ASC:-asc}
    if ! command -v "$asc" >/dev/null; then
        missing assemblyscript "there is no $asc; install it (npm install --global assemblyscript) or name one with ASC"
    else
        "$asc" assemblyscript/hello.ts -O --runtime stub --use abort= \
            --initialMemory 1 --maximumMemory 1 --outFile "$out/assemblyscript.wasm"
        made assemblyscript assemblyscript.wasm
    fi
}

# The host compiles the text format itself.
build_text() {
    cp text/hello.wat "$out/text.wat"
    made text text.wat
}

build_c
build_assemblyscript
build_text
