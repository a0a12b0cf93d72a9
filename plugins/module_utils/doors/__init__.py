# SPDX-License-Identifier: MIT
"""The doors of a machine, tried from outside: a scanner, a stage for it where no other machine is at hand, and a
table."""
