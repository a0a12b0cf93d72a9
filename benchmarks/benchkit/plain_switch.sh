#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# The opponent of the benchmark mode_switch: a stop-script as they are written by hand. It stops everything on its list,
# sleeps so that the driver may give the memory back, starts one, and asks /health until it is green.
# plain_switch.sh TARGET.yml HEALTH_URL NAMESPACE|- FILE.yml…
set -euo pipefail
target=$1 health=$2 namespace=$3
shift 3
ask=(curl --silent --fail --output /dev/null --max-time 5)
[ "$namespace" = - ] || ask=(ip netns exec "$namespace" "${ask[@]}")
for file in "$@"; do
    docker compose --file "$file" down
done
sleep 5
docker compose --file "$target" up --detach
until "${ask[@]}" "$health"; do
    sleep 2
done
