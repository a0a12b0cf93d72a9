#!/bin/sh
# SPDX-License-Identifier: MIT
# usage: bring-image load ARCHIVE | bring-image pull IMAGE | bring-image build FOLDER TAG BASE INPUTS
# Docker keeps each layer that has come whole; a pull that breaks off is tried again and goes on with the others. A build
# has no network: what it needs lies in its folder.
set -u
case $1 in
    load) exec docker image load --input "$2" ;;
    pull)
        tries=0
        until docker image pull "$2"; do
            tries=$((tries + 1))
            [ "$tries" -lt 8 ] || exit 1
            echo "the transfer broke off, try $((tries + 1)) of 8"
            sleep $((tries * 5))
        done
        ;;
    build)
        exec docker image build --network=none --pull=false --force-rm --build-arg "BASE=$4" \
            --label "mushishi.inputs=$5" --tag "$3" "$2"
        ;;
    *) exit 2 ;;
esac
