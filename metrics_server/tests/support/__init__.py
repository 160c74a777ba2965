# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests share: a certificate authority, a kubelet and an API server that behave as told."""
