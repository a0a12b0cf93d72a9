#!/bin/sh
# SPDX-License-Identifier: MIT
# Placed by the role sovereignctl of mushishi.sovereign: the one thing that the desktop picker asks an administrator for.
exec /usr/local/bin/sovereignctl mode switch "$@"
