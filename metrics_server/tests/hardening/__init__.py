# SPDX-License-Identifier: GPL-3.0-or-later
"""The server under attack: what strangers, hostile clients and hostile kubelets can do, and what they cannot."""
