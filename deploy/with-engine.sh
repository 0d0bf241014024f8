#!/bin/sh
# Run a command with a Docker engine, the runtime image and the sandbox tools at hand: deploy/with-engine.sh COMMAND...
#
# An engine that answers is used as it is. Otherwise, as root on Debian or a relative: the packages are installed, the
# engine is started, and stopped again after the command (only the one started here). Elsewhere the command runs without
# an engine, and what that means is said; in CI (CI is set) that is a failure.
set -eu
cd "$(dirname "$0")/.."

PACKAGES="bubblewrap ca-certificates curl iproute2 iptables util-linux" # curl: the guide uses it, and its commands are tested
ENGINE_PACKAGES="docker.io"
TEST_PACKAGES="rabbitmq-server nats-server" # with TEST_SERVERS=1; 40 MB to fetch, 70 on disk
READY_S=60
address=${DOCKER_HOST:-unix:///var/run/docker.sock}
log=/var/log/faas-dockerd.log
pid=""

say() { printf '%s\n' "$*" >&2; }
answers() { .venv/bin/python -c 'from faas.engines.select import probe_docker; probe_docker()' 2>/dev/null; }
installed() { dpkg-query -W -f '${Status}' "$1" 2>/dev/null | grep -q ' installed$'; }

may_install() { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; }

install() {
    missing=""
    for package in "$@"; do
        installed "$package" || missing="$missing $package"
    done
    [ -n "$missing" ] || return 0
    say "installing$missing"
    output=$(mktemp)
    for attempt in 1 2 3; do
        # RUNLEVEL=1: package scripts must not start services; we do that ourselves, or ask systemd
        apt-get -qq update >"$output" 2>&1 || true # a broken third-party source need not matter
        # shellcheck disable=SC2086
        if RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends \
            -o Dpkg::Options::=--force-confold $missing >>"$output" 2>&1; then
            rm -f "$output"
            return 0
        fi
        say "attempt $attempt failed: $(tail -n 1 "$output")"
        sleep 2
    done
    tail -n 20 "$output" >&2
    rm -f "$output"
    return 1
}

# Servers that tests start for themselves. Their packages would start them as services too, now and at each boot.
install_test_servers() {
    services=""
    for package in $TEST_PACKAGES; do
        installed "$package" || services="$services $package"
    done
    [ -n "$services" ] || return 0
    installed erlang-base || services="$services epmd.service epmd.socket"
    if [ ! -e /usr/sbin/policy-rc.d ]; then
        own_policy=/usr/sbin/policy-rc.d
        printf '#!/bin/sh\nexit 101\n' >"$own_policy" && chmod 755 "$own_policy"
    fi
    # shellcheck disable=SC2086
    install $TEST_PACKAGES && fine=0 || fine=1
    rm -f ${own_policy:+"$own_policy"}
    own_policy=""
    if command -v systemctl >/dev/null; then
        for service in $services; do
            systemctl --quiet disable "$service" >/dev/null 2>&1 || true
        done
    fi
    return "$fine"
}

prepare_cgroups() {
    if [ ! -e /sys/fs/cgroup/cgroup.controllers ] && [ ! -d /sys/fs/cgroup/memory ]; then
        mkdir -p /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup || say "no control groups could be mounted"
    fi
}

# A pid file left behind by an engine that was killed keeps the next one from starting when its number is in use again.
drop_stale_pid_file() {
    stale=$(cat "$1" 2>/dev/null) || return 0
    [ "$(cat "/proc/$stale/comm" 2>/dev/null)" = dockerd ] || rm -f "$1"
}

# start [OPTIONS]: an engine of our own at the usual socket; false when it does not come up
start() {
    drop_stale_pid_file /var/run/docker.pid
    # shellcheck disable=SC2086
    PATH="$search:$PATH" setsid dockerd -H "$address" "$@" >>"$log" 2>&1 </dev/null &
    pid=$!
    waited=0
    while [ "$waited" -lt "$READY_S" ] && kill -0 "$pid" 2>/dev/null; do
        answers && return 0
        sleep 1
        waited=$((waited + 1))
    done
    stop
    return 1
}

stop() {
    [ -n "$pid" ] || return 0
    kill "$pid" 2>/dev/null || true
    waited=0
    while kill -0 "$pid" 2>/dev/null && [ "$waited" -lt 30 ]; do
        sleep 1
        waited=$((waited + 1))
    done
    kill -9 "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
    pid=""
}

start_engine() {
    if [ -d /run/systemd/system ] && systemctl start docker 2>/dev/null && answers; then
        return 0
    fi
    prepare_cgroups
    say "starting dockerd (its log: $log)"
    : >"$log"
    scratch=$(mktemp -d)
    search=$scratch
    start && return 0
    if command -v iptables-legacy >/dev/null; then # a kernel without nf_tables
        ln -s "$(command -v iptables-legacy)" "$scratch/iptables"
        ln -s "$(command -v ip6tables-legacy)" "$scratch/ip6tables"
        say "dockerd did not come up; trying with iptables-legacy"
        start && return 0
    fi
    say "dockerd did not come up; trying without networks"
    start --iptables=false --bridge=none
}

refuse() {
    say "no Docker engine: $1"
    if [ -n "${CI:-}" ]; then
        say "CI is set, and nothing may be left out there."
        exit 1
    fi
    say "What needs one is left out of this run."
}

scratch=""
own_policy=""
trap 'stop; rm -rf ${scratch:+"$scratch"} ${own_policy:+"$own_policy"}' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

if may_install; then
    # shellcheck disable=SC2086
    install $PACKAGES || say "some sandbox tools could not be installed: $PACKAGES"
    if [ -n "${TEST_SERVERS:-}" ] && ! install_test_servers; then
        say "some servers that tests talk to could not be installed: $TEST_PACKAGES"
    fi
fi
if ! answers; then
    if ! may_install; then
        refuse "none answers at $address, and it takes root on Debian to install one. Start Docker, or run this as root."
    elif ! install $ENGINE_PACKAGES || ! command -v dockerd >/dev/null; then
        refuse "the packages could not be installed: $ENGINE_PACKAGES"
    elif ! start_engine; then
        tail -n 15 "$log" >&2
        refuse "dockerd does not start here (above: its last words, all of them in $log)"
    fi
fi

if answers; then
    .venv/bin/faas runtime build python >&2 || refuse "the runtime image could not be built"
fi

status=0
"$@" || status=$?
exit "$status"
