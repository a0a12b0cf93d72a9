# SPDX-License-Identifier: MIT
# shellcheck shell=sh
# usage: sh -s STATUS_FILE [TOKEN]
# Waits 15 seconds, or until the transfer ends, and prints the status file.
status=$1 waited=0
# A sign of life for runs that wait for this one (see plugins/modules/converge_lock.py). TOKEN names the lock of this run:
# one that was taken over is another run's, and stays as it is.
lock=/run/mushishi/converge.lock
if [ -n "${2-}" ] && grep -qsF "\"token\": \"$2\"" "$lock"; then
    touch -c "$lock"
fi
while [ "$waited" -lt 15 ]; do
    sleep 1
    waited=$((waited + 1))
    [ -e "$status" ] || continue
    if grep -q -e '"state": "done"' -e '"state": "failed"' "$status"; then
        break
    fi
    pid=$(sed -n 's/.*"pid": \([0-9]*\).*/\1/p' "$status")
    if ! kill -0 "$pid" 2>/dev/null; then
        echo '{"state": "failed", "message": "the transfer ended without a word"}'
        exit 0
    fi
done
if [ -e "$status" ]; then
    cat "$status"
else
    echo '{"state": "starting", "message": "starting"}'
fi
