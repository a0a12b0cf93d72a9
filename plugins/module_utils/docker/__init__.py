# SPDX-License-Identifier: MIT
# Private to this collection: may change in any release.
"""What a machine's Docker is, and what of it the collection refuses."""
