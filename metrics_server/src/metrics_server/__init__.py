# SPDX-License-Identifier: GPL-3.0-or-later
"""The resource metrics API of a Kubernetes cluster, served from its kubelets."""

__version__ = "0.1.0"
