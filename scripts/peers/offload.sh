# shellcheck shell=bash
# What requests that compute do to those that do not: ringlab's policies beside Node (on its loop, and
# in worker threads) and Go's net/http. Sourced by scripts/peers.sh.
#
# Held equal: the one core for all threads of a server, the light requests (open loop, Poisson, by
# `ringlab load` on the other core), the number of heavy requests that are always running, and the
# time that one of them takes alone: its steps are measured out for each server before its first block,
# since languages differ. The answers' headers are each server's own.

needed=(taskset awk curl)
readonly LIGHT_RATE=200        # requests a second
readonly LIGHT_CONNECTIONS=256 # enough for a server that answers none for a second
readonly HEAVY=8               # always running
readonly HEAVY_S=0.1           # one alone
readonly PROBE_STEPS=20000000  # of which the time is taken first
readonly DEADLINE=10s          # of ringlab's handlers: not what is looked at here

declare -A steps=()

# Arms are called by their server and its way.
prepare_peer() {
    version=""
    ways=("ringlab inline" "ringlab pool" "ringlab time-slice")
    if command -v node >/dev/null; then
        ways+=("node inline" "node workers")
        version+="Node $(node --version), "
    else
        echo "Left out: node, which is not installed (Debian: package nodejs)"
    fi
    if command -v go >/dev/null && GOCACHE=$dir/go-cache go build -o "$dir/go-server" "$here/peers/offload/server.go"; then
        ways+=("go")
        version+="$(go env GOVERSION), "
    else
        echo "Left out: go, which is not installed (Debian: package golang-go) or did not build"
    fi
    version=${version%, }
}

# Starts arm $1 on `port`.
start_arm() {
    case $1 in
        ringlab*)
            launch_peer "$ringlab" serve --listen "127.0.0.1:$port" --socket none \
                --cores "$server_on" --deadline "$DEADLINE" \
                --route /=hello --route "/spin=spin,reuse,${1#ringlab }"
            ;;
        node*) launch_peer node "$here/peers/offload/server.mjs" "$port" "${1#node }" ;;
        go) GOMAXPROCS=1 launch_peer "$dir/go-server" "$port" ;;
    esac
}

# Seconds that one heavy request of $1 steps takes.
time_heavy() { curl -sS -o /dev/null -w '%{time_total}' --max-time 60 "${url}spin?iterations=$1"; }

# How many steps take HEAVY_S: after one request that lets compilers do what they do, of the least of
# three.
measure_out() {
    local attempt
    time_heavy $PROBE_STEPS >/dev/null
    for attempt in 1 2 3; do
        time_heavy $PROBE_STEPS
        echo
    done | sort -g | awk -v wanted=$HEAVY_S -v probe=$PROBE_STEPS 'NR == 1 { printf "%.0f\n", probe * wanted / $1 }'
}

# Light requests for a block; leaves the result in $dir/light.json. Late and failed ones are counted
# there: with some of these servers that is what happens.
light() {
    taskset -c "$load_on" "$ringlab" load "$url" --rate $LIGHT_RATE -c $LIGHT_CONNECTIONS -d "${seconds}s" \
        --warm-up 500ms --cores "$load_on" --json "$dir/light.json" --quiet >"$dir/light.out" 2>&1 || true
    [[ -s $dir/light.json ]] || fail $HOST_CANNOT "the light load gave no result: $(<"$dir/light.out")"
}

# figure NAME FILE: a number out of a result, or `-`.
figure() { awk -v name="\"$1\":" 'index($0, name) { sub(".*" name " *", ""); sub("[,}].*", ""); print ($0 == "null" ? "-" : $0); found = 1; exit } END { if (!found) print "-" }' "$2"; }

# Starts arm $1 and prints, in ns and requests a second: p99 of the light alone; then beside the heavy
# p50, p99, p99.9 and max of the light, the heavy's rate, and how many of the light got no answer.
block_of_both() {
    local alone heavy
    start_arm "$1"
    [[ -n ${steps[$1]:-} ]] || steps[$1]=$(measure_out)
    light
    alone=$(figure latency_ns_p99 "$dir/light.json")
    taskset -c "$load_on" "$ringlab" load "${url}spin?iterations=${steps[$1]}" -c $HEAVY -d "${seconds}s" \
        --warm-up 700ms --request-timeout 30s --json "$dir/heavy.json" --quiet >"$dir/heavy.out" 2>&1 &
    load=$!
    light
    wait "$load" || true
    load=""
    [[ -s $dir/heavy.json ]] || fail $HOST_CANNOT "the heavy load gave no result: $(<"$dir/heavy.out")"
    heavy=$(figure throughput "$dir/heavy.json")
    end_child server
    echo "$alone $(figure latency_ns_p50 "$dir/light.json") $(figure latency_ns_p99 "$dir/light.json")" \
        "$(figure latency_ns_p999 "$dir/light.json") $(figure latency_ns_max "$dir/light.json") $heavy" \
        $(($(figure sent "$dir/light.json") + $(figure unsent "$dir/light.json") - $(figure answered "$dir/light.json")))
    rm -f "$dir/light.json" "$dir/heavy.json"
}

run_peer() {
    local round turn arm
    echo "${where^}"
    echo "Light: $LIGHT_RATE/s in open loop. Heavy: $HEAVY always running, ${HEAVY_S} s each alone."
    arms=("${ways[@]}")
    : >"$dir/rows"
    for ((round = 0; round < rounds; round++)); do
        for ((turn = 0; turn < ${#arms[@]}; turn++)); do
            arm=${arms[(round + turn) % ${#arms[@]}]}
            say "round $((round + 1)) of $rounds: $arm"
            block_of_both "$arm" >"$dir/row"
            printf '%s\t%s\n' "$arm" "$(tr ' ' '\t' <"$dir/row")" >>"$dir/rows"
        done
    done
    echo
    awk -F '\t' '
        # The median over rounds; "-" if a round has none.
        function middle(arm, column,    i, j, n, v, values) {
            n = count[arm]
            for (i = 1; i <= n; i++) {
                v = figures[arm, i, column]
                if (v == "-") return "-"
                for (j = i - 1; j > 0 && values[j] > v + 0; j--) values[j + 1] = values[j]
                values[j + 1] = v + 0
            }
            return n % 2 ? values[(n + 1) / 2] : (values[n / 2] + values[n / 2 + 1]) / 2
        }
        function ms(ns) { return ns == "-" ? "-" : sprintf("%.2f", ns / 1e6) }
        !($1 in count) { order[++arms] = $1 }
        { row = ++count[$1]; for (c = 2; c <= NF; c++) figures[$1, row, c] = $c }
        END {
            format = "%-19s %9s %8s %8s %8s %8s %7s %6s\n"
            printf format, "light, ms", "p99 alone", "p50", "p99", "p99.9", "max", "heavy/s", "lost"
            for (a = 1; a <= arms; a++) {
                arm = order[a]
                printf format, arm, ms(middle(arm, 2)), ms(middle(arm, 3)), ms(middle(arm, 4)), ms(middle(arm, 5)), \
                    ms(middle(arm, 6)), middle(arm, 7) == "-" ? "-" : sprintf("%.1f", middle(arm, 7)), middle(arm, 8)
            }
        }' "$dir/rows"
    cat <<END

Medians over rounds. p99 alone: without heavy requests. Latency is from the planned send; a percentile
with fewer than ten answers beyond it is left out. Lost: light requests without an answer in time.
END
}
