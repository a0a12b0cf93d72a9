# SPDX-License-Identifier: MIT
# shellcheck shell=sh
# usage: sh -s STATUS_FILE TOKEN JOB
# Waits 15 seconds, or until the transfer ends, and prints the status file. JOB is the file in which Ansible keeps the task's end:
# a task that ends before it has a status says there why.
status=$1 job=$3 waited=0
# A sign of life for runs that wait for this one (see plugins/modules/converge_lock.py). TOKEN names the lock of this run:
# one that was taken over is another run's, and stays as it is.
lock=/run/mushishi/converge.lock
if [ -n "$2" ] && grep -qsF "\"token\": \"$2\"" "$lock"; then
    touch -c "$lock"
fi
failed() {
    printf '{"state": "failed", "message": %s}\n' "$1"
    exit 0
}
while [ "$waited" -lt 15 ]; do
    sleep 1
    waited=$((waited + 1))
    # Asked first: what the task wrote before its end is there then.
    over=
    if [ -e "$job" ] && ! grep -qE '"finished": (false|0)' "$job"; then
        over=yes
    fi
    if [ -e "$status" ] && grep -q -e '"state": "done"' -e '"state": "failed"' "$status"; then
        break
    fi
    if [ -n "$over" ]; then
        said=$(sed -nE 's/.*"msg": ("([^"\\]|\\.)*").*/\1/p' "$job")
        failed "${said:-\"the transfer ended without a word\"}"
    fi
    [ -e "$status" ] || continue
    pid=$(sed -n 's/.*"pid": \([0-9]*\).*/\1/p' "$status")
    if ! kill -0 "$pid" 2>/dev/null; then
        failed '"the transfer ended without a word"'
    fi
done
if [ -e "$status" ]; then
    cat "$status"
else
    echo '{"state": "starting", "message": "starting"}'
fi
