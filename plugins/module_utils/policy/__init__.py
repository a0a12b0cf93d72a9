# SPDX-License-Identifier: MIT
"""The policy compiler: one policy in, every configuration that routes a request out. Private to this collection."""
