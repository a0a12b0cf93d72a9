# SPDX-License-Identifier: MIT
"""What tools/lab and tools/test are made of: the outer Docker engine, the machine image, the depot, the phases."""
