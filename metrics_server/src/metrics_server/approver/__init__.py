# SPDX-License-Identifier: GPL-3.0-or-later
"""Approves the serving certificates that kubelets ask for, when every check passes."""
