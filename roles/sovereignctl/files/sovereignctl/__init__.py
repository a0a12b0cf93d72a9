# SPDX-License-Identifier: MIT
"""sovereignctl: the machine's GPU modes and its queue, from a terminal or a desktop."""
