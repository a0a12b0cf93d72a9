# SPDX-License-Identifier: MIT
"""Stand-ins of the lab: providers, DNS, an engine, hosts and the probe that knocks on doors (see README.md)."""
