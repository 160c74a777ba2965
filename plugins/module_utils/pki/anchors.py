# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Trust anchors as Kubernetes has them. Standard library only."""

from __future__ import annotations

import ssl

#: Python 3.8 and 3.9 have no name for this flag of OpenSSL.
PARTIAL_CHAIN = getattr(ssl, "VERIFY_X509_PARTIAL_CHAIN", 0x80000)


def like_kubernetes(context: ssl.SSLContext) -> ssl.SSLContext:
    """The context, with every certificate of its CA files as a trust anchor; chain, dates and names stay verified.

    Go ends a chain at any certificate that it was given: an intermediate CA of the company, or the server's own.
    OpenSSL goes on to a self-signed one, and so refuses what API servers, kubelets and kubectl accept.
    """
    context.verify_flags |= PARTIAL_CHAIN
    return context
