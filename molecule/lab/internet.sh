#!/bin/sh
# SPDX-License-Identifier: MIT
# The internet stand-in's container: take the providers' addresses, catch every other packet, then run the stand-in.
set -eu
for address in $PROVIDER_ADDRESSES; do
    case $address in
        *:*) ip -6 addr replace "$address/64" dev eth0 nodad ;;
        *) ip addr replace "$address/24" dev eth0 ;;
    esac
done
# shellcheck disable=SC2086 # one word per argument is wanted
set -- --state /var/lib/standins --certs /etc/standins/certs $PROVIDER_ARGUMENTS
mkdir -p /var/lib/standins
python3 -m standins.internet "$@" --print-rules iptables | sh
exec python3 -m standins.internet "$@"
