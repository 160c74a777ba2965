# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    # For modules that are about the front proxy's client certificate.
    DOCUMENTATION = r"""
options:
  cert_file:
    description:
      - The client certificate, which is the API server's C(--proxy-client-cert-file).
    type: path
    required: true
  key_file:
    description:
      - Its key, which is the API server's C(--proxy-client-key-file).
    type: path
    required: true
"""

    # For modules that make files of keys and certificates.
    LIKE = r"""
options:
  like_key:
    description:
      - A key on the host whose mode and owner a new key gets. Without it, V(0600) and root.
    type: path
  like_cert:
    description:
      - A certificate on the host whose mode and owner a new certificate gets. Without it, V(0644) and root.
    type: path
"""
