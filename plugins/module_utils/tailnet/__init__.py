# SPDX-License-Identifier: MIT
"""The tailnet's client on a machine: its state and settings, the example of a policy file, who could be locked out."""
