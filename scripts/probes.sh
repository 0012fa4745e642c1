#!/usr/bin/env bash
# Probes that are off leave nothing behind: a look at the machine code.
#
#   scripts/probes.sh
#
# In benches/probe.rs, the function with a probe that is off is, instruction by instruction, the one
# without a probe; the one with a probe that is on is not.
set -euo pipefail
cd "$(dirname "$0")/.."

command -v objdump >/dev/null || {
    echo "probes: objdump is missing; install binutils" >&2
    exit 4
}

bench=$(cargo bench --bench probe --no-run --message-format=json |
    sed -n 's/.*"name":"probe".*"executable":"\([^"]*\)".*/\1/p' | tail -1)

# The instructions of a function, without addresses: targets of jumps are relative to its start.
code() {
    objdump --disassemble="$1" --no-show-raw-insn --no-addresses "$bench" |
        sed -n "/<$1>:/,\$p" | tail -n +2 | sed "s/<$1/</; s/\b[0-9a-f]* \(<\)/\1/" | grep . || true
}

without=$(code probe_bench_without)
off=$(code probe_bench_off)
on=$(code probe_bench_on)
# Functions that are the same may have been merged into one, which then bears the other name.
if [ -z "$without" ] && [ -z "$off" ]; then
    echo "probes: neither function is in $bench" >&2
    exit 1
fi
if [ -n "$without" ] && [ -n "$off" ] && [ "$without" != "$off" ]; then
    echo "probes: the probe that is off has left something behind:" >&2
    diff <(echo "$without") <(echo "$off") >&2 || true
    exit 1
fi
if [ "$on" = "$without" ]; then
    echo "probes: the probe that is on is not there either: this look sees nothing" >&2
    exit 1
fi
echo "probes: off is the same code as without: $(echo "${without:-$off}" | wc -l) instructions; on: $(echo "$on" | wc -l)"
