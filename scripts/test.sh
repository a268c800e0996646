#!/usr/bin/env bash
# Runs the project's tests, installing what they need first.
#
# usage: test.sh [--quick] [--long] [--stage NAME]... [--no-install]
#
#   --quick       format, includes, unit: about a minute
#   --long        also what is too slow for each run (more fuzzing, the long integration tests)
#   --stage NAME  only that one; may be repeated.  Names: see STAGES below
#   --no-install  what is missing is a failure
#
# Each stage runs by itself with its output in build/logs/NAME.log, shown in part when it fails.  The last
# line counts tests.  A missing tool, a stage that finds no tests, a skipped test: failures.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
cd "$ROOT"

STAGES=(format includes build-gcc build-clang unit sim asan tsan fuzz integration integration-asan faults docker deb ansible demo bench)
QUICK=(format includes unit)
LOGS=$ROOT/build/logs
LONG=${DERPMESH_LONG:-}

# The limit of a stage in seconds; each is far above what it takes.
stage_limit() {
    case $1 in
    integration | faults) echo $((LONG ? 5400 : 1500)) ;;
    fuzz) echo $((LONG ? 3600 : 900)) ;;
    docker) echo 1800 ;;
    *) echo 1200 ;;
    esac
}

# What install-deps.sh must install for a stage.
stage_deps() {
    case $1 in
    format | includes) echo check ;;
    build-clang | fuzz) echo build clang ;;
    integration) echo build go proxies ;;
    faults) echo build go netns ;;
    integration-asan | bench) echo build go ;;
    docker) echo build docker go ;;
    deb) echo build docker deb ;;
    ansible) echo build docker deb ansible ;;
    *) echo build ;;
    esac
}

# count PASSED FAILED: what a stage reports; may be called again.
count() { printf '%d %d\n' "$1" "$2" >>"$COUNTS"; }

# counted NAME COMMAND...: the command is one test.
counted() {
    local name=$1
    shift
    if "$@"; then
        count 1 0
    else
        echo "FAILED: $name"
        count 0 1
    fi
}

# ---- format, includes ----

check_c() {
    local files=() file wrong=()
    mapfile -t files < <(find src tests/unit tests/fuzz tests/tools bench -name '*.[ch]' | sort)
    [ ${#files[@]} -gt 0 ] || return 1
    clang-format --dry-run -Werror "${files[@]}" && return 0
    for file in "${files[@]}"; do
        clang-format --dry-run -Werror "$file" >/dev/null 2>&1 || wrong+=("$file")
    done
    echo "to be put right by: clang-format -i ${wrong[*]}"
    return 1
}

check_shell() {
    local files=()
    mapfile -t files < <(find scripts deploy bench tests .ci -path tests/seed -prune -o \
        -type f '(' -name '*.sh' -o -path .ci/run ')' -print | sort)
    [ ${#files[@]} -gt 2 ] && shellcheck -x "${files[@]}"
}

stage_format() {
    need clang-format shellcheck python3
    counted clang-format check_c
    counted shellcheck check_shell
    counted documents-self-test python3 tests/check_docs.py --self-test
    counted documents python3 tests/check_docs.py
}

stage_includes() {
    need python3
    counted self-test python3 tests/check_includes.py --self-test
    counted includes python3 tests/check_includes.py
}

# ---- builds ----

stage_build-gcc() {
    need cmake ninja gcc
    counted release cmake_build release
    counted debug cmake_build debug
}

stage_build-clang() {
    need cmake ninja clang
    counted clang cmake_build clang
}

# ---- unit tests ----

# A sanitizer's program cannot always place its shadow in a randomised address space.
no_randomisation() {
    if setarch "$(uname -m)" -R true 2>/dev/null; then
        setarch "$(uname -m)" -R "$@"
    else
        "$@"
    fi
}

# unit_tests PRESET: every program of tests/unit, their cmocka tests counted one by one.
unit_tests() {
    local preset=$1 out rc=0 programs passed failed skipped
    cmake_build "$preset" || { count 0 1 && return; }
    out=$(mktemp)
    no_randomisation ctest --test-dir "build/$preset" -j "$JOBS" --verbose --no-tests=error 2>&1 | tee "$out" || rc=$?
    passed=$(sed -n 's/.*\[  PASSED  \] \([0-9]*\) test(s)\.$/\1/p' "$out" | awk '{n += $1} END {print n + 0}')
    failed=$(sed -n 's/.*\[  FAILED  \] \([0-9]*\) test(s), .*/\1/p' "$out" | awk '{n += $1} END {print n + 0}')
    skipped=$(grep -c '\[  SKIPPED \] [^0-9]' "$out" || true)
    programs=$(sed -n 's/.* \([0-9]*\) tests\{0,1\} failed out of \([0-9]*\)$/\1/p' "$out" | tail -n 1)
    rm -f "$out"
    # A program that crashed has no FAILED line; leaks at its end come after all has passed.
    if [ "$failed" -lt "${programs:-1}" ]; then failed=${programs:-1}; fi
    if [ "$rc" != 0 ] && [ "$failed" = 0 ]; then failed=1; fi
    if [ "$skipped" != 0 ]; then echo "$skipped tests skipped: that counts as failed"; fi
    if [ "$passed" = 0 ] && [ "$failed" = 0 ]; then
        echo "no tests ran"
        failed=1
    fi
    count "$passed" $((failed + skipped))
}

stage_unit() {
    need cmake ninja gcc ctest
    unit_tests debug
}

stage_asan() {
    need cmake ninja gcc ctest
    export ASAN_OPTIONS=strict_string_checks=1 UBSAN_OPTIONS=print_stacktrace=1
    unit_tests asan
}

stage_tsan() {
    need cmake ninja gcc ctest
    export TSAN_OPTIONS=second_deadlock_stack=1
    unit_tests tsan
}

# ---- the mesh simulator ----

# sim_seeds PRESET ARGS...: random schedules of faults, each one test.
sim_seeds() {
    local preset=$1 out rc=0 ran failed
    shift
    cmake_build "$preset" sim || { count 0 1 && return; }
    out=$(mktemp)
    no_randomisation "build/$preset/tests/sim/sim" --jobs "$JOBS" "$@" 2>&1 | tee "$out" || rc=$?
    read -r ran failed < <(sed -n 's/^\([0-9]*\) schedules, .*: \([0-9]*\) failed$/\1 \2/p' "$out") || true
    rm -f "$out"
    ran=${ran:-0} failed=${failed:-0}
    if [ "$rc" != 0 ] && [ "$failed" = 0 ] || [ "$ran" = 0 ]; then failed=1; fi
    count $((ran > failed ? ran - failed : 0)) "$failed"
}

# Faults of the past, the same seeds each time, and others each time.  One that fails is named with how to run it again.
stage_sim() {
    local some=1000 many=3000
    need cmake ninja gcc
    [ -z "$LONG" ] || many=50000
    sim_seeds release --past tests/sim/seeds.txt --seeds "$some" --first 1
    sim_seeds release --seeds "$many" --first "$((SRANDOM + 1000000))"
    counted scale build/release/tests/sim/sim --scale ${LONG:+--long}
    export ASAN_OPTIONS=strict_string_checks=1 UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
    sim_seeds asan --seeds 150 --first "$((SRANDOM + 1000000))"
}

# ---- fuzzing ----

# fuzz_one TARGET SECONDS: its corpus replayed, then new inputs for some seconds.
fuzz_one() {
    local target=$1 seconds=$2 name seeds work program
    name=${target#fuzz_}
    seeds=tests/fuzz/corpus/$name
    work=build/fuzz-work/$name
    program=build/fuzz/tests/fuzz/$target
    if [ -z "$(ls -A "$seeds" 2>/dev/null)" ]; then
        echo "$target: no seeds in $seeds"
        return 1
    fi
    mkdir -p "$work"
    # Leaves no new file among the seeds: the first folder is where new inputs go.
    if ! no_randomisation "$program" -runs=0 "$seeds" >"$work.log" 2>&1 ||
        ! no_randomisation "$program" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 \
            -artifact_prefix="$work-" "$work" "$seeds" >>"$work.log" 2>&1; then
        echo "$target: failed"
        tail -n 60 "$work.log"
        return 1
    fi
    echo "$target: $(sed -n 's/^stat::number_of_executed_units: *//p' "$work.log") inputs"
}

stage_fuzz() {
    local targets=() target seconds=10 done=0
    need cmake ninja clang
    [ -z "$LONG" ] || seconds=300
    cmake_build fuzz || { count 0 1 && return; }
    mapfile -t targets < <(find tests/fuzz -name 'fuzz_*.c' -printf '%f\n' | sed 's/\.c$//' | sort)
    [ ${#targets[@]} -gt 0 ] || die "no fuzz targets"
    for target in "${targets[@]}"; do
        while [ "$(jobs -rp | wc -l)" -ge "$JOBS" ]; do wait -n || true; done
        counted "$target" fuzz_one "$target" "$seconds" &
        done=$((done + 1))
    done
    wait
    echo "$done targets, $seconds s each"
}

# ---- integration ----

# Counts the leaves among the tests of `go test -v` on standard input: "passed failed skipped".
go_count() {
    awk '
        function end_package(  t, c) {
            for (t in result) if (!(t in parent)) n[result[t]]++
            delete result; delete parent
        }
        /^ *--- (PASS|FAIL|SKIP): / {
            sub(/^ */, ""); split($0, f, " "); verdict = f[2]; sub(":", "", verdict); t = f[3]
            result[t] = verdict
            while (sub(/\/[^\/]*$/, "", t)) parent[t] = 1
        }
        /^(ok|FAIL|---)[ \t]+[a-z][^ ]*\// { end_package() }
        /^(FAIL|panic:)/ { broken = 1 }
        END { end_package(); if (broken && !n["FAIL"]) n["FAIL"] = 1
              print n["PASS"] + 0, n["FAIL"] + 0, n["SKIP"] + 0 }'
}

# In network namespaces; a stage of their own.
FAULTS=(netns faulttable tailnet lanes)
# On the Docker engine; in the stage docker.
ON_DOCKER=(compose)

# go_tests PRESET PACKAGES ARGS...: the Go tests against that build.  DERPMESH_BIN and so on say with what.
# WAITING names a test of ./proxy that does little but wait: it runs beside all the others.
go_tests() {
    local preset=$1 packages=$2 out waiting='' beside='' rc=0 passed failed skipped left=0
    shift 2
    cmake_build "$preset" derpmesh wire shim || { count 0 1 && return; }
    go_use
    DERPMESH_BIN=$ROOT/build/$preset/derpmesh
    DERPER_BIN=$(tailscale_tool derper)
    DERPPROBE_BIN=$(tailscale_tool derpprobe)
    TAILSCALED_BIN=$(tailscale_tool tailscaled)
    TAILSCALE_BIN=$(tailscale_tool tailscale)
    HEADSCALE_BIN=$(headscale_tool)
    PEBBLE_BIN=$(pebble_tool)
    WIRE_BIN=$ROOT/build/$preset/tests/tools/wire
    SHIM_LIB=$ROOT/build/$preset/tests/tools/shim.so
    export DERPMESH_BIN DERPER_BIN DERPPROBE_BIN TAILSCALED_BIN TAILSCALE_BIN HEADSCALE_BIN PEBBLE_BIN WIRE_BIN SHIM_LIB
    [ -z "$LONG" ] || export LONG=1
    out=$(mktemp)
    if [ -n "${WAITING:-}" ]; then
        waiting=$(mktemp)
        (cd tests/integration && go test -v -count=1 -run "^$WAITING\$" ./proxy) >"$waiting" 2>&1 &
        beside=$!
        set -- "$@" -skip "^$WAITING\$"
    fi
    # shellcheck disable=SC2086  # a list of words
    (cd tests/integration && go test -v -count=1 -p 1 "$@" $packages) 2>&1 | tee "$out" || rc=$?
    if [ -n "$beside" ]; then
        wait "$beside" || rc=$?
        tee -a "$out" <"$waiting"
        rm -f "$waiting"
    fi
    read -r passed failed skipped < <(go_count <"$out")
    # The tests that take minutes are left to --long; any other skip is a failure.
    if [ -z "$LONG" ]; then left=$(grep -c 'takes minutes: run with -long' "$out" || true); fi
    rm -f "$out"
    [ "$left" = 0 ] || echo "$left long tests left out: --long runs them"
    if [ "$skipped" -gt "$left" ]; then
        echo "$((skipped - left)) tests skipped: that counts as failed"
        failed=$((failed + skipped - left))
    fi
    if [ "$rc" != 0 ] && [ "$failed" = 0 ]; then failed=1; fi
    if [ "$passed" = 0 ] && [ "$failed" = 0 ]; then
        echo "no tests ran"
        failed=1
    fi
    count "$passed" "$failed"
}

check_gofmt() {
    local wrong
    wrong=$(find tests -name '*.go' -exec gofmt -l {} +)
    [ -z "$wrong" ] || { echo "not as gofmt writes: $wrong" && return 1; }
}

stage_integration() {
    go_use
    counted gofmt check_gofmt
    WAITING=TestIdle go_tests release "$(packages_but_faults)" -timeout 20m
}

packages_but_faults() {
    (cd tests/integration && go list ./... | grep -vE "/($(IFS='|' && echo "${FAULTS[*]}|${ON_DOCKER[*]}"))\$")
}

# The table of faults: what breaks, what is required, what was measured.
stage_faults() {
    go_use
    go_tests release "${FAULTS[*]/#/./}" -timeout $((LONG ? 85 : 20))m
}

# A short part with the sanitizers' build: logins, frames, bad input, forwarding, reload.
stage_integration-asan() {
    export TIME_SCALE=4 ASAN_OPTIONS=strict_string_checks=1 UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
    go_use
    go_tests asan "$(packages_but_faults)" -timeout 15m \
        -run '^(TestFrames|TestLogin|TestBadInput|TestPages|TestRequests|TestBootstrapDNS|TestSTUN|TestAcross|TestPeerGone|TestMove|TestKill|TestBadFiles)$'
}

# ---- docker, demo, bench ----

# What the compose files need beside the node's own image, which compose_test.sh has built.
docker_images() {
    go_use
    bash deploy/docker/demo/tailnet.sh &&
        docker build -q --build-arg "BASE=${BASE:-debian:bookworm-slim}" --build-arg "DEBIAN_MIRROR=${DEBIAN_MIRROR:-}" \
            -t derpmesh-nginx deploy/docker/nginx
}

stage_docker() {
    local out rc=0 passed
    counted images docker_images
    out=$(mktemp)
    { bash tests/docker/compose_test.sh && bash tests/docker/derper_image_test.sh derpmesh; } 2>&1 | tee "$out" || rc=$?
    passed=$(grep -c '^ok: ' "$out" || true)
    rm -f "$out"
    if [ "$rc" != 0 ] || [ "$passed" = 0 ]; then count "$passed" 1 && return; fi
    count "$passed" 0
    export DERPMESH_IMAGE=derpmesh TAILNET_IMAGE=derpmesh-demo-tailnet
    go_tests release ./compose -timeout 15m
}

# script_counts SCRIPT: its lines "ok: …" are the tests that passed; its failure is one that did not.
script_counts() {
    local out rc=0 passed
    out=$(mktemp)
    bash "$1" 2>&1 | tee "$out" || rc=$?
    passed=$(grep -c '^ok: ' "$out" || true)
    rm -f "$out"
    if [ "$rc" != 0 ] || [ "$passed" = 0 ]; then count "$passed" 1 && return; fi
    count "$passed" 0
}

# The package, and the role, on machines of their own with systemd.
stage_deb() { script_counts tests/deb/deb_test.sh; }
stage_ansible() { script_counts tests/ansible/ansible_test.sh; }

stage_demo() { counted demo bash scripts/demo.sh --once; }

# The ratios that hold on any machine are checked, with wide margins; the rest is printed for people.
run_bench() {
    local how=(--short)
    [ -z "$LONG" ] || how=(--only "saturated,rates,overload,idle,logins,mesh")
    python3 bench/run.py "${how[@]}" --check
}

stage_bench() {
    need python3 openssl taskset
    go_use
    cmake_build release derpmesh load floor
    DERPER_BIN=$(tailscale_tool derper)
    export DERPER_BIN
    unset DERPMESH_TOOLS DERPMESH_LONG # a node would take them for misspelt settings
    counted bench run_bench
}

# ---- running stages ----

# Inside the process of one stage.
run_inside() {
    exec </dev/null
    "stage_$1"
}

run_stage() {
    local name=$1 log=$LOGS/$1.log rc=0 start=$SECONDS passed=0 failed=0 p f
    export COUNTS=$LOGS/$name.counts
    : >"$COUNTS"
    DERPMESH_LONG=$LONG timeout -k 10 "$(stage_limit "$name")" bash "$ROOT/scripts/test.sh" --inside "$name" >"$log" 2>&1 || rc=$?
    while read -r p f; do
        passed=$((passed + p))
        failed=$((failed + f))
    done <"$COUNTS"
    if [ "$rc" != 0 ]; then
        [ "$rc" != 124 ] || echo "the stage took more than $(stage_limit "$name") s" >>"$log"
        [ "$failed" != 0 ] || failed=1
    elif [ $((passed + failed)) = 0 ]; then
        echo "the stage counted no test" >>"$log"
        failed=1
    fi
    PASSED=$((PASSED + passed))
    FAILED=$((FAILED + failed))
    if [ "$failed" = 0 ]; then
        printf '%spassed%s  %-17s %5d tests  %4d s\n' "$C_GREEN" "$C_OFF" "$name" "$passed" $((SECONDS - start))
        [ "$name" != bench ] || sed 's/^/    | /' "$log" | tail -n 80
        [ "$name" != faults ] || sed -n 's/^| /    | /p' "$log"
    else
        printf '%sFAILED%s  %-17s %5d tests  %4d s  %d failed; the end of build/logs/%s.log:\n' "$C_RED" "$C_OFF" \
            "$name" $((passed + failed)) $((SECONDS - start)) "$failed" "$name"
        grep -aE -- '--- FAIL|\[  FAILED  \]|FAILED:|ERROR: |error:' "$log" | tail -n 20 | sed 's/^/    > /' || true
        tail -n 60 "$log" | sed 's/^/    | /'
    fi
}

install_deps() {
    local groups
    groups=$(for stage in "$@"; do stage_deps "$stage"; done | tr ' ' '\n' | sort -u | tr '\n' ' ')
    # shellcheck disable=SC2086  # a list of words
    bash scripts/install-deps.sh $groups >"$LOGS/install.log" 2>&1 </dev/null
}

main() {
    local chosen=() install=true stage
    while [ $# -gt 0 ]; do
        case $1 in
        --inside) run_inside "$2" && exit 0 ;;
        --quick) chosen+=("${QUICK[@]}") ;;
        --long) LONG=1 ;;
        --no-install) install=false ;;
        --stage)
            case " ${STAGES[*]} " in
            *" ${2:-} "*) chosen+=("$2") ;;
            *) die "no stage '${2:-}'; there are: ${STAGES[*]}" ;;
            esac
            shift
            ;;
        -h | --help)
            sed -n '2,/^set /s/^# \{0,1\}//p' "$0"
            exit 0
            ;;
        *) die "unknown: $1 (--help says what there is)" ;;
        esac
        shift
    done
    [ ${#chosen[@]} -gt 0 ] || chosen=("${STAGES[@]}")
    mkdir -p "$LOGS"
    PASSED=0 FAILED=0
    if $install && ! install_deps "${chosen[@]}"; then
        echo "FAILED  installing what the tests need; the end of build/logs/install.log:"
        tail -n 30 "$LOGS/install.log" | sed 's/^/    | /'
        echo "0 passed, 1 failed"
        exit 1
    fi
    for stage in "${chosen[@]}"; do run_stage "$stage"; done
    echo "$PASSED passed, $FAILED failed"
    [ "$FAILED" = 0 ]
}

main "$@"
