# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""APIServices: what their objects say, and what each API server makes of them. Pure functions."""

from __future__ import annotations

import re
import typing as t

GAUGE = "aggregator_unavailable_apiservice"
COUNTER = "aggregator_unavailable_apiservice_total"
_SAMPLE = re.compile(r"^(?P<name>[A-Za-z_:][A-Za-z0-9_:]*)(?:\{(?P<labels>.*)\})?\s+(?P<value>\S+)")
_LABEL = re.compile(r'([A-Za-z_][A-Za-z0-9_]*)="((?:[^"\\]|\\.)*)"')


def default_path(name: str) -> t.Optional[str]:
    """The path that an APIService of this name serves: VERSION.GROUP."""
    version, dot, group = name.partition(".")
    if not version or not dot:
        return None
    return "/apis/%s/%s" % (group, version) if group else "/api/" + version


def condition_of(obj: t.Optional[t.Mapping[str, t.Any]], kind: str) -> t.Dict[str, t.Any]:
    """A condition of an object, an empty one when it has none."""
    status = (obj or {}).get("status") or {}
    for condition in status.get("conditions") or ():
        if isinstance(condition, dict) and condition.get("type") == kind:
            return condition
    return {}


def summarize(name: str, obj: t.Optional[t.Mapping[str, t.Any]]) -> t.Dict[str, t.Any]:
    """An APIService object in short; without one, that it does not exist."""
    spec = (obj or {}).get("spec") or {}
    condition = condition_of(obj, "Available")
    service = spec.get("service")
    return {
        "name": name,
        "exists": obj is not None,
        "available": condition.get("status") == "True",
        "reason": condition.get("reason"),
        "message": condition.get("message"),
        "service": {
            "namespace": service.get("namespace"),
            "name": service.get("name"),
            "port": service.get("port") or 443,
        }
        if isinstance(service, dict)
        else None,
        "insecure_skip_tls_verify": bool(spec.get("insecureSkipTLSVerify")),
    }


def port_name(service: t.Optional[t.Mapping[str, t.Any]], number: int) -> t.Optional[str]:
    """The name of a port of a Service; a nameless one is an empty string. None when it has no such port."""
    for port in ((service or {}).get("spec") or {}).get("ports") or ():
        if isinstance(port, dict) and port.get("port") == number:
            return str(port.get("name") or "")
    return None


def endpoints_of(slices: t.Iterable[t.Mapping[str, t.Any]], name: t.Optional[str]) -> t.List[t.Dict[str, t.Any]]:
    """The addresses behind a port of a Service, matched by the port's name as the aggregator does."""
    found: t.Dict[t.Tuple[str, t.Any], t.Dict[str, t.Any]] = {}
    for part in slices:
        numbers = [
            port.get("port")
            for port in part.get("ports") or ()
            if isinstance(port, dict) and (port.get("name") or "") == name
        ]
        for endpoint in part.get("endpoints") or ():
            if not isinstance(endpoint, dict):
                continue
            # No word on readiness means ready, says the API.
            ready = (endpoint.get("conditions") or {}).get("ready") is not False
            for address in endpoint.get("addresses") or ():
                for number in numbers:
                    found[(address, number)] = {
                        "ip": address,
                        "port": number,
                        "ready": ready,
                        "node": endpoint.get("nodeName"),
                    }
    return sorted(found.values(), key=lambda entry: (entry["ip"], entry["port"] or 0))


def parse_unavailability(lines: t.Iterable[str], names: t.Collection[str]) -> t.Dict[str, t.Dict[str, t.Any]]:
    """Gauge and failure counters of some APIServices from a page of metrics.

    Families come in alphabetical order, so reading stops behind the last that matters, near the top of megabytes.
    """
    found: t.Dict[str, t.Dict[str, t.Any]] = {name: {"unavailable": None, "failures": {}} for name in names}
    for line in lines:
        if line.startswith("#"):
            family = line.split(" ", 3)[2:3]
            if line.startswith(("# HELP ", "# TYPE ")) and family and family[0] > COUNTER:
                break
            continue
        if not line.startswith(GAUGE):
            continue
        match = _SAMPLE.match(line)
        labels = dict(_LABEL.findall(match.group("labels") or "")) if match else {}
        if not match or labels.get("name") not in found:
            continue
        try:
            value = int(float(match.group("value")))
        except (ValueError, OverflowError):
            continue
        entry = found[labels["name"]]
        if match.group("name") == GAUGE:
            entry["unavailable"] = value
        elif match.group("name") == COUNTER:
            entry["failures"][labels.get("reason", "")] = value
    return found


def verdict(summary: t.Mapping[str, t.Any], servers: t.Iterable[t.Mapping[str, t.Any]]) -> t.List[str]:
    """What is wrong with an APIService, in phrases; nothing when it is served by every server."""
    name = summary["name"]
    if not summary["exists"]:
        return ["%s does not exist" % name]
    faults = []
    bundle = summary.get("ca_bundle") or {}
    if bundle.get("present") and not bundle.get("valid_pem"):
        # The API server shows such an APIService as available for a minute and a half while every request fails.
        faults.append("the caBundle of %s %s" % (name, bundle.get("message") or "does not parse"))
    own = [entry for entry in servers if entry["name"] == name]
    for entry in own:
        if not entry["ok"]:
            faults.append("%s: %s" % (entry["server"], entry["message"]))
    if not summary["available"]:
        faults.append(
            "%s is Available=%s (%s)"
            % (
                name,
                "False" if summary["reason"] else "unknown",
                ": ".join(part for part in (summary["reason"], summary["message"]) if part) or "no condition yet",
            )
        )
    return faults
