# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the role front_proxy_pki says of the decisions of front_proxy.py, and why a CA cannot be replaced now."""

from __future__ import annotations

import typing as t

from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils import front_proxy


def announced(info: t.Mapping[str, t.Any], name: str, plan: t.Mapping[str, t.Any]) -> str:
    """What :func:`front_proxy.plan` means for one control plane, as a sentence; empty for nothing."""
    clauses = []
    if plan["create_ca"] and name == plan["signer"]:
        key = info["ca_key"]["path"]
        clauses.append(f"A CA of its own is made for the front proxy, and its key stays in {key} here")
    if name in plan["update_ca"]:
        clauses.append(f"{info['ca_file']} gets the CAs of all control planes")
    if name in plan["issue"]:
        clauses.append(f"{info['cert_file']} is replaced, because {plan['issue'][name]}")
    return "; ".join(clauses) + "." if clauses else ""


def announced_rotation(rotation: t.Mapping[str, t.Any]) -> str:
    """What :func:`front_proxy.rotation` is going to do, as sentences."""
    begin = (
        f"A new CA is made for the front proxy on {rotation['signer']}"
        if rotation["create"]
        else "The rotation of the CA of the front proxy that was begun is continued"
    )
    reissue = rotation["reissue"]
    pairs = f"the certificates of {', '.join(reissue)} are replaced" if reissue else "no certificate has to be replaced"
    old = ", ".join(rotation["old"]) + (" is" if len(rotation["old"]) == 1 else " are")
    return (
        f"{begin}; then all control planes trust old and new, {pairs}, and {old} no longer trusted. API servers do not "
        "restart."
    )


def absent(
    infos: t.Mapping[str, t.Mapping[str, t.Any]],
    flags: t.Mapping[str, t.Mapping[str, t.Any]],
    *,
    known: t.Sequence[str],
    endpoints: t.Sequence[str],
    servers: t.Sequence[t.Mapping[str, t.Any]],
) -> str:
    """Why the CA of the front proxies cannot be replaced now, as clauses; empty when every API server takes part.

    ``infos`` and ``flags`` are the certificates of control planes and the flags that their API servers run with,
    ``known`` the addresses of the play's API servers, ``endpoints`` those of the cluster's.
    """
    unknown = [address for address in endpoints if address not in known]
    others = [name for name in infos if flags[name].get(front_proxy.CA_FILE, "") != infos[name]["ca_file"]]
    unready = [str(server["server"]) for server in servers if not server["ready"]]
    clauses = []
    if unknown:
        clauses.append(
            f"the cluster has API servers that this play does not know ({', '.join(unknown)}): put their hosts into "
            "the inventory and run this without --limit"
        )
    if others:
        clauses.append(
            f"the API servers of {', '.join(others)} do not run with the certificates of the front proxy: run the site "
            "playbook first"
        )
    if unready:
        clauses.append(f"the API servers {', '.join(unready)} are not ready: bring them back first")
    return "; ".join(clauses)
