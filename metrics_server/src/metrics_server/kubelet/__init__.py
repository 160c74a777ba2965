# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading kubelets: connections, and the formats they answer in."""
