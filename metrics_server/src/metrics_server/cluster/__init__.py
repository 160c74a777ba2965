# SPDX-License-Identifier: GPL-3.0-or-later
"""What the server knows of nodes and pods, kept live by list and watch."""
