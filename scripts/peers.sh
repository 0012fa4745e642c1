#!/usr/bin/env bash
# ringlab beside a server that everybody knows, in one run, with one load for all.
#
# Held equal: the machine and the moment (arms take turns, each block a fresh server process), the
# server's one core, the load (wrk on another core), the bytes of a request and of an answer, no
# access log. Measured from outside: the CPU time that the kernel has on record for the server's
# threads, read before and after each run of wrk, when the server sleeps and the record is exact.
# It includes softirq work done in the server's time, as loopback has it: this is not a network.
#
# Touches nothing but a temporary directory and its own children. May install missing packages, if
# run by root. Bounded: (rounds x arms x cases) blocks of fixed length, and waits that give up.
set -euo pipefail

usage() {
    cat <<'END'
Usage: scripts/peers.sh [nginx] [--rounds N] [--seconds N] [--connections "N N ..."]

Sets ringlab (hello in wasm, kept instance; epoll and io_uring) beside nginx, with wrk as the load:
a case for each number of connections, one request in flight on each, and a case of 16 requests
pipelined on each of 64 connections.

  --rounds N        rounds of each case; every arm has one block a round (default 5, 1 to 100)
  --seconds N       length of a block (default 2, 1 to 60)
  --connections L   the numbers of connections, 1 to 1000 each (default "64 256")
  --help            this text

RINGLAB=PATH in the environment names the ringlab to run; without it, this checkout is built.
Needs two cores, nginx, wrk, curl, taskset and awk.
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
readonly PIPELINE=16
readonly PIPELINED_CONNECTIONS=64

# ---------------------------------------------------------------- what is asked for

rounds=5
seconds=2
connections="64 256"

# whole NAME VALUE MAX: refuses what is not a whole number from 1 to MAX.
whole() {
    if ! [[ $2 =~ ^[1-9][0-9]{0,8}$ ]] || (($2 > $3)); then
        fail $BAD_INPUT "$1 is '$2'; it must be a whole number from 1 to $3"
    fi
}

parse() {
    if (($# > 0)) && [[ $1 != -* ]]; then
        [[ $1 == nginx ]] || fail $BAD_INPUT "there is no peer called '$1'; the only one is nginx"
        shift
    fi
    while (($# > 0)); do
        case $1 in
            --help | -h)
                usage
                exit 0
                ;;
            --rounds | --seconds | --connections)
                (($# > 1)) || fail $BAD_INPUT "$1 needs a value; see --help"
                printf -v "${1#--}" '%s' "$2"
                shift 2
                ;;
            *) fail $BAD_INPUT "there is no option '$1'; see --help" ;;
        esac
    done
    whole --rounds "$rounds" 100
    whole --seconds "$seconds" 60
    local number
    [[ -n ${connections// /} ]] || fail $BAD_INPUT "--connections is empty; name a number or more"
    for number in $connections; do
        whole --connections "$number" 1000
    done
}

# ---------------------------------------------------------------- what is there

# Distributions put nginx where only root looks.
PATH=$PATH:/usr/sbin:/sbin

missing() {
    local tool
    for tool in nginx wrk curl taskset awk; do
        command -v "$tool" >/dev/null || printf '%s ' "$tool"
    done
}

# Debian's names. nginx-light has all that is needed where it exists.
install_missing() {
    local lacking tool
    lacking=$(missing)
    [[ -n $lacking ]] || return 0
    if ((EUID != 0)) || ! command -v apt-get >/dev/null; then
        fail $HOST_CANNOT "not installed here: $lacking; install them (packages nginx-light, wrk," \
            "curl, util-linux, mawk), or run this once as root where apt-get is"
    fi
    say "installing: $lacking"
    apt-get update -qq >&2 || say "the package lists could not be renewed"
    for tool in $lacking; do
        case $tool in
            nginx) install_package nginx-light || install_package nginx ;;
            taskset) install_package util-linux ;;
            awk) install_package mawk ;;
            *) install_package "$tool" ;;
        esac || fail $HOST_CANNOT "apt-get could not install $tool; install it and try again"
    done
    lacking=$(missing)
    [[ -z $lacking ]] || fail $HOST_CANNOT "still not to be found: $lacking"
}

install_package() {
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$1" >&2
}

# The server has the last core that this process may use, the load the first.
choose_cores() {
    local list part core
    list=$(awk '/^Cpus_allowed_list:/ { print $2 }' /proc/self/status)
    local -a usable=()
    for part in ${list//,/ }; do
        for ((core = ${part%-*}; core <= ${part#*-}; core++)); do usable+=("$core"); done
    done
    ((${#usable[@]} > 1)) ||
        fail $HOST_CANNOT "this process may use core ${usable[*]} only; server and load need one each"
    load_core=${usable[0]}
    server_core=${usable[-1]}
}

# ---------------------------------------------------------------- children

dir=""
server="" # the process that was started: ringlab, or nginx's master
load=""   # wrk

# Ends the child whose id the variable $1 holds, by force if it does not hear.
end_child() {
    local -n child=$1
    [[ -n $child ]] || return 0
    local pid=$child tenth
    child=""
    kill -TERM "$pid" 2>/dev/null || true
    for ((tenth = 0; tenth < PATIENCE_S * 10; tenth++)); do
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.1
    done
    kill -KILL "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
}

clean_up() {
    trap '' INT TERM
    end_child load
    end_child server
    [[ -z $dir ]] || rm -rf -- "$dir"
}
trap clean_up EXIT
trap 'exit 130' INT TERM
# A server that is gone is noticed where its answer is missing.
trap '' PIPE

# ---------------------------------------------------------------- ringlab

# Starts it with model $1, its standard streams on two named pipes: see src/control.rs.
start_ringlab() {
    local model=$1 line=""
    rm -f "$dir/in" "$dir/out"
    mkfifo "$dir/in" "$dir/out"
    taskset -c "$server_core" "$ringlab" serve --control --model "$model" --isolation reuse \
        --handler hello --cores "$server_core" --listen 127.0.0.1:0 \
        <"$dir/in" >"$dir/out" 2>"$dir/ringlab.log" &
    server=$!
    exec {to_server}>"$dir/in" {from_server}<"$dir/out"
    read -r -t $PATIENCE_S -u "$from_server" line || true
    url=${line#listening on }/
    [[ $url == http://* ]]
}

stop_ringlab() {
    exec {to_server}>&- {from_server}<&-
    end_child server
}

# The system calls that its shards have made so far. A count that this script does not know might
# be either kind, so it ends the run: src/io/counts.rs says which it is.
ringlab_system_calls() {
    local report
    echo >&"$to_server"
    read -r -t $PATIENCE_S -u "$from_server" report ||
        fail $HOST_CANNOT "ringlab gave no figures: $(<"$dir/ringlab.log")"
    report=${report#*'"io":{'}
    tr ',' '\n' <<<"${report%%\}*}" | tr -d '"' | awk -F: -v host_cannot=$HOST_CANNOT '
        BEGIN {
            split("accept4 recv send epoll_wait epoll_ctl io_uring_enter poll read shutdown close " \
                "timerfd_settime clone3", names, " ")
            for (n in names) is_call[names[n]] = 1
            split("sqe cqe rearmed enobufs io_wq cq_overflow", names, " ")
            for (n in names) is_call[names[n]] = 0
        }
        !($1 in is_call) { unknown = unknown " " $1; next }
        is_call[$1] { calls += $2 }
        END {
            if (unknown == "") printf "%.0f\n", calls
            else print "peers: ringlab counts what this script does not know:" unknown >"/dev/stderr"
            exit unknown == "" ? 0 : host_cannot
        }'
}

# ---------------------------------------------------------------- nginx

# Writes its configuration, with an answer of a body of $1 bytes on port $2.
configure_nginx() {
    local body module
    body=$(printf "%$1s" '' | tr ' ' x)
    {
        cat <<END
worker_processes 1;
worker_rlimit_nofile 8192;
pid $dir/nginx.pid;
error_log $dir/nginx.log error;
events {
    use epoll;
    worker_connections 4096;
    multi_accept on;
}
http {
    access_log off;
    server_tokens off;
    default_type text/plain;
    tcp_nodelay on;
    keepalive_timeout 60s;
    keepalive_requests 2000000000;
END
        # Where it would keep what it never has here; not every build knows every one.
        for module in client_body proxy fastcgi uwsgi scgi; do
            grep -q -- "--without-http_${module}_module" "$dir/nginx.version" ||
                echo "    ${module}_temp_path $dir/$module;"
        done
        cat <<END
    server {
        listen 127.0.0.1:$2 reuseport backlog=1024;
        location / { return 200 "$body"; }
    }
}
END
    } >"$dir/nginx.conf"
}

# Starts it as configured, or fails with what it said.
start_nginx() {
    local -a error_log=()
    # Since 1.19.5 it can be told not to open the system's log first.
    if grep -q -- ' -e filename' "$dir/nginx.help"; then error_log=(-e "$dir/nginx.log"); fi
    taskset -c "$server_core" nginx "${error_log[@]}" -p "$dir" -c "$dir/nginx.conf" \
        -g 'daemon off;' >"$dir/nginx.out" 2>&1 &
    server=$!
    url=http://127.0.0.1:$nginx_port/
    local tenth
    for ((tenth = 0; tenth < PATIENCE_S * 10; tenth++)); do
        if is_taken "$nginx_port"; then return; fi
        kill -0 "$server" 2>/dev/null || break
        sleep 0.1
    done
    fail $HOST_CANNOT "nginx does not serve: $(cat "$dir/nginx.out" "$dir/nginx.log" 2>/dev/null)"
}

stop_nginx() { end_child server; }

is_taken() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# A port that nobody listens on, below those that the kernel gives to clients, and of five digits
# as ringlab's: the requests name it.
choose_port() {
    local attempt
    for ((attempt = 0; attempt < 20; attempt++)); do
        nginx_port=$((20000 + RANDOM % 10000))
        if ! is_taken "$nginx_port"; then return; fi
    done
    fail $HOST_CANNOT "no free port between 20000 and 30000"
}

# ---------------------------------------------------------------- equal work

# The bytes of an answer, head and body.
answer_bytes() { curl -sS -i --max-time $PATIENCE_S "$url" | wc -c; }

# Gives nginx a body so long that its answer is as long as ringlab's, $1 bytes.
fit_nginx() {
    local wanted=$1 body=1 attempt got=0
    # The length of the body stands in the head: a digit more moves the goal once.
    for ((attempt = 0; attempt < 3; attempt++)); do
        configure_nginx "$body" "$nginx_port"
        start_nginx
        got=$(answer_bytes)
        stop_nginx
        ((got != wanted)) || break
        body=$((body + wanted - got))
        ((body > 0)) || break
    done
    echo "Answer: ringlab $wanted bytes, nginx $got bytes (its body filled up)"
    ((got == wanted)) ||
        fail $HOST_CANNOT "answers differ in length and would not be equal work; adjust configure_nginx"
}

# ---------------------------------------------------------------- one block

# CPU time of a process and of its children, in nanoseconds: what the scheduler has on record for
# their threads. None of these servers ends a thread in the middle of a block.
cpu_ns() {
    local status
    local -a files=("/proc/$1"/task/*/schedstat)
    while read -r status; do
        files+=("${status%/status}"/task/*/schedstat)
    done < <(grep -lsx "PPid:[[:space:]]*$1" /proc/[0-9]*/status)
    # A thread may end between the two lines, and a kernel may keep no such files.
    { cat -- "${files[@]}" 2>/dev/null || true; } | awk '{ ns += $1 } END { printf "%.0f\n", ns }'
}

# Runs wrk for a block and leaves what it said in wrk.out; or with --warm-up, for that long.
run_load() {
    local warm_up=false
    if [[ $1 == --warm-up ]]; then
        warm_up=true
        shift
    fi
    local status=0
    taskset -c "$load_core" wrk --threads 1 "$@" --duration "${seconds}s" "$url" \
        >"$dir/wrk.out" 2>&1 &
    load=$!
    if $warm_up; then
        sleep $WARM_UP_S
        kill -INT "$load" # wrk's whole seconds are too long for this
    fi
    wait "$load" || status=$?
    load=""
    if ((status != 0)) || grep -qE 'Socket errors|Non-2xx' "$dir/wrk.out"; then
        fail $HOST_CANNOT "wrk was not answered as it should be: $(<"$dir/wrk.out")"
    fi
}

# Starts arm $1, loads it with wrk's options that follow, and prints
# requests, requests a second, CPU time in ns and system calls (or -).
block() {
    local arm=$1 calls_before=0 calls_after=0 before after
    shift
    case $arm in
        nginx*) start_nginx ;;
        ringlab*) start_ringlab "${arm#ringlab }" ||
            fail $HOST_CANNOT "$arm did not start: $(<"$dir/ringlab.log")" ;;
    esac
    run_load --warm-up "$@"
    sleep $SETTLE_S
    # What asking ringlab costs lies outside the CPU time that is taken.
    [[ $arm == nginx* ]] || calls_before=$(ringlab_system_calls)
    before=$(cpu_ns "$server")
    run_load "$@"
    sleep $SETTLE_S
    after=$(cpu_ns "$server")
    [[ $arm == nginx* ]] || calls_after=$(ringlab_system_calls)
    case $arm in
        nginx*) stop_nginx ;;
        ringlab*) stop_ringlab ;;
    esac
    ((after > before)) ||
        fail $HOST_CANNOT "this kernel has no CPU times in /proc/PID/task/*/schedstat; it needs" \
            "CONFIG_SCHED_INFO"
    awk -v cpu_ns=$((after - before)) -v calls=$((calls_after - calls_before)) -v arm="$arm" '
        / requests in / { requests = $1 }
        /^Requests\/sec:/ { rate = $2 }
        END { print requests, rate, cpu_ns, arm ~ /^nginx/ ? "-" : calls }' "$dir/wrk.out"
}

# ---------------------------------------------------------------- a case and its table

# Every arm once a round; each round begins with the next arm, so that none is always first.
run_case() {
    local title=$1 round turn arm row
    shift
    : >"$dir/rows"
    for ((round = 0; round < rounds; round++)); do
        for ((turn = 0; turn < ${#arms[@]}; turn++)); do
            arm=${arms[(round + turn) % ${#arms[@]}]}
            say "$title: round $((round + 1)) of $rounds: $arm"
            # Not in a subshell: the children are this shell's to end.
            block "$arm" "$@" >"$dir/row"
            row=$(<"$dir/row")
            printf '%s\t%s\t%s\n' "$round" "$arm" "${row// /$'\t'}" >>"$dir/rows"
        done
    done
    printf '\n%s\n' "$title"
    table <"$dir/rows"
}

# Rows of round, arm, requests, rate, CPU ns and system calls, to a table and what follows from it.
table() {
    awk -F '\t' '
        function median(values, n,    i, j, v) {
            for (i = 2; i <= n; i++) {
                v = values[i]
                for (j = i - 1; j > 0 && values[j] > v; j--) values[j + 1] = values[j]
                values[j + 1] = v
            }
            return n % 2 ? values[(n + 1) / 2] : (values[n / 2] + values[n / 2 + 1]) / 2
        }
        # The median of a figure of an arm over the rounds.
        function over_rounds(figure, arm,    r, values) {
            for (r = 0; r < rounds; r++) values[r + 1] = figure[r, arm]
            return median(values, rounds)
        }
        !($2 in known) { known[$2]; arms[++arm_count] = $2 }
        {
            cost[$1, $2] = $5 / $3
            rate[$1, $2] = $4
            busy[$1, $2] = $5 / ($3 / $4 * 1e9) # wrk keeps no exact time, but tells
            calls[$1, $2] = $6 == "-" ? "-" : $6 / $3
            rounds = $1 + 1
        }
        END {
            format = "%-17s %14s   %-22s %12s %10s %16s\n"
            printf format, "", "CPU ns/request", "ratio to nginx", "requests/s", "core busy", "calls/request"
            for (a = 1; a <= arm_count; a++) {
                arm = arms[a]
                for (r = 0; r < rounds; r++) {
                    ratio[r, arm] = cost[r, arm] / cost[r, "nginx"]
                    if (r == 0 || ratio[r, arm] < low) low = ratio[r, arm]
                    if (r == 0 || ratio[r, arm] > high) high = ratio[r, arm]
                }
                middle[arm] = over_rounds(ratio, arm)
                share = over_rounds(busy, arm)
                # A server that is not kept busy has more to give than the load asked for.
                printf format, arm, sprintf("%.0f", over_rounds(cost, arm)), \
                    arm == "nginx" ? "1" : sprintf("%.3f (%.3f to %.3f)", middle[arm], low, high), \
                    (share < 0.95 ? ">= " : "") sprintf("%.0f", over_rounds(rate, arm)), \
                    sprintf("%.0f %%", 100 * share), \
                    arm ~ /^nginx/ ? "n/a" : sprintf("%.4f", over_rounds(calls, arm))
            }
            for (a = 1; a <= arm_count; a++)
                if (arms[a] ~ /^ringlab/)
                    printf "%s answers %.2f x as many requests per CPU-second as nginx.\n", arms[a], 1 / middle[arms[a]]
            if (("ringlab epoll" in known) && ("ringlab io_uring" in known)) {
                for (r = 0; r < rounds; r++)
                    fraction[r, "-"] = calls[r, "ringlab io_uring"] / calls[r, "ringlab epoll"]
                share = over_rounds(fraction, "-")
                printf "ringlab io_uring makes 1/%.1f of the system calls per request of ringlab epoll.\n", 1 / share
            }
        }'
}

# ---------------------------------------------------------------- the run

parse "$@"
install_missing
choose_cores
if [[ -n ${RINGLAB:-} ]]; then
    ringlab=$(realpath -m -- "$RINGLAB")
else
    cd "$(dirname "$0")/.."
    cargo build --release
    ringlab=${CARGO_TARGET_DIR:-target}/release/ringlab
fi
[[ -f $ringlab && -x $ringlab ]] || fail $BAD_INPUT "there is no program '$ringlab'; leave RINGLAB out to build it"

dir=$(mktemp -d "${TMPDIR:-/tmp}/peers.XXXXXX")
chmod 755 "$dir" # nginx's worker may be another user
nginx -V 2>"$dir/nginx.version"
nginx -h >"$dir/nginx.help" 2>&1 || true
cat >"$dir/pipeline.lua" <<END
-- $PIPELINE requests at a time; wrk counts them in the first batch.
local batch
function init(args)
    batch = wrk.format():rep($PIPELINE)
end
function request()
    return batch
end
END

echo "Kernel $(uname -r), $(awk -F ': ' '/^model name/ { print $2; exit }' /proc/cpuinfo)"
echo "Server on core $server_core, load on core $load_core, loopback; $rounds rounds of ${seconds} s blocks"
echo "$("$ringlab" --version), $(sed -n 's/^nginx version: //p' "$dir/nginx.version")," \
    "$({ wrk --version || true; } 2>&1 | awk 'NR == 1 { print $1, $2 }')"

# The peer twice: the second is the A/A control, whose distance from 1 is what chance does here.
arms=(nginx)
size=""
for model in epoll io_uring; do
    if start_ringlab "$model"; then
        size=$(answer_bytes)
        arms+=("ringlab $model")
    else
        reason=$(<"$dir/ringlab.log")
        echo "Left out: ringlab $model: ${reason#ringlab: }"
    fi
    stop_ringlab
done
arms+=("nginx again")
[[ -n $size ]] || fail $HOST_CANNOT "ringlab does not start: $(<"$dir/ringlab.log")"
choose_port
fit_nginx "$size"

for number in $connections; do
    run_case "$number connections, one request in flight on each" --connections "$number"
done
run_case "$PIPELINED_CONNECTIONS connections, $PIPELINE requests pipelined on each" \
    --connections "$PIPELINED_CONNECTIONS" --script "$dir/pipeline.lua"
echo
echo "Medians over rounds; a ratio is taken within its round, with the least and the greatest of them."
echo "Core busy: CPU time over the length of a block; below 95 % the load was the limit (>=)."
echo "calls/request: ringlab counts its own system calls; counting nginx's would slow it down."
