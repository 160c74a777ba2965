# SPDX-License-Identifier: GPL-3.0-or-later
"""The server under attack: what unauthenticated and hostile clients and kubelets can do, and what they cannot."""
