# SPDX-License-Identifier: GPL-3.0-or-later
"""TLS on both sides: the listener, certificate files that are renewed, certificates made here, client certificates."""
