# SPDX-License-Identifier: MIT
"""A real vLLM on the processor: a tiny model, the server with the role's flags, and its own parser."""
