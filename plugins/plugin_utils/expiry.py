# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""When the certificates expire on which resource metrics depend, and what renews them. Pure functions."""

from __future__ import annotations

import typing as t

from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.rollout import decoded

Facts = t.Mapping[str, t.Any]


class Expiry(t.NamedTuple):
    """A certificate's end, with whose it is and what renews it."""

    not_after: str
    what: str
    renewal: str


def kubelet_certificate(variables: Facts) -> dict[str, t.Any]:
    """The serving certificate of the kubelet of a host, as it is after the play, in words."""
    checked = ((variables.get("__kubelet_access_health") or {}).get("kubelets") or [{}])[0]
    after = (checked.get("tls") or {}).get("certificate")
    before = ((variables.get("cluster_host") or {}).get("kubelet_answers") or {}).get("certificate")
    return dict(after) if after else decoded(before)


def front_proxy_certificates(variables: Facts) -> list[tuple[str, dict[str, t.Any]]]:
    """The front proxy's certificates on a control plane, each with its kind."""
    # Read again where something was replaced, and else as it was found.
    later, first = (variables.get(name) or {} for name in ("__kubelet_access_front_proxy", "__front_proxy_pki_info"))
    found = later if "ca" in later else first
    result = []
    clients = (found.get("chain") or [found.get("certificate")])[:1]
    for kind, encoded in (("client certificate", clients), ("CA", found.get("ca"))):
        for one in encoded or ():
            result.append((kind, decoded(one)))
    return result


def gather(
    hosts: t.Mapping[str, Facts], managed: t.Collection[str], *, approver: bool, renew_before_days: int = 30
) -> list[Expiry]:
    """All of them, the first to expire first.

    ``hosts`` are the variables of the hosts by their names, ``managed`` are those whose kubelet has a certificate that
    the cluster signs.
    """
    approved = (
        "the approver in the cluster approves that"
        if approver
        else "the next run of site.yml approves that and nothing else does, unless metrics_server_csr_approver is true"
    )
    found = []
    for name, variables in hosts.items():
        certificate = kubelet_certificate(variables) if name in managed else {}
        if certificate.get("not_after"):
            renewal = f"the kubelet asks for a new one before, and {approved}"
            found.append(Expiry(certificate["not_after"], f"the serving certificate of the kubelet of {name}", renewal))
        for kind, words in front_proxy_certificates(variables):
            if words.get("not_after"):
                switch = " -e front_proxy_pki_rotate_ca=true" if kind == "CA" else ""
                renewal = f"playbooks/rotate_certs.yml{switch} renews it"
                if kind != "CA":
                    renewal += f", and site.yml does from {renew_before_days} days before"
                found.append(Expiry(words["not_after"], f"the front proxy's {kind} on {name}", renewal))
    return sorted(found)


def report(found: t.Sequence[Expiry]) -> list[str]:
    """Sentences for the end of a play: the first to expire, then the first of each other kind."""
    if not found:
        return []
    lines = []
    seen: set[str] = set()
    for entry in found:
        kind = entry.what.rsplit(" ", 1)[0]
        if kind not in seen:
            lead = "The first certificate to expire is" if not seen else "Of its kind the first to expire is"
            lines.append(f"{lead} {entry.what}, at {entry.not_after}: {entry.renewal}.")
            seen.add(kind)
    return [*lines, "The metrics server renews its own serving certificate."]
