# shellcheck shell=bash
# Shared by the scripts here; to be sourced, after `set -euo pipefail`.
#
# ROOT is the tree, TOOLS the cache of what is built once and used again (Go itself where the
# machine's is too old, Tailscale's programs, Headscale).

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
TOOLS=${DERPMESH_TOOLS:-$ROOT/build/tools}
TAILSCALE_VERSION=v1.102.5
HEADSCALE_VERSION=v0.29.3
PEBBLE_VERSION=v2.9.0 # later ones offer dns-persist-01, which Debian's uacme 1.7.4 cannot read
GO_LEAST=1.26.6 # what tailscale.com at TAILSCALE_VERSION asks for
JOBS=${JOBS:-2}

# Colours are for people: only on a terminal, and not where NO_COLOR asks for none.
if [ -t 1 ] && [ -z "${NO_COLOR:-}" ] && [ "${TERM:-dumb}" != dumb ]; then
    C_BOLD=$'\e[1m' C_DIM=$'\e[2m' C_RED=$'\e[31m' C_GREEN=$'\e[32m' C_YELLOW=$'\e[33m' C_BLUE=$'\e[36m'
    C_OFF=$'\e[0m'
else
    C_BOLD='' C_DIM='' C_RED='' C_GREEN='' C_YELLOW='' C_BLUE='' C_OFF=''
fi
export C_BOLD C_DIM C_RED C_GREEN C_YELLOW C_BLUE C_OFF

say() { printf '%s\n' "${C_BOLD}$*${C_OFF}"; }
note() { printf '%s\n' "${C_DIM}$*${C_OFF}"; }
warn() { printf '%s\n' "${C_YELLOW}$*${C_OFF}" >&2; }
die() {
    printf '%s\n' "${C_RED}$*${C_OFF}" >&2
    exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

# need TOOL...: dies with all that are missing at once.
need() {
    local tool missing=()
    for tool in "$@"; do have "$tool" || missing+=("$tool"); done
    [ ${#missing[@]} -eq 0 ] || die "missing: ${missing[*]} (scripts/install-deps.sh installs what is needed)"
}

# version_at_least HAVE WANTED
version_at_least() { [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]; }

# wait_for SECONDS COMMAND...: runs the command until it succeeds; 1 when the time is over.
wait_for() {
    local until=$((SECONDS + $1))
    shift
    until "$@"; do
        [ "$SECONDS" -lt "$until" ] || return 1
        sleep 0.2
    done
}

# The version of a go program, as 1.26.8; empty if it does not run.
go_version_of() { GOTOOLCHAIN=local "$1" version 2>/dev/null | sed -n 's/^go version go\([0-9.]*\).*/\1/p'; }

# go_find: prints a go program that is new enough; 1 if there is none yet.
go_find() {
    local go version
    for go in "$TOOLS/go/bin/go" "$(command -v go || true)" /usr/local/go/bin/go /usr/lib/go/bin/go; do
        version=$(go_version_of "${go:-false}")
        if [ -n "$version" ] && version_at_least "$version" "$GO_LEAST"; then
            printf '%s\n' "$go"
            return 0
        fi
    done
    return 1
}

# go_use: puts a go that is new enough first on PATH; dies if there is none.
go_use() {
    local go
    go=$(go_find) || die "no Go >= $GO_LEAST: scripts/install-deps.sh fetches one"
    PATH=$(dirname "$go"):$PATH
    HOME=${HOME:-$ROOT/build/home} # where Go keeps its caches
    export HOME PATH GOTOOLCHAIN=local GOFLAGS="${GOFLAGS:+$GOFLAGS }-buildvcs=false"
}

# docker_use: the engine answers, or die saying how it does not.
docker_use() {
    need docker
    docker version --format '{{.Server.Version}}' >/dev/null 2>&1 ||
        die "the Docker engine does not answer: $(docker version 2>&1 | tail -n 1)"
}

# compose ARGS...: docker compose v2 where it is, else docker-compose 1.29.
compose() {
    if docker compose version >/dev/null 2>&1; then
        docker compose "$@"
    elif have docker-compose; then
        docker-compose "$@"
    else
        die "neither 'docker compose' nor docker-compose is installed"
    fi
}

# tailscale_tool derper|derpprobe|tailscaled|tailscale: prints the path of that program at TAILSCALE_VERSION, building it the first
# time.  One on PATH of just that version will do.  After go_use.
tailscale_tool() {
    local bin=$TOOLS/tailscale-$TAILSCALE_VERSION/$1 there
    if [ ! -x "$bin" ]; then
        there=$(command -v "$1" || true)
        if [ -n "$there" ] && go version -m "$there" 2>/dev/null |
            grep -q "^[[:space:]]*mod[[:space:]]*tailscale.com[[:space:]]*${TAILSCALE_VERSION}[[:space:]]"; then
            printf '%s\n' "$there"
            return 0
        fi
        echo "building $1 $TAILSCALE_VERSION" >&2
        GOBIN=$(dirname "$bin") go install "tailscale.com/cmd/$1@$TAILSCALE_VERSION" >&2 ||
            die "$1 $TAILSCALE_VERSION does not build"
    fi
    printf '%s\n' "$bin"
}

# headscale_tool: prints the path of headscale at HEADSCALE_VERSION, building it the first time.  After go_use.
# `go install github.com/juanfont/headscale/cmd/headscale@VERSION` is refused (its go.mod replaces modules), so its
# module is fetched and built in a folder of its own.
headscale_tool() {
    local bin=$TOOLS/headscale-$HEADSCALE_VERSION/headscale work dir
    if [ ! -x "$bin" ]; then
        echo "building headscale $HEADSCALE_VERSION" >&2
        work=$(mktemp -d)
        dir=$(go mod download -json "github.com/juanfont/headscale@$HEADSCALE_VERSION" |
            sed -n 's/^[[:space:]]*"Dir": "\(.*\)",*$/\1/p')
        [ -n "$dir" ] || die "headscale $HEADSCALE_VERSION cannot be fetched"
        cp -R "$dir" "$work/src" && chmod -R u+w "$work/src"
        mkdir -p "$(dirname "$bin")"
        (cd "$work/src" && go build -trimpath -ldflags=-s -o "$work/headscale" ./cmd/headscale) >&2 ||
            die "headscale $HEADSCALE_VERSION does not build"
        mv "$work/headscale" "$bin"
        rm -rf "$work"
    fi
    printf '%s\n' "$bin"
}

# pebble_tool: prints the path of pebble, Let's Encrypt's certificate authority for tests, building it the first time.
# After go_use.
pebble_tool() {
    local bin=$TOOLS/pebble-$PEBBLE_VERSION/pebble
    if [ ! -x "$bin" ]; then
        echo "building pebble $PEBBLE_VERSION" >&2
        GOBIN=$(dirname "$bin") go install "github.com/letsencrypt/pebble/v2/cmd/pebble@$PEBBLE_VERSION" >&2 ||
            die "pebble $PEBBLE_VERSION does not build"
    fi
    printf '%s\n' "$bin"
}

# cmake_build PRESET [TARGET...]
cmake_build() {
    local preset=$1
    shift
    if have ccache; then export CMAKE_C_COMPILER_LAUNCHER=ccache; fi
    cmake -S "$ROOT" --preset "$preset" &&
        ninja --quiet -C "$ROOT/build/$preset" -j "$JOBS" "$@"
}
