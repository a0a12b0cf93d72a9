# SPDX-License-Identifier: MIT
"""Admission: the only endpoint of the sovereign plane.

It knows who asks (a profile's key), lets only allow-listed routes and request bodies pass, and sends on a body that it
builds itself to the sovereign gateway. The client's words choose nothing but the content.
"""
