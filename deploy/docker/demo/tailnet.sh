#!/usr/bin/env bash
# Makes the image derpmesh-demo-tailnet: Headscale, and Tailscale's tailscaled and tailscale.
#
# They are built from their published modules with Go (scripts/lib.sh says which versions, scripts/install-deps.sh go installs
# Go), not pulled: the demonstration works where no registry of images is reached.  Minutes the first time, seconds then.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/../../../scripts/lib.sh"

BASE=${BASE:-debian:bookworm-slim}

docker_use
go_use
bash "$ROOT/scripts/docker-base.sh" "$BASE"
context=$(mktemp -d)
trap 'rm -rf "$context"' EXIT
cp "$(headscale_tool)" "$context/headscale"
for tool in tailscaled tailscale; do cp "$(tailscale_tool "$tool")" "$context/$tool"; done
docker build -q --build-arg "BASE=$BASE" -f "$ROOT/deploy/docker/demo/Dockerfile.tailnet" -t derpmesh-demo-tailnet "$context"
