#!/usr/bin/env bash
# Installs what building and testing need on Debian 12.  Idempotent: what is there is left alone.
#
# usage: install-deps.sh [--list] [build] [clang] [check] [go] [proxies] [netns] [docker] [deb] [ansible]     (nothing named: all)
#
#   build   gcc, CMake, Ninja, the libraries, Python for the demonstration
#   clang   the second compiler, with its sanitizers and fuzzer
#   check   clang-format, shellcheck
#   go      Go, and Tailscale's programs, Headscale and pebble, built into build/tools; what the tests with them need
#   proxies nginx, HAProxy, Caddy, supervisor: the tests put a node behind or below them; they are not started as services
#   netns   what the tests in network namespaces call: ip, nft, nsenter
#   deb     what cpack calls to make a Debian package
#   ansible Ansible and its linter
#   docker  an engine, compose, debootstrap (for a base image where none can be pulled)
#
# Go: Debian 12 has 1.19, and tailscale.com asks for more.  A Go that is new enough is used where there
# is one (PATH, /usr/local/go); else Debian's fetches a newer one as the module golang.org/toolchain,
# checked by Go's checksum database, into build/tools/go.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

BUILD=(gcc libc6-dev cmake ninja-build pkg-config python3
    libuv1-dev libcurl4-openssl-dev libssl-dev libsodium-dev libmsgpack-dev libyaml-dev libjansson-dev libwslay-dev libcmocka-dev)
CLANG=(clang libclang-rt-14-dev llvm)
CHECK=(clang-format shellcheck python3)
GO=(ca-certificates git openssl iproute2 util-linux uacme)
PROXIES=(nginx-light haproxy caddy supervisor)
NETNS=(iproute2 nftables util-linux)
DOCKER=(debootstrap)
DEB=(dpkg-dev file)
ANSIBLE=(ansible ansible-lint)
GO_WANTED=1.26.8 # fetched where there is none that is at least as new as GO_LEAST

installed() { dpkg-query -W -f '${db:Status-Status}\n' "$1" 2>/dev/null | grep -qx installed; }

# Packages of the wanted groups that are not installed, one a line.
missing_packages() {
    local wanted=() package
    case " $GROUPS_WANTED " in *' build '*) wanted+=("${BUILD[@]}") ;; esac
    case " $GROUPS_WANTED " in *' clang '*) wanted+=("${CLANG[@]}") ;; esac
    case " $GROUPS_WANTED " in *' check '*) wanted+=("${CHECK[@]}") ;; esac
    case " $GROUPS_WANTED " in *' go '*)
        wanted+=("${GO[@]}")
        go_find >/dev/null || have go || wanted+=(golang-go)
        ;;
    esac
    case " $GROUPS_WANTED " in *' proxies '*) wanted+=("${PROXIES[@]}") ;; esac
    case " $GROUPS_WANTED " in *' netns '*) wanted+=("${NETNS[@]}") ;; esac
    case " $GROUPS_WANTED " in *' deb '*) wanted+=("${DEB[@]}") ;; esac
    case " $GROUPS_WANTED " in *' ansible '*) wanted+=("${ANSIBLE[@]}") ;; esac
    case " $GROUPS_WANTED " in *' docker '*)
        wanted+=("${DOCKER[@]}")
        have docker || wanted+=(docker.io)
        docker compose version >/dev/null 2>&1 || have docker-compose || wanted+=(docker-compose)
        ;;
    esac
    for package in "${wanted[@]}"; do
        installed "$package" || printf '%s\n' "$package"
    done
}

# Packages of servers start them; of the proxies the tests want only the programs.
install_quietly() {
    local policy=/usr/sbin/policy-rc.d package
    if [ ! -e $policy ]; then
        printf '#!/bin/sh\nexit 101\n' >$policy
        chmod 755 $policy
        # shellcheck disable=SC2064  # the path as it is now
        trap "rm -f $policy" EXIT
    fi
    apt-get install -q -y --no-install-recommends "$@"
    if have systemctl; then
        for package in "$@"; do systemctl disable "${package%-light}" >/dev/null 2>&1 || true; done
    fi
}

install_packages() {
    local missing=() proxies=() rest=() package
    have dpkg-query || die "this is no Debian: install by hand what corresponds to: ${BUILD[*]} ${CLANG[*]} ${CHECK[*]}"
    mapfile -t missing < <(missing_packages)
    [ ${#missing[@]} -gt 0 ] || return 0
    have apt-get || die "no apt-get here; missing packages: ${missing[*]}"
    [ "$(id -u)" = 0 ] || die "not root; missing packages, to be installed with apt-get: ${missing[*]}"
    echo "installing: ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -q
    for package in "${missing[@]}"; do
        case " ${PROXIES[*]} " in
        *" $package "*) proxies+=("$package") ;;
        *) rest+=("$package") ;;
        esac
    done
    [ ${#rest[@]} = 0 ] || apt-get install -q -y --no-install-recommends "${rest[@]}"
    [ ${#proxies[@]} = 0 ] || install_quietly "${proxies[@]}"
}

# Fetches a Go that is new enough, with whatever Go there is.
install_go() {
    local arch module work dir
    go_find >/dev/null && return 0
    case $(uname -m) in
    x86_64) arch=amd64 ;;
    aarch64) arch=arm64 ;;
    *) die "no Go toolchain known for $(uname -m): install Go >= $GO_LEAST" ;;
    esac
    module=golang.org/toolchain@v0.0.1-go$GO_WANTED.linux-$arch
    echo "fetching $module"
    work=$(mktemp -d)
    (
        cd "$work"
        export GOMODCACHE=$work/cache GOFLAGS=-modcacherw GOTOOLCHAIN=local
        go mod init fetch >/dev/null 2>&1
        go mod download "$module"
    ) || die "could not fetch $module"
    # As a module, its programs are not executable and its go.mod files have another name.
    dir=$work/cache/$module
    chmod +x "$dir"/bin/* "$dir"/pkg/tool/*/*
    find "$dir" -name _go.mod -execdir mv {} go.mod ';'
    mkdir -p "$TOOLS"
    rm -rf "$TOOLS/go"
    mv "$dir" "$TOOLS/go"
    rm -rf "$work"
    go_find >/dev/null || die "the Go that was fetched does not run"
}

main() {
    local list=false group tool
    GROUPS_WANTED=
    for group in "$@"; do
        case $group in
        --list) list=true ;;
        build | clang | check | go | proxies | netns | docker | deb | ansible) GROUPS_WANTED="$GROUPS_WANTED $group" ;;
        *) die "usage: install-deps.sh [--list] [build] [clang] [check] [go] [proxies] [netns] [docker] [deb] [ansible]" ;;
        esac
    done
    [ -n "$GROUPS_WANTED" ] || GROUPS_WANTED='build clang check go proxies netns docker deb ansible'
    if $list; then
        missing_packages
        return
    fi
    install_packages
    case " $GROUPS_WANTED " in *' go '*)
        install_go
        go_use
        for tool in derper derpprobe tailscaled tailscale; do tailscale_tool "$tool" >/dev/null; done
        headscale_tool >/dev/null
        pebble_tool >/dev/null
        ;;
    esac
    echo "all there: $GROUPS_WANTED"
}

main "$@"
