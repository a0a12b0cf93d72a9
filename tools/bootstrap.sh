# SPDX-License-Identifier: MIT
# Sourced by tools/lab and tools/test: become root, install what is missing (saying what and why), make the controller's
# environment. Everything that can be made again lives in one ignored folder, .lab.
# shellcheck shell=bash

MUSHISHI_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
MUSHISHI_STATE=$MUSHISHI_ROOT/.lab

die() { printf '%s\n' "$@" >&2; exit 1; }

become_root() { # command and its arguments: run it again as root when we are not
    [ "$(id -u)" = 0 ] && return 0
    command -v sudo > /dev/null || die "This needs root: it starts a Docker engine and builds a machine image." \
        "sudo is not installed here. Run it as root."
    echo "This needs root (a Docker engine, network namespaces); running again through sudo."
    exec sudo -E -- "$@"
}

install_packages() {
    local missing=() package reason
    command -v apt-get > /dev/null || die "This runs on Debian 12 (and is written for Ubuntu 24.04); apt-get is not here."
    while read -r package reason; do
        dpkg-query -W -f '${Status}' "$package" 2> /dev/null | grep -q 'ok installed' && continue
        # An engine that already runs is used, whatever package it came from.
        if [ "$package" = docker.io ] && command -v dockerd > /dev/null; then continue; fi
        missing+=("$package")
        printf '  %-14s %s\n' "$package" "$reason"
    done <<'LIST'
python3 runs the tools and Ansible
python3-venv keeps their packages out of the system's
docker.io runs the lab machine (its service is not started, a private engine is)
debootstrap builds the lab machine's image from the distribution's archive
apt-utils indexes the packages that the lab machine installs
iproute2 reads this machine's routes, so that the lab's networks keep clear of them
openssl makes the lab's certificate authority
haproxy plays the engine door in the unit tests (its service is not started)
openssh-server judges the settings of sshd in the unit tests (its service is not started)
nftables loads the guard's rules in the unit tests, in network namespaces of their own
ufw plays itself in the unit tests, in namespaces of their own (its package leaves it switched off)
iptables is what UFW and Docker write their rules with, in the same tests
gcc compiles the stand-in of the GPU driver's library
libc6-dev is what it compiles against
xvfb is the screen that nobody sees, for the desktop picker in the unit tests
zenity draws the desktop picker's windows there
xdotool is the hand that chooses in them
git lists the files that belong to the source
systemd judges the units (systemd-analyze)
xz-utils unpacks packages while the image is built
ca-certificates lets the downloads be verified
LIST
    [ "${#missing[@]}" = 0 ] && return 0
    echo "Installing the packages above with apt-get."
    local log=$MUSHISHI_STATE/logs/apt.log
    if ! { apt-get update -q && keep_services_off apt-get install -y -q --no-install-recommends "${missing[@]}"; } \
        > "$log" 2>&1 < /dev/null; then
        tail -n 20 "$log" >&2
        die "apt-get could not install: ${missing[*]}. The whole output is in $log."
    fi
}

keep_services_off() { # run apt-get so that no package starts a service on this machine
    local policy=/usr/sbin/policy-rc.d sign='# made by tools/bootstrap.sh for one apt-get run'
    if [ ! -e "$policy" ] || grep -qxF "$sign" "$policy"; then
        # In a subshell, so that its trap takes the file away however apt-get ends.
        (
            trap 'rm -f "$policy"' EXIT
            trap 'exit 130' INT TERM
            printf '#!/bin/sh\n%s\nexit 101\n' "$sign" > "$policy" && chmod 755 "$policy"
            DEBIAN_FRONTEND=noninteractive "$@"
        )
    else
        DEBIAN_FRONTEND=noninteractive "$@"
    fi
}

find_python() { # an interpreter that the locked set was made for
    local candidate
    for candidate in "${MUSHISHI_PYTHON:-}" /usr/bin/python3 python3 python3.13 python3.12 python3.11; do
        [ -n "$candidate" ] || continue
        if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
            2> /dev/null; then
            command -v "$candidate"
            return 0
        fi
    done
    return 1
}

make_environment() {
    local python lock=$MUSHISHI_ROOT/requirements/controller.txt mark=$MUSHISHI_STATE/venv/.locked want
    python=$(find_python) || die "No Python 3.11, 3.12 or 3.13 with venv was found." \
        "Install one, or name it: MUSHISHI_PYTHON=/path/to/python3.12 tools/lab up"
    want=$("$python" -V) && want="$want $(sha256sum "$lock" "$MUSHISHI_ROOT/roles/base/files/uv.txt" | sha256sum) compiled"
    [ "$(cat "$mark" 2> /dev/null)" = "$want" ] && return 0
    echo "Installing the controller's locked packages ($("$python" -V)) into .lab/venv"
    local log=$MUSHISHI_STATE/logs/environment.log
    {
        rm -rf "$MUSHISHI_STATE/uv" "$MUSHISHI_STATE/venv" &&
            "$python" -m venv "$MUSHISHI_STATE/uv" &&
            "$MUSHISHI_STATE/uv/bin/pip" install --disable-pip-version-check --no-deps --require-hashes \
                --requirement "$MUSHISHI_ROOT/roles/base/files/uv.txt" &&
            "$MUSHISHI_STATE/uv/bin/uv" venv --python "$python" "$MUSHISHI_STATE/venv" &&
            "$MUSHISHI_STATE/uv/bin/uv" pip sync --compile-bytecode --python "$MUSHISHI_STATE/venv/bin/python" \
                --require-hashes "$lock"
    } > "$log" 2>&1 || {
        tail -n 20 "$log" >&2
        die "The controller's packages could not be installed. The whole output is in $log."
    }
    printf '%s' "$want" > "$mark"
}

bootstrap() {
    mkdir -p "$MUSHISHI_STATE/logs"
    install_packages
    make_environment
    use_environment
}

use_environment() { # fails when there is none yet
    [ -f "$MUSHISHI_STATE/venv/.locked" ] || return 1
    export PATH="$MUSHISHI_STATE/venv/bin:$PATH" PYTHONPATH="$MUSHISHI_ROOT/tools" PYTHONDONTWRITEBYTECODE=1
}
