# shellcheck shell=bash
# nginx, the server that everybody knows: ringlab's hello against an answer of the same length that
# nginx is configured to give. Sourced by scripts/peers.sh.

needed=(nginx wrk curl taskset awk)
readonly PIPELINE=16
readonly PIPELINED_CONNECTIONS=64

# Writes its configuration, with an answer of a body of $1 bytes on port $2.
configure_nginx() {
    local body module
    body=$(printf "%$1s" '' | tr ' ' x)
    {
        cat <<END
worker_rlimit_nofile 8192;
pid $dir/nginx.pid;
error_log $dir/peer.log error;
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

start_peer() {
    local -a error_log=()
    # Since 1.19.5 it can be told not to open the system's log first.
    if grep -q -- ' -e filename' "$dir/nginx.help"; then error_log=(-e "$dir/peer.log"); fi
    # A worker for each core and on it, as ringlab has its shards.
    local core masks=""
    for core in ${server_on//,/ }; do masks+=" 1$(printf '%*s' "$core" '' | tr ' ' 0)"; done
    launch_peer nginx "${error_log[@]}" -p "$dir" -c "$dir/nginx.conf" \
        -g "daemon off; worker_processes $server_count; worker_cpu_affinity$masks;"
}

prepare_peer() {
    nginx -V 2>"$dir/nginx.version"
    nginx -h >"$dir/nginx.help" 2>&1 || true
    version="$(sed -n 's/^nginx version: //p' "$dir/nginx.version"), $(wrk_version)"
}

# Gives nginx a body so long that its answer is as long as ringlab's, $1 bytes.
fit_nginx() {
    local wanted=$1 body=1 attempt got=0
    # The length of the body stands in the head: a digit more moves the goal once.
    for ((attempt = 0; attempt < 3; attempt++)); do
        configure_nginx "$body" "$port"
        start_peer
        got=$(answer_bytes)
        end_child server
        ((got != wanted)) || break
        body=$((body + wanted - got))
        ((body > 0)) || break
    done
    echo "Answer: ringlab $wanted bytes, nginx $got bytes (its body filled up)"
    ((got == wanted)) ||
        fail $HOST_CANNOT "answers differ in length and would not be equal work; adjust configure_nginx"
}

run_peer() {
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
    add_ringlab epoll reuse
    add_ringlab io_uring reuse
    [[ -n $size ]] || fail $HOST_CANNOT "ringlab does not start: $(<"$dir/ringlab.log")"
    fit_nginx "$size"
    # The second is the A/A control.
    arms=("$peer" "${arms[@]}" "$peer again")
    run_cases
    run_case "$PIPELINED_CONNECTIONS connections, $PIPELINE requests pipelined on each" \
        "$PIPELINED_CONNECTIONS" --script "$dir/pipeline.lua"
    explain_tables
}
