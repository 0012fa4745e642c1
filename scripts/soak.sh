#!/usr/bin/env bash
# What `cargo test` leaves out for want of time: the whole suite many times over, and the tests that
# measure; or simulated runs, as many as asked for. Ends by itself; says at the end what failed.
#
#   scripts/soak.sh [ROUNDS]      20 rounds by default
#   scripts/soak.sh --seeds N     the simulated model with the seeds below N
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    sed -n '2,6s/^# \{0,1\}//p' "$0"
}

is_number() {
    [[ $1 =~ ^[0-9]+$ ]]
}

if [[ ${1:-} == -h || ${1:-} == --help ]]; then
    usage
    exit 0
fi
if [[ ${1:-} == --seeds ]]; then
    seeds=${2:-}
    if ! is_number "$seeds"; then
        echo "soak: ${seeds@Q} is no number of seeds; try: scripts/soak.sh --seeds 20000" >&2
        exit 2
    fi
    RINGLAB_SEEDS=$seeds exec cargo test --lib every_seed_serves_everybody -- --nocapture
fi
if ! is_number "${1:-20}"; then
    echo "soak: ${1@Q} is no number of rounds; try: scripts/soak.sh 20" >&2
    exit 2
fi

cargo test --workspace --no-run
failed=()
# Runs a command and goes on, whatever comes of it: a machine too busy for one measurement may do for another.
check() {
    local name=$1
    shift
    echo "soak: $name"
    if ! "$@"; then
        echo "soak: $name failed" >&2
        failed+=("$name")
    fi
}

for ((round = 1; round <= ${1:-20}; round++)); do
    check "round $round of ${1:-20}" cargo test --quiet --workspace --no-fail-fast
done
# A measurement has the machine to itself.
measure() {
    check "$1" cargo test --release --test lab "$1" -- --ignored --nocapture --test-threads 1
}
# Prices, as measured here; they assert nothing.
check prices cargo test --release --lib price -- --ignored --nocapture
# A thousand handlers exchanged under load, memory as it was; and what an exchange costs who is served
# meanwhile, which means something on an idle machine only.
measure swap_soak
# Good requests wait no longer than twice as long beside bad ones; a run in which the machine's own noise
# is more than that shows nothing, and fails as such.
measure neighbours_soak
# Probes that are off are not there.
check probes scripts/probes.sh
# What the ledgers' passes cost, at saturation and at an offered rate; needs an idle machine, and counts
# system calls where tracefs is mounted.
measure price
# The ledger finds work that was put into a stage in that row and in no other, and the verdict tells a server
# that does it in another stage. WRONG ROW is a mistake of the ledger's on any machine; INCONCLUSIVE says how
# much longer it would take on this one.
measure injection

if ((${#failed[@]})); then
    printf 'soak: failed: %s\n' "${failed[@]}" >&2
    exit 1
fi
