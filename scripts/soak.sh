#!/usr/bin/env bash
# What `cargo test` leaves out for want of time: the whole suite many times over, and the tests that
# measure; or simulated runs, as many as asked for. Ends by itself; says which round or seed failed.
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
for ((round = 1; round <= ${1:-20}; round++)); do
    echo "soak: round $round of ${1:-20}"
    cargo test --quiet --workspace || {
        echo "soak: round $round failed" >&2
        exit 1
    }
done
# Prices, as measured here; they assert nothing.
cargo test --release --lib price -- --ignored --nocapture
# A thousand handlers exchanged under load, memory as it was; and what an exchange costs who is served
# meanwhile, which means something on an idle machine only.
cargo test --release --test lab swap_soak -- --ignored --nocapture --test-threads 1
# Good requests wait no longer than twice as long beside bad ones; a run in which the machine's own noise
# is more than that shows nothing, and fails as such.
cargo test --release --test lab neighbours_soak -- --ignored --nocapture --test-threads 1
# Probes that are off are not there.
scripts/probes.sh
# What the ledgers' passes cost; needs an idle machine, and counts system calls where tracefs is mounted.
cargo test --release --test lab price -- --ignored --nocapture --test-threads 1
# The ledger finds work that was put into a stage in that row and in no other; needs an idle machine.
cargo test --release --test lab injection -- --ignored --nocapture --test-threads 1
