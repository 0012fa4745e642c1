#!/usr/bin/env bash
# What `cargo test` leaves out for want of time: the whole suite many times over, and the tests that
# measure. Ends by itself; says which round failed.
#
#   scripts/soak.sh [ROUNDS]      20 rounds by default
set -euo pipefail
cd "$(dirname "$0")/.."

case "${1:-20}" in
    -h | --help)
        sed -n '2,5s/^# \{0,1\}//p' "$0"
        exit 0
        ;;
    '' | *[!0-9]*)
        echo "soak: ${1@Q} is no number of rounds; try: scripts/soak.sh 20" >&2
        exit 2
        ;;
esac

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
# The ledger finds work that was put into a stage in that row and in no other; needs an idle machine.
cargo test --release --test lab injection -- --ignored --nocapture
