#!/bin/sh
# SPDX-License-Identifier: MIT
# Placed by the role sovereignctl of mushishi.sovereign.
run='import sys; sys.path.insert(0, "/opt/mushishi/sovereignctl/lib"); from sovereignctl.cli import main; sys.exit(main(sys.argv[1:]))'
exec /opt/mushishi/sovereignctl/venv/bin/python -IB -c "$run" "$@"
