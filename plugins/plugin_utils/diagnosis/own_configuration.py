# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What becomes of a finding's repair where a distribution writes its configuration itself: no playbook changes it, and
the lines to write take the place of the steps. Pure functions."""

from __future__ import annotations

import re
import typing as t

from ansible_collections.kubemetrics.aggregation.plugins.module_utils.text import distributions
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis import families
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.evidence import Evidence, get

#: Findings about serving certificates of kubelets; the others of that step are about who may ask a kubelet.
CERTIFICATES = ("KUB-01", "KUB-02", "KUB-03")
CLOCKS = "LIF-02"
_NETWORK = "POD_NETWORK"
#: What holds for kubeadm only, in the cause of a row and in commands.
_KUBEADMS_SENTENCE = re.compile(r"(?:(?<=\. )|^)kubeadm [^.]*\.\s*")
_KUBEADMS_COMMAND = re.compile(r"/etc/kubernetes/manifests|\bkubeadm\b|systemctl restart kubelet\b")


class Advice(t.NamedTuple):
    """What a person does instead of a playbook."""

    text: str
    commands: tuple[str, ...]


def key_of(evidence: Evidence) -> str:
    """The distribution of the cluster, or an empty text."""
    flavour = str(evidence.api("cluster", "flavour", default=""))
    return flavour if flavour in distributions.TABLE else ""


def view(evidence: Evidence) -> dict[str, t.Any]:
    """The distribution as the report has it: key, name, and a sentence on what it means; empty for other clusters."""
    key = key_of(evidence)
    if not key:
        return {}
    said = str(evidence.api("cluster", "distribution", "because", default=""))
    return {"key": key, "name": distributions.TABLE[key].name, "sentence": distributions.sentence(key, said)}


def adapted(found: t.Mapping[str, t.Any], evidence: Evidence) -> dict[str, t.Any]:
    """A finding of the document, with what can be done about it in this cluster."""
    key = key_of(evidence)
    if not key:
        return dict(found)
    repair = dict(found["repair"])
    steps = set(repair.get("steps") or ())
    advice = _advice(key, str(found["id"]), steps, repair, evidence)
    if advice is not None:
        repair.update(
            kind="advice",
            text=advice.text,
            risk="that of a restart of the components that it concerns" if advice.commands else "none",
            downtime="what they restart for, one node after the other" if advice.commands else "none",
            steps=[],
            variables=[],
            commands=list(advice.commands),
        )
    elif any(_KUBEADMS_COMMAND.search(command) for command in repair.get("commands") or ()):
        where = distributions.TABLE[key].config or "where its provider has it"
        repair["text"] = f"{repair['text']} {distributions.TABLE[key].name} has its configuration here: {where}."
        repair["commands"] = [one for one in repair["commands"] if not _KUBEADMS_COMMAND.search(one)]
    return {**found, "cause": _KUBEADMS_SENTENCE.sub("", str(found["cause"])).strip(), "repair": repair}


def _advice(
    key: str, identifier: str, steps: t.Collection[str], repair: t.Mapping[str, t.Any], evidence: Evidence
) -> Advice | None:
    """What takes the place of the steps; nothing where a playbook may do them."""
    entry = distributions.TABLE[key]
    if not steps:
        return None
    if entry.hosted:
        return _hosted(entry, steps, repair)
    if "apiserver_aggregation" in steps and "front_proxy_pki" in steps:
        return Advice(
            f"{entry.name} makes the front proxy's CA, certificates and flags itself, and nothing here changes them: "
            "take out what contradicts it in its configuration, so that these values are in effect, and restart it. "
            "Where they are and a certificate is wrong, have it issued anew.",
            (
                *distributions.flag_lines(key, "kube-apiserver", tuple(entry.front_proxy.items())),
                *entry.renew_front_proxy,
            ),
        )
    if "front_proxy_pki" in steps:
        return Advice(
            f"{entry.name} makes the front proxy's certificates itself, and nothing here changes them: "
            f"{'when all clocks agree, ' if identifier == CLOCKS else ''}have it issue a new one.",
            entry.renew_front_proxy,
        )
    if "apiserver_aggregation" in steps:
        return Advice(
            f"Send API servers to the endpoints themselves, by a flag that {entry.name} takes from its own "
            "configuration, where their hosts have routes to pods; no playbook writes it there.",
            tuple(distributions.flag_lines(key, "kube-apiserver", tuple(distributions.ROUTING.items()))),
        )
    if "kubelet_access" in steps and identifier in CERTIFICATES:
        return Advice(
            f"{entry.serving_certificates} No playbook changes that; have it issue a new one.", entry.renew_serving
        )
    if "kubelet_access" in steps:
        return Advice(
            f"{entry.name} configures its kubelets itself, and nothing here changes them: take out what contradicts "
            "it in its configuration, so that these values are in effect, and restart it.",
            tuple(distributions.flag_lines(key, "kubelet", tuple(distributions.KUBELET_ACCESS.items()))),
        )
    if "forward_policy" in steps:
        return Advice(
            f"Accept new connections from and to the networks of pods. On hosts of {entry.name} no playbook changes "
            "packet filters, so write the rules, and keep them where the host keeps its own.",
            _forward_lines(evidence),
        )
    if "restart_api_server" in steps:
        return Advice(
            f"{repair['text']} On {entry.name} no playbook restarts it.",
            entry.restart,
        )
    return _of_its_own_server(key, entry, evidence)


def _hosted(entry: distributions.Distribution, steps: t.Collection[str], repair: t.Mapping[str, t.Any]) -> Advice:
    if set(steps) == {"metrics_server"}:
        return Advice(
            f"{repair['text']} On {entry.name} no playbook changes anything; mend the server with the tool that "
            "installed it.",
            (*(repair.get("commands") or ()), *entry.switch_off_lines),
        )
    return Advice(
        f"{entry.name} runs the control plane and its nodes' kubelets: show this finding to its provider.",
        ("kubectl get --raw '/readyz?verbose'", "kubectl describe apiservice v1beta1.metrics.k8s.io"),
    )


def _of_its_own_server(key: str, entry: distributions.Distribution, evidence: Evidence) -> Advice | None:
    """Whoever serves the API is the distribution itself: deploying another server beside it mends nothing."""
    owners = evidence.api("provider", "owners", default={}).values()
    if not any(get(owner, "kind") == key for owner in owners):
        return None
    if not entry.switch_off_lines:
        return Advice(f"{entry.name} has this server in its own hands, and no switch for it.", ())
    return Advice(
        f"The server is {entry.name}'s own, which comes back when its objects are changed: restart {entry.name}, which "
        "writes it anew, or switch it off and deploy this collection's.",
        (*entry.switch_off_lines, "ansible-playbook playbooks/site.yml"),
    )


def _forward_lines(evidence: Evidence) -> tuple[str, ...]:
    networks = [str(one) for one in evidence.api("cluster", "pod_cidrs", default=[])] or [_NETWORK]
    lines: list[str] = []
    for network in networks:
        program = families.iptables(network)
        lines += [f"{program} --append FORWARD --{way} {network} --jump ACCEPT" for way in ("source", "destination")]
    return tuple(lines)
