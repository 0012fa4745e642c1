#!/usr/bin/env bash
# ringlab beside servers that people know, in one run, with one load for all.
#
# Held equal: the machine and the moment (arms take turns, each block a fresh server process), the
# server's cores, the load (wrk, on other cores where there are any), the bytes of a request and of an
# answer, no access log. (What is not equal for a peer is said by its file in scripts/peers.) Measured
# from outside: the CPU time that the kernel has on record for the server's threads, read before and
# after each run of wrk, when the server sleeps and the record is exact. It includes softirq work done
# in the server's time, as loopback has it: this is not a network.
#
# Touches nothing but a temporary directory and its own children. May install missing packages, if
# run by root. Bounded: (rounds x arms x cases) blocks of fixed length, and waits that give up.
set -euo pipefail

usage() {
    cat <<'END'
Usage: scripts/peers.sh [PEER] [--rounds N] [--seconds N] [--connections "N N ..."]
                        [--server-cores "N N ..."]

Sets ringlab's hello in wasm beside a peer, with wrk as the load: a case for each number of
the server's cores and of connections, one request in flight on each.

  nginx             (default) answers of the same length; ringlab by epoll and io_uring, isolation
                    reuse; and a case of 16 requests pipelined on each of 64 connections, with the
                    last of the numbers of the server's cores
  wasmtime          wasmtime serve with a hello for wasi:http, a new instance for each request as its
                    interface has it, as it comes and tuned; ringlab by io_uring, isolations fresh and
                    reuse, and native, which none can beat. Builds wasmtime once (minutes), into
                    target/peers
  offload           Node (on its loop, and worker threads) and Go beside ringlab's policies: light
                    requests in open loop while heavy ones, 100 ms each, are always running

  --rounds N        rounds of each case; every arm has one block a round (default 5, 1 to 100)
  --seconds N       length of a block (default 2, 1 to 60)
  --connections L   the numbers of connections, 1 to 1000 each (default "64 256"; wasmtime "64")
  --server-cores L  the numbers of cores that the server may use, 1 to 64 each (default 1; wasmtime
                    "1 2"; offload has 1). Load has as many, of the others; of the same if none is left
  --help            this text

RINGLAB=PATH in the environment names the ringlab to run; without it, this checkout is built.
Needs two cores, wrk, curl, taskset and awk, and the peer.
Exit codes: 0 done, 2 bad input, 4 the host cannot, 130 interrupted.
END
}

say() { printf 'peers: %s\n' "$*" >&2; }

# Ends the script with a sentence and one of ringlab's exit codes.
fail() {
    local code=$1
    shift
    say "$*"
    exit "$code"
}
readonly BAD_INPUT=2 HOST_CANNOT=4

readonly WARM_UP_S=0.3   # load before a block, for connections and caches
readonly SETTLE_S=0.1    # for a server to see that its clients have gone, and to sleep
readonly PATIENCE_S=5    # for anything that should take milliseconds

# ---------------------------------------------------------------- what is asked for

peer=nginx
rounds=5
seconds=2
connections=""
server_cores=""

# whole NAME VALUE MAX: refuses what is not a whole number from 1 to MAX.
whole() {
    if ! [[ $2 =~ ^[1-9][0-9]{0,8}$ ]] || (($2 > $3)); then
        fail $BAD_INPUT "$1 is '$2'; it must be a whole number from 1 to $3"
    fi
}

# numbers NAME DEFAULT: makes an array of the variable NAME, whose words are numbers, or else of DEFAULT.
numbers() {
    local -n list=$1
    local words=${list:-$2}
    read -r -d '' -a list <<<"$words" || true # it ends where the words do
}

parse() {
    if (($# > 0)) && [[ $1 != -* ]]; then
        case $1 in
            nginx | wasmtime | offload) peer=$1 ;;
            *) fail $BAD_INPUT "there is no peer called '$1'; choose nginx, wasmtime or offload" ;;
        esac
        shift
    fi
    while (($# > 0)); do
        case $1 in
            --help | -h)
                usage
                exit 0
                ;;
            --rounds | --seconds | --connections | --server-cores)
                (($# > 1)) || fail $BAD_INPUT "$1 needs a value; see --help"
                [[ $2 == *[![:space:]]* ]] || fail $BAD_INPUT "$1 is empty; see --help"
                local option=${1#--}
                printf -v "${option//-/_}" '%s' "$2"
                shift 2
                ;;
            *) fail $BAD_INPUT "there is no option '$1'; see --help" ;;
        esac
    done
    whole --rounds "$rounds" 100
    whole --seconds "$seconds" 60
    local number
    case $peer in
        nginx) numbers connections "64 256" && numbers server_cores 1 ;;
        wasmtime) numbers connections 64 && numbers server_cores "1 2" ;;
        offload) numbers connections 64 && numbers server_cores 1 ;;
    esac
    for number in "${connections[@]}"; do
        whole --connections "$number" 1000
    done
    for number in "${server_cores[@]}"; do
        whole --server-cores "$number" 64
        [[ $peer != offload || $number == 1 ]] ||
            fail $BAD_INPUT "offload measures what one core does; leave --server-cores out"
    done
}

# ---------------------------------------------------------------- the run

parse "$@"
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source-path=SCRIPTDIR source=peers/common.sh
. "$here/peers/common.sh"
# shellcheck source-path=SCRIPTDIR source=peers/nginx.sh
. "$here/peers/$peer.sh"
install_missing
find_cores
share_cores "${server_cores[0]}"
if [[ -n ${RINGLAB:-} ]]; then
    ringlab=$(realpath -m -- "$RINGLAB")
else
    cd "$here/.."
    cargo build --release
    ringlab=${CARGO_TARGET_DIR:-target}/release/ringlab
fi
[[ -f $ringlab && -x $ringlab ]] || fail $BAD_INPUT "there is no program '$ringlab'; leave RINGLAB out to build it"

dir=$(mktemp -d "${TMPDIR:-/tmp}/peers.XXXXXX")
chmod 755 "$dir" # nginx's worker may be another user
choose_port
prepare_peer

echo "Kernel $(uname -r), $(awk -F ': ' '/^model name/ { print $2; exit }' /proc/cpuinfo)"
echo "Loopback; $(counted "$rounds" round) of ${seconds} s blocks"
echo "$("$ringlab" --version), $version"

arms=()
size=""
run_peer
