# SPDX-License-Identifier: MIT
# Private to this collection: may change in any release.
"""Doors, UFW, DOCKER-USER, and the brake that undoes a change which nobody confirms."""
