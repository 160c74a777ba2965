# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which nodes hold an image that no registry has. Pure functions, linear in the number of nodes.

A node that holds it carries a label of that very image, which the Deployment asks for. While one version replaces
another, both labels stand beside each other, so that pods of either can start.
"""

from __future__ import annotations

import hashlib
import re
import typing as t

from ansible_collections.kubemetrics.aggregation.plugins.module_utils.api import cluster_state
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils import scheduling

#: The label of an image is this, and its tag.
PREFIX = cluster_state.IMAGE_LABEL
ZONE = "topology.kubernetes.io/zone"
ALL = "all"
#: With fewer nodes than this, the loss of one leaves the server without a place.
ENOUGH = 2

_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")

Nodes = t.Mapping[str, t.Mapping[str, t.Any]]


class ImageNodesError(ValueError):
    """What was asked for cannot be done; the message is for the operator."""


def label_of(image: str) -> dict[str, str]:
    """The label of nodes that hold an image."""
    repository, _colon, tag = image.rpartition(":")
    if not _LABEL.fullmatch(tag):
        tag = hashlib.sha256(tag.encode()).hexdigest()[:12]
    return {PREFIX + tag: hashlib.sha256(repository.encode()).hexdigest()[:12]}


def wanted_workers(value: t.Any) -> int | None:
    """The number of workers that metrics_server_image_nodes names; None for all."""
    text = str(value).strip()
    if text == ALL:
        return None
    if not text.isascii() or not text.isdigit():
        raise ImageNodesError(
            f"metrics_server_image_nodes is {text!r}; set it to a number of workers, or to all for every node."
        )
    return int(text)


class Candidate(t.NamedTuple):
    """A node that could hold the image."""

    name: str
    control_plane: bool
    zone: str
    #: It holds the image and says so, or can be given it in this run.
    holds: bool
    labelled: bool
    running: bool
    usable: bool


def plan(
    nodes: Nodes,
    hosts: Nodes,
    image: str,
    *,
    workers: t.Any,
    placement: t.Mapping[str, t.Any],
    running: t.Collection[str] = (),
) -> dict[str, t.Any]:
    """Where the image shall be, and what is to be done for it.

    `nodes` are the cluster's, with labels and taints; `hosts` are those of the play by node name, each with what
    component_info found of images. `placement` has the selector, affinity and tolerations of the server's pods.
    """
    label = label_of(image)
    number = wanted_workers(workers)
    candidates, refused = [], {}
    for name, node in sorted(nodes.items()):
        found = candidate(name, node, hosts.get(name), image, label, placement, name in running)
        if isinstance(found, str):
            refused[name] = found
        else:
            candidates.append(found)
    if not any(entry.usable for entry in candidates):
        raise ImageNodesError(nobody(refused, [entry.name for entry in candidates]))
    chosen = [entry.name for entry in choose(candidates, number)]
    holding = {entry.name for entry in candidates if entry.holds}
    # What is cordoned or down keeps what it has, for when it comes back.
    keep = {*chosen, *(entry.name for entry in candidates if entry.labelled and entry.holds and not entry.usable)}
    keep |= {name for name in running if name in holding}
    return {
        "nodes": sorted(chosen),
        "label": label,
        "load": sorted(name for name in chosen if name not in holding),
        "add_labels": {name: label for name in sorted(chosen) if not has_label(nodes[name], label)},
        "remove_labels": stale_labels(nodes, keep, label),
        "keep_images": sorted((keep | set(running)) & hosts.keys()),
        "refused": refused,
    }


def candidate(
    name: str,
    node: t.Mapping[str, t.Any],
    host: t.Mapping[str, t.Any] | None,
    image: str,
    label: t.Mapping[str, str],
    placement: t.Mapping[str, t.Any],
    running: bool,
) -> Candidate | str:
    """A node as one that could hold the image, or the clause that says why it cannot."""
    if node.get("operating_system") not in (None, "", "linux"):
        return f"runs {node['operating_system']}"
    why_not = scheduling.refusal(
        node.get("labels") or {},
        node.get("taints") or (),
        name,
        selector=placement.get("selector") or {},
        affinity=placement.get("affinity"),
        tolerations=placement.get("tolerations") or (),
    )
    if why_not:
        return why_not
    labelled = has_label(node, label)
    images = (host or {}).get("images") or {}
    if host is None and not labelled:
        return "is not in this play"
    if host is not None and images.get("error"):
        return str(images["error"]).rstrip(".")
    return Candidate(
        name,
        bool(node.get("control_plane")),
        str((node.get("labels") or {}).get(ZONE) or ""),
        labelled if host is None else image in (images.get("names") or ()),
        labelled,
        running,
        bool(node.get("ready")) and not node.get("unschedulable"),
    )


def choose(candidates: t.Sequence[Candidate], workers: int | None) -> list[Candidate]:
    """Control planes, and workers spread over zones. What holds the image comes first, so that nothing moves."""
    if workers is None:
        return list(candidates)
    chosen = [entry for entry in candidates if entry.control_plane and entry.usable]
    rest = [entry for entry in candidates if not entry.control_plane and entry.usable]
    preferred = [entry for entry in rest if entry.running or entry.labelled]
    preferred.sort(key=lambda entry: (not entry.running, not entry.holds))
    picked = preferred[:workers]
    names = {entry.name for entry in picked}
    picked += spread([entry for entry in rest if entry.name not in names], picked, workers - len(picked))
    if not chosen and not picked:
        # Nobody asked for workers and no control plane takes pods: one worker is the least that works.
        picked = rest[:1]
    return chosen + picked


def spread(candidates: t.Sequence[Candidate], picked: t.Iterable[Candidate], number: int) -> list[Candidate]:
    """So many more, from the zones that have the fewest, and evenly over the names within a zone."""
    by_zone: dict[str, list[Candidate]] = {}
    for entry in candidates:
        by_zone.setdefault(entry.zone, []).append(entry)
    have = dict.fromkeys(by_zone, 0)
    for entry in picked:
        if entry.zone in have:
            have[entry.zone] += 1
    share = dict.fromkeys(by_zone, 0)
    for _turn in range(min(number, len(candidates))):
        zone = min((zone for zone in by_zone if share[zone] < len(by_zone[zone])), key=lambda zone: (have[zone], zone))
        have[zone] += 1
        share[zone] += 1
    found = []
    for zone, count in share.items():
        entries = by_zone[zone]
        found += [entries[turn * len(entries) // count] for turn in range(count)]
    return found


def has_label(node: t.Mapping[str, t.Any], label: t.Mapping[str, str]) -> bool:
    labels = node.get("labels") or {}
    return all(labels.get(key) == value for key, value in label.items())


def stale_labels(nodes: Nodes, keep: t.Collection[str], label: t.Mapping[str, str]) -> dict[str, list[str]]:
    """Labels of images that shall not be there any more: those of older images, and this one's on other nodes."""
    found = {}
    for name, node in sorted(nodes.items()):
        keys = [key for key in sorted(node.get("labels") or {}) if key.startswith(PREFIX)]
        if name in keep:
            keys = [key for key in keys if key not in label]
        if keys:
            found[name] = keys
    return found


def nobody(refused: t.Mapping[str, str], unusable: t.Sequence[str]) -> str:
    """The sentence for a cluster none of whose nodes can run the server."""
    clauses = [f"{name} {why}" for name, why in list(refused.items())[:5]]
    clauses += [f"{name} is cordoned or not Ready" for name in list(unusable)[:5]]
    more = len(refused) + len(unusable) - len(clauses)
    if more > 0:
        clauses.append(f"{more} more likewise")
    return (
        f"No node can run the metrics server: {'; '.join(clauses) or 'the cluster has none'}. Check "
        "metrics_server_nodeselector, metrics_server_extra_tolerations and metrics_server_extra_affinity, or run this "
        "for a node that can."
    )


def patches(plan_or_labels: t.Mapping[str, t.Mapping[str, str] | t.Sequence[str]]) -> list[dict[str, t.Any]]:
    """Nodes as patches that set labels, or remove those that are only named."""
    return [
        {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {
                "name": name,
                "labels": dict(entry) if isinstance(entry, dict) else dict.fromkeys(entry),
            },
        }
        for name, entry in plan_or_labels.items()
    ]


def nowhere(nodes: Nodes) -> dict[str, t.Any]:
    """The plan for a server whose image a registry has, or that is removed: no node holds it."""
    return {
        "nodes": [],
        "label": {},
        "load": [],
        "add_labels": {},
        "remove_labels": stale_labels(nodes, (), {}),
        "keep_images": [],
        "refused": {},
    }


def pulling(nodes: Nodes, placement: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """For an image that nodes pull: the architectures that it is needed for, and the nodes to try it on."""
    able = {
        name: node
        for name, node in sorted(nodes.items())
        if node.get("operating_system") in (None, "", "linux")
        and not scheduling.refusal(
            node.get("labels") or {},
            node.get("taints") or (),
            name,
            selector=placement.get("selector") or {},
            affinity=placement.get("affinity"),
            tolerations=placement.get("tolerations") or (),
        )
    }
    return {"architectures": architectures(able), "trial": trial(able)}


def loaded(nodes: Nodes, plan: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """The same for an image that is loaded: it is missing where it has still to be loaded."""
    lacking = {name: nodes[name] for name in plan["load"]}
    return {"architectures": architectures(lacking), "trial": trial({name: nodes[name] for name in plan["nodes"]})}


def architectures(nodes: Nodes) -> list[str]:
    return sorted({str(node.get("architecture") or "amd64") for node in nodes.values()})


def trial(nodes: Nodes) -> list[str]:
    """One node of each architecture and container runtime that can take a pod now: what one starts another may not."""
    found: dict[tuple[str, str], str] = {}
    for name, node in sorted(nodes.items()):
        if node.get("ready") and not node.get("unschedulable"):
            kind = (str(node.get("architecture") or "amd64"), str(node.get("runtime") or ""))
            found.setdefault(kind, name)
    return sorted(found.values())


def availability(nodes: Nodes, images: Nodes | None = None) -> dict[str, t.Any]:
    """Which nodes hold an image by their labels, and one sentence when the loss of one would leave none.

    `images` is what component_info found on those hosts that were reached, by node name.
    """
    ready, lost = [], {}
    others = False
    for name, node in sorted(nodes.items()):
        able = bool(node.get("ready")) and not node.get("unschedulable")
        if not node.get("image_labels"):
            others = others or (able and node.get("operating_system") in (None, "", "linux"))
            continue
        if not able:
            lost[name] = "is cordoned" if node.get("ready") else "is not Ready"
        elif not still_holds(node["image_labels"], (images or {}).get(name)):
            lost[name] = "has lost it"
        else:
            ready.append(name)
    warning = ""
    if (ready or lost) and len(ready) < ENOUGH and (others or lost):
        where = f"Only the node {ready[0]} holds" if ready else "No node that can take pods holds"
        reasons = f" ({'; '.join(f'{name} {why}' for name, why in lost.items())})" if lost else ""
        warning = f"{where} the metrics server's image{reasons}: run site again, so that another node can take over."
    return {"ready": ready, "lost": sorted(lost), "warning": warning}


def still_holds(labels: t.Collection[str], found: t.Mapping[str, t.Any] | None) -> bool:
    """Whether a host has an image that its labels name; a host that was not reached, or cannot list, counts as one."""
    if not found or found.get("error"):
        return True
    return any(key in labels for name in found.get("names") or () for key in label_of(name))
