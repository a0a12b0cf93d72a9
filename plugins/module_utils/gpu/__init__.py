# SPDX-License-Identifier: MIT
"""GPU modes: who may hold the card, and how one mode becomes another as a transaction (docs/decisions/023)."""
