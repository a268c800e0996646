# shellcheck shell=bash
# The packages, and machines of Debian 12 with systemd to install them on: for deb_test.sh and the tests of deploy/ansible.
# After scripts/lib.sh, in the root of the tree.

BASE=${BASE:-debian:bookworm-slim}
DEBS=$ROOT/build/deb/packages

# derpmesh_VERSION.deb, and the same as version 99.0: the next one.
build_packages() {
    cmake -S . -B build/deb -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo -DCMAKE_C_FLAGS_RELWITHDEBINFO="-O2 -g -DNDEBUG" \
        -DDERPMESH_TESTS=OFF -DDERPMESH_DEB=ON
    cmake --build build/deb
    rm -rf "$DEBS"
    mkdir -p "$DEBS"
    (
        cd build/deb || exit
        cpack -B "$DEBS"
        cpack -B "$DEBS" -D CPACK_DEBIAN_PACKAGE_VERSION=99.0
    )
}

machine_image() {
    bash scripts/docker-base.sh "$BASE"
    docker build -q --build-arg "BASE=$BASE" -t derpmesh-deb-test tests/deb
}

# machine_run NAME [DOCKER'S ARGUMENTS]
machine_run() {
    local name=$1
    shift
    docker run -d --name "$name" --cap-add ALL --cap-drop SYS_RESOURCE --security-opt seccomp=unconfined \
        --security-opt systempaths=unconfined -v /sys/fs/cgroup:/sys/fs/cgroup:rw --tmpfs /run --tmpfs /run/lock --tmpfs /tmp \
        -v "$DEBS:/debs:ro" "$@" derpmesh-deb-test >/dev/null
}
