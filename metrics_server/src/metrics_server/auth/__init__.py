# SPDX-License-Identifier: GPL-3.0-or-later
"""Who is asking, and may they: front proxy, client certificates, tokens, access reviews."""
