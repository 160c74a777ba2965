# SPDX-License-Identifier: GPL-3.0-or-later
"""The Kubernetes API: its client, and the nodes and pods of the cluster, kept live by list and watch."""
