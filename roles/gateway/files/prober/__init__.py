# SPDX-License-Identifier: MIT
"""The prober: finds engines that hang or are gone, and takes them out of the engine door until they answer again.

``judge`` decides and touches nothing; ``door`` reads and writes HAProxy's control channel; ``engine`` asks engines;
``watch`` runs the three. Standard library only.
"""
