# SPDX-License-Identifier: MIT
"""The benchmarks: what is measured and how is in benchmarks/README.md."""
