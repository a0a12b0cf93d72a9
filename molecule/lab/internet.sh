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
# The other end of the machine's tunnel: what is addressed to anybody else on the internet arrives here.
ip link add internet0 type vxlan id 51 local "$INTERNET_ROUTER" remote "$INTERNET_ADDRESS" srcport 4789 4790 dstport 4789
ip addr add 198.18.51.1/30 dev internet0
ip -6 addr add fd51:51::1/64 dev internet0 nodad
ip link set internet0 up
# shellcheck disable=SC2086 # one word per argument is wanted
set -- --state /var/lib/standins --certs /etc/standins/certs $PROVIDER_ARGUMENTS
mkdir -p /var/lib/standins
# The tunnel's own packets are no traffic to record: redirected, they would never be unpacked, and nobody would be heard.
iptables -w -t nat -A PREROUTING -d "$INTERNET_ROUTER" -p udp --dport 4789 -j ACCEPT
python3 -m standins.internet "$@" --print-rules iptables | sh
exec python3 -m standins.internet "$@"
