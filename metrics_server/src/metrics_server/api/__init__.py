# SPDX-License-Identifier: GPL-3.0-or-later
"""The Kubernetes API surface: what a client sees."""
