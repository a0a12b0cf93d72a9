# SPDX-License-Identifier: MIT
# shellcheck shell=sh
# usage: sh -s UNIT LOG [TOKEN]
# Waits 15 seconds, or until the unit ends, and prints how many layers have come and how much of them lies on the disk.
unit=$1 log=$2 waited=0
# A sign of life for runs that wait for this one (see plugins/modules/converge_lock.py). TOKEN names the lock of this run:
# one that was taken over is another run's, and stays as it is.
lock=/run/mushishi/converge.lock
if [ -n "${3-}" ] && grep -qsF "\"token\": \"$3\"" "$lock"; then
    touch -c "$lock"
fi
while [ "$waited" -lt 15 ]; do
    case $(systemctl show --property=ActiveState --value "$unit") in
        active | activating) ;;
        *)
            echo "finished: $(tail -n 1 "$log" | cut -c 1-100)"
            exit 0
            ;;
    esac
    sleep 1
    waited=$((waited + 1))
done
layers=$(grep -c 'Pulling fs layer' "$log")
if [ "$layers" -gt 0 ]; then
    done=$(grep -c -e 'Pull complete' -e 'Already exists' "$log")
    echo "$done of $layers layers are here, $(df -h --output=avail /var/lib/docker | tail -n 1 | tr -d ' ') free"
else
    tail -n 1 "$log" | cut -c 1-100
fi
