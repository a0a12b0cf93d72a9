# SPDX-License-Identifier: MIT
# shellcheck shell=sh
# usage: sh -s PROGRESS RESULT
# Waits 15 seconds, or until the scan has ended, and prints the last line of its progress. RESULT is the file in which
# Ansible keeps a task in the background; it says "started" until there is a result.
progress=$1 result=$2 waited=0
while [ "$waited" -lt 15 ]; do
    if ! grep -Eqs '"started": *(1|true)' "$result"; then
        echo "ended: $(tail -n 1 "$progress" | cut -c 1-150)"
        exit 0
    fi
    sleep 1
    waited=$((waited + 1))
done
tail -n 1 "$progress" | cut -c 1-150
