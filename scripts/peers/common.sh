# shellcheck shell=bash
# What scripts/peers.sh has for every peer: ringlab, the load, a block and its table. Sourced, not
# run. A peer's file beside it defines `needed` (tools), prepare_peer (once; sets `version`), start_peer
# (starts it on `port` as the arm that it is given wants it, by launch_peer) and run_peer (fills `arms`, runs
# cases).

# ---------------------------------------------------------------- what is there

# Not what a server is started with: with it wasmtime serve takes a backtrace in each request, 11 % of its
# time.
unset RUST_BACKTRACE RUST_LIB_BACKTRACE RUST_LOG

# Distributions put nginx where only root looks.
PATH=$PATH:/usr/sbin:/sbin

# Those of the tools in `needed` that are not there.
missing() {
    local tool
    for tool in "${needed[@]}"; do
        command -v "$tool" >/dev/null || printf '%s ' "$tool"
    done
}

# Debian's names. nginx-light has all that is needed where it exists.
install_missing() {
    local lacking tool
    lacking=$(missing)
    [[ -n $lacking ]] || return 0
    if ((EUID != 0)) || ! command -v apt-get >/dev/null; then
        fail $HOST_CANNOT "not installed here: $lacking; install them, or run this once as root" \
            "where apt-get is"
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

usable=() # the cores that this process may use

# Fills `usable`, and sees that they suffice for every case.
find_cores() {
    local list part core number
    list=$(awk '/^Cpus_allowed_list:/ { print $2 }' /proc/self/status)
    for part in ${list//,/ }; do
        for ((core = ${part%-*}; core <= ${part#*-}; core++)); do usable+=("$core"); done
    done
    ((${#usable[@]} > 1)) ||
        fail $HOST_CANNOT "this process may use core ${usable[*]} only; server and load need one each"
    for number in "${server_cores[@]}"; do
        ((number <= ${#usable[@]})) ||
            fail $HOST_CANNOT "--server-cores names $number, and this process may use ${#usable[@]}"
    done
}

# Gives the server the last $1 cores. The load has as many of the others, or as there are; if there
# are none it has the server's.
share_cores() {
    local others=$((${#usable[@]} - $1))
    server_count=$1
    load_count=$((others == 0 || others > $1 ? $1 : others))
    server_on=$(IFS=, && echo "${usable[*]:others}")
    load_on=$(IFS=, && echo "${usable[*]:0:load_count}")
    where="server on $(cores "$server_on"), load on $( ((others == 0)) && echo the same || cores "$load_on")"
}

# Whether server and load have the same.
cores_are_shared() { [[ $server_on == "$load_on" ]]; }

# counted N WORD: N of them, in words.
counted() { if (($1 == 1)); then echo "1 $2"; else echo "$1 $2s"; fi; }

# What a list of cores is called.
cores() { if [[ $1 == *,* ]]; then echo "cores $1"; else echo "core $1"; fi; }

# ---------------------------------------------------------------- children

dir=""
server="" # the process that was started: ringlab, or the peer (nginx: its master)
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

# Starts it with model $1 and isolation $2, its standard streams on two named pipes: see src/control.rs.
start_ringlab() {
    local model=$1 isolation=$2 line=""
    rm -f "$dir/in" "$dir/out"
    mkfifo "$dir/in" "$dir/out"
    taskset -c "$server_on" "$ringlab" serve --control --model "$model" --isolation "$isolation" \
        --handler hello --cores "$server_on" --listen 127.0.0.1:0 \
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

# The system calls that its shards have made so far.
ringlab_system_calls() {
    local report
    echo >&"$to_server"
    read -r -t $PATIENCE_S -u "$from_server" report ||
        fail $HOST_CANNOT "ringlab gave no figures: $(<"$dir/ringlab.log")"
    [[ $report =~ \"system_calls\":([0-9]+) ]] ||
        fail $HOST_CANNOT "this ringlab does not say how many system calls it makes; leave RINGLAB out"
    echo "${BASH_REMATCH[1]}"
}

# Adds an arm for ringlab with model $1 and isolation $2, if it starts here; says why if not. Leaves
# the length of its answer in `size`.
add_ringlab() {
    local reason
    if start_ringlab "$1" "$2"; then
        size=$(answer_bytes)
        arms+=("ringlab $1 $2")
    else
        reason=$(<"$dir/ringlab.log")
        echo "Left out: ringlab $1 $2: ${reason#ringlab: }"
    fi
    stop_ringlab
}

# ---------------------------------------------------------------- the peer

# Starts it and waits until it listens on `port`; what follows is its command. It says what it has to
# say into peer.out.
launch_peer() {
    taskset -c "$server_on" "$@" >"$dir/peer.out" 2>&1 &
    server=$!
    url=http://127.0.0.1:$port/
    local tenth
    for ((tenth = 0; tenth < PATIENCE_S * 10; tenth++)); do
        if is_taken "$port"; then return; fi
        kill -0 "$server" 2>/dev/null || break
        sleep 0.1
    done
    fail $HOST_CANNOT "$peer does not serve: $(cat "$dir/peer.out" "$dir/peer.log" 2>/dev/null)"
}

is_taken() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# A port that nobody listens on, below those that the kernel gives to clients, and of five digits
# as ringlab's: the requests name it.
choose_port() {
    local attempt
    for ((attempt = 0; attempt < 20; attempt++)); do
        port=$((20000 + RANDOM % 10000))
        if ! is_taken "$port"; then return; fi
    done
    fail $HOST_CANNOT "no free port between 20000 and 30000"
}

# The bytes of an answer, head and body.
answer_bytes() { curl -sS -i --max-time $PATIENCE_S "$url" | wc -c; }

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
    taskset -c "$load_on" wrk "$@" --duration "${seconds}s" "$url" \
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
    local arm=$1 calls_before=0 calls_after=0 before after model isolation
    shift
    case $arm in
        ringlab*)
            read -r _ model isolation <<<"$arm"
            start_ringlab "$model" "$isolation" ||
                fail $HOST_CANNOT "$arm did not start: $(<"$dir/ringlab.log")"
            ;;
        *) start_peer "$arm" ;;
    esac
    run_load --warm-up "$@"
    sleep $SETTLE_S
    # What asking ringlab costs lies outside the CPU time that is taken.
    [[ $arm != ringlab* ]] || calls_before=$(ringlab_system_calls)
    before=$(cpu_ns "$server")
    run_load "$@"
    sleep $SETTLE_S
    after=$(cpu_ns "$server")
    [[ $arm != ringlab* ]] || calls_after=$(ringlab_system_calls)
    case $arm in
        ringlab*) stop_ringlab ;;
        *) end_child server ;;
    esac
    ((after > before)) ||
        fail $HOST_CANNOT "this kernel has no CPU times in /proc/PID/task/*/schedstat; it needs" \
            "CONFIG_SCHED_INFO"
    awk -v cpu_ns=$((after - before)) -v calls=$((calls_after - calls_before)) -v arm="$arm" '
        / requests in / { requests = $1 }
        /^Requests\/sec:/ { rate = $2 }
        END { print requests, rate, cpu_ns, arm ~ /^ringlab/ ? calls : "-" }' "$dir/wrk.out"
}

# ---------------------------------------------------------------- a case and its table

# A case for each number of the server's cores and of connections.
run_cases() {
    local count number
    for count in "${server_cores[@]}"; do
        share_cores "$count"
        for number in "${connections[@]}"; do
            run_case "$(counted "$number" connection), one request in flight on each" "$number"
        done
    done
}

# The most threads on the load's cores that have as many of $1 connections each: wrk drops the rest.
threads_for() {
    local threads=$load_count
    while (($1 % threads != 0)); do ((threads--)); done
    echo "$threads"
}

# run_case TITLE CONNECTIONS [OPTION OF WRK ...]
# Every arm once a round; each round begins with the next arm, so that none is always first.
run_case() {
    local title=$1 number=$2 round turn arm row
    shift 2
    set -- --threads "$(threads_for "$number")" --connections "$number" "$@"
    : >"$dir/rows"
    for ((round = 0; round < rounds; round++)); do
        for ((turn = 0; turn < ${#arms[@]}; turn++)); do
            arm=${arms[(round + turn) % ${#arms[@]}]}
            say "$title, $where: round $((round + 1)) of $rounds: $arm"
            # Not in a subshell: the children are this shell's to end.
            block "$arm" "$@" >"$dir/row"
            row=$(<"$dir/row")
            printf '%s\t%s\t%s\n' "$round" "$arm" "${row// /$'\t'}" >>"$dir/rows"
        done
    done
    printf '\n%s\n%s\n' "$title" "${where^}"
    table <"$dir/rows"
    cores_are_shared || return 0
    echo "Load has a part of the server's cores: requests/s are of both together."
}

# What the tables say, after the last.
explain_tables() {
    cat <<END

Medians over rounds; a ratio is taken within its round, with the least and the greatest of them.
The peer runs twice: the distance of the second from 1 is what chance does here.
Busy: the server's part of its cores' time; below 95 % the load was the limit (>=).
CPU ns, calls: a request. ringlab counts its own system calls; counting $peer's would slow it.
END
}

wrk_version() { { wrk --version || true; } 2>&1 | awk 'NR == 1 { print $1, $2 }'; }

# Rows of round, arm, requests, rate, CPU ns and system calls, to a table and what follows from it.
table() {
    awk -F '\t' -v peer="$peer" -v cores="$server_count" -v shared="$(cores_are_shared && echo 1)" '
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
            busy[$1, $2] = $5 / ($3 / $4 * 1e9) / cores # wrk keeps no exact time, but tells
            calls[$1, $2] = $6 == "-" ? "-" : $6 / $3
            rounds = $1 + 1
        }
        END {
            format = "%-23s %6s  %-22s %10s %5s %7s\n"
            printf format, "", "CPU ns", "ratio to " peer, "requests/s", "busy", "calls"
            for (a = 1; a <= arm_count; a++) {
                arm = arms[a]
                for (r = 0; r < rounds; r++) {
                    ratio[r, arm] = cost[r, arm] / cost[r, peer]
                    if (r == 0 || ratio[r, arm] < low) low = ratio[r, arm]
                    if (r == 0 || ratio[r, arm] > high) high = ratio[r, arm]
                }
                middle[arm] = over_rounds(ratio, arm)
                share = over_rounds(busy, arm)
                # A server that is not kept busy has more to give than the load asked for.
                printf format, arm, sprintf("%.0f", over_rounds(cost, arm)), \
                    arm == peer ? "1" : sprintf("%.3f (%.3f to %.3f)", middle[arm], low, high), \
                    (share < 0.95 && !shared ? ">= " : "") sprintf("%.0f", over_rounds(rate, arm)), \
                    sprintf("%.0f %%", 100 * share), \
                    arm ~ /^ringlab/ ? sprintf("%.4f", over_rounds(calls, arm)) : "n/a"
            }
            for (a = 1; a <= arm_count; a++)
                if (arms[a] ~ /^ringlab/)
                    printf "%s answers %.2f x as many requests per CPU-second as %s.\n", arms[a], 1 / middle[arms[a]], peer
            if (("ringlab epoll reuse" in known) && ("ringlab io_uring reuse" in known)) {
                for (r = 0; r < rounds; r++)
                    fraction[r, "-"] = calls[r, "ringlab io_uring reuse"] / calls[r, "ringlab epoll reuse"]
                share = over_rounds(fraction, "-")
                printf "ringlab io_uring makes 1/%.1f of the system calls per request of ringlab epoll.\n", 1 / share
            }
        }'
}
