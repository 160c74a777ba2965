# SPDX-License-Identifier: GPL-3.0-or-later
"""Sizes a container by the number of nodes."""
