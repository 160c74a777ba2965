# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What metrics.k8s.io says against what the cluster runs. Pure functions; joined by name."""

from __future__ import annotations

import datetime
import math
import re
import typing as t

from ansible_collections.kubemetrics.aggregation.plugins.module_utils.api.kube import age_seconds, parse_rfc3339

GROUP_PATH = "/apis/metrics.k8s.io"
PREFERRED_VERSION = "v1beta1"

_QUANTITY = re.compile(r"^([0-9]+(?:\.[0-9]*)?|\.[0-9]+)([a-zA-Z]*)$")
_SUFFIXES = {
    "": 1.0,
    "n": 1e-9,
    "u": 1e-6,
    "m": 1e-3,
    "k": 1e3,
    "M": 1e6,
    "G": 1e9,
    "T": 1e12,
    "P": 1e15,
    "E": 1e18,
    **{"%si" % unit: float(1 << (10 * power)) for power, unit in enumerate("KMGTPE", start=1)},
}


def name_of(obj: t.Mapping[str, t.Any]) -> str:
    """namespace/name, or the name of what has no namespace."""
    metadata = obj.get("metadata") or {}
    name = str(metadata.get("name") or "")
    return "%s/%s" % (metadata["namespace"], name) if metadata.get("namespace") else name


def choose_version(group: t.Optional[t.Mapping[str, t.Any]]) -> str:
    """The version of the API to ask for, from the discovery document of its group."""
    versions = [entry.get("version") for entry in (group or {}).get("versions") or () if isinstance(entry, dict)]
    if not versions or PREFERRED_VERSION in versions:
        return PREFERRED_VERSION
    return str(versions[0])


def is_ready_since(node: t.Mapping[str, t.Any], now: datetime.datetime, grace: float) -> bool:
    """Whether a node has been Ready for longer than the grace time."""
    for condition in (node.get("status") or {}).get("conditions") or ():
        if isinstance(condition, dict) and condition.get("type") == "Ready":
            if condition.get("status") != "True":
                return False
            age = age_seconds(parse_rfc3339(condition.get("lastTransitionTime")), now)
            return age is None or age >= grace
    return False


def runs_since(pod: t.Mapping[str, t.Any], now: datetime.datetime, grace: float) -> bool:
    """Whether a pod runs, with all its containers, for longer than the grace time, and is to stay."""
    status = pod.get("status") or {}
    if status.get("phase") != "Running" or (pod.get("metadata") or {}).get("deletionTimestamp"):
        return False
    containers = [entry for entry in status.get("containerStatuses") or () if isinstance(entry, dict)]
    if not containers:
        return False
    for container in containers:
        running = (container.get("state") or {}).get("running")
        if not isinstance(running, dict):
            return False
        age = age_seconds(parse_rfc3339(running.get("startedAt")), now)
        if age is None or age < grace:
            return False
    return True


def expected_nodes(nodes: t.Iterable[t.Mapping[str, t.Any]], now: datetime.datetime, grace: float) -> t.Set[str]:
    return {name_of(node) for node in nodes if is_ready_since(node, now, grace)}


def expected_pods(
    pods: t.Iterable[t.Mapping[str, t.Any]], nodes: t.Collection[str], now: datetime.datetime, grace: float
) -> t.Set[str]:
    """Pods that must have metrics: those on nodes that must. From a kubelet that is back, a rate takes two samples."""
    return {
        name_of(pod) for pod in pods if (pod.get("spec") or {}).get("nodeName") in nodes and runs_since(pod, now, grace)
    }


def compare(
    expected: t.Collection[str],
    samples: t.Iterable[t.Mapping[str, t.Any]],
    now: datetime.datetime,
    max_age: float,
) -> t.Dict[str, t.Any]:
    """Which of the expected have a sample, and how old the samples are by the clock of the API server."""
    ages: t.Dict[str, t.Optional[float]] = {}
    for sample in samples:
        ages[name_of(sample)] = age_seconds(parse_rfc3339(sample.get("timestamp")), now)
    known = {name: age for name, age in ages.items() if age is not None}
    # Samples of what has gone in the meantime say nothing; only those that are expected can be stale.
    stale = [
        {"name": name, "age": None if ages[name] is None else round(t.cast(float, ages[name]), 1)}
        for name in sorted(ages)
        if name in expected and not _is_fresh(ages[name], max_age)
    ]
    return {
        "expected": len(expected),
        "with_metrics": sum(1 for name in expected if name in ages),
        "missing": sorted(name for name in expected if name not in ages),
        "stale": stale,
        "newest_age": round(min(known.values()), 1) if known else None,
        "oldest_age": round(max(known.values()), 1) if known else None,
    }


def quantity(text: t.Any) -> t.Optional[float]:
    """The value of a Kubernetes quantity, or None when it is none."""
    match = _QUANTITY.match(text) if isinstance(text, str) else None
    if not match or match.group(2) not in _SUFFIXES:
        return None
    return float(match.group(1)) * _SUFFIXES[match.group(2)]


def usage_of(samples: t.Iterable[t.Mapping[str, t.Any]]) -> t.List[t.Dict[str, t.Any]]:
    """What each node uses, in the units of kubectl top: millicores and MiB."""
    usage = []
    for sample in samples:
        values = sample.get("usage") or {}
        cpu, memory = quantity(values.get("cpu")), quantity(values.get("memory"))
        usage.append(
            {
                "name": name_of(sample),
                # As kubectl rounds: millicores up, MiB down.
                "cpu_millicores": None if cpu is None else math.ceil(round(cpu * 1000, 6)),
                "memory_mib": None if memory is None else int(memory // (1 << 20)),
            }
        )
    return sorted(usage, key=lambda entry: entry["name"])


def _is_fresh(age: t.Optional[float], max_age: float) -> bool:
    """A sample from the future beyond any rounding is as wrong as an old one: some clock is off."""
    return age is not None and -max_age <= age <= max_age


def fault_of(kind: str, comparison: t.Mapping[str, t.Any]) -> str:
    """The phrase for nodes or pods that lack fresh metrics, or an empty string."""
    parts = []
    if comparison["missing"]:
        parts.append(
            "%d of %d %s without metrics (%s)"
            % (len(comparison["missing"]), comparison["expected"], kind, shorten(comparison["missing"]))
        )
    if comparison["stale"]:
        stale = ["%s, %s" % (entry["name"], words_of_age(entry["age"])) for entry in comparison["stale"]]
        parts.append("%d of %d %s with stale metrics (%s)" % (len(stale), comparison["expected"], kind, shorten(stale)))
    return ", ".join(parts)


def words_of_age(age: t.Optional[float]) -> str:
    if age is None:
        return "no time stamp"
    return "%d s old" % age if age >= 0 else "%d s in the future" % -age


def shorten(names: t.Sequence[str], most: int = 3) -> str:
    """The first few of a list and the number of the others."""
    return "; ".join(names[:most]) + (" and %d more" % (len(names) - most) if len(names) > most else "")
