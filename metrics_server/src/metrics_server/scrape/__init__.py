# SPDX-License-Identifier: GPL-3.0-or-later
"""Scraping kubelets: when, over which connection, and the formats they answer in."""
