# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Rules about single API servers (AGG-09 to AGG-11): what one of them gets and others do not."""

from __future__ import annotations

import re
import typing as t

from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.evidence import Evidence, Host, get
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.families import joined
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.model import Observation, Repair, Row

Mapping = t.Mapping[str, t.Any]

#: How requests end on a connection whose other end is gone. A new connection would say "dial tcp".
LOST = re.compile(
    r"http2: (client connection lost|client connection force closed|timeout awaiting response headers)"
    r"|context deadline exceeded|Client\.Timeout exceeded|net/http: timeout awaiting|did not (answer|finish)|no answer"
    r"|timed out|stream error|use of closed network connection"
)
#: Seconds of a step from which a path is slow itself.
SLOW = 2
REGISTRATION_CHECKS = re.compile(
    r"poststarthook/apiservice-|poststarthook/kube-apiserver-autoregistration|autoregister-"
)


def failed_requests(evidence: Evidence, name: str) -> list[Mapping]:
    return [entry for entry in evidence.requests if entry["host"] == name and not entry.get("ok")]


def _targets(host: Host) -> list[str]:
    lines = []
    for target in host.targets():
        error = get(target, "connect", "error", "message") or get(target, "tls", "error", "message")
        said = f": {error}" if error else ""
        lines.append(f"{host.name} -> {joined(target.get('host'), target.get('port'))}: {target.get('verdict')}{said}")
    return lines


# --- AGG-09 ---------------------------------------------------------------------------------------------------------


def one_of_several(evidence: Evidence) -> t.Iterator[Observation]:
    """AGG-09: one API server fails where others serve. The place, where no other row knows the cause."""
    failing = evidence.failing_servers
    serving = {entry["host"] for entry in evidence.requests} - set(failing)
    if not serving or len(serving) < len(failing):
        return
    for name in failing:
        failed = failed_requests(evidence, name)
        if not all(entry.get("reachable") and entry.get("ready") for entry in failed):
            continue
        host = evidence.host(name)
        lines = [f"{entry.get('name')} through {name}: {entry.get('message')}" for entry in failed[:1]]
        lines += _targets(host)[:2] if host else []
        lines.append(f"works through {', '.join(sorted(serving))}")
        yield Observation(tuple(lines), (name,), standing="fallback")


# --- AGG-10 ---------------------------------------------------------------------------------------------------------


def dead_connection(evidence: Evidence) -> t.Iterator[Observation]:
    """AGG-10: requests hang on an old connection, while a new one from the same host works."""
    for name in evidence.failing_servers:
        host = evidence.host(name)
        failed = failed_requests(evidence, name)
        if host is None or not failed or not all(_hangs(entry, _said(evidence, entry)) for entry in failed):
            continue
        targets = host.targets()
        if not targets or not all(_works_at_once(evidence, target) for target in targets):
            continue
        if host.flags("kube-apiserver").get("egress-selector-config-file"):
            # It does not connect from its host, so what the host gets tells nothing.
            continue
        lines = [f"{entry.get('name')} through {name}: {_said(evidence, entry)}" for entry in failed[:1]]
        lines += [f"a new connection of the front proxy, {line}" for line in _targets(host)[:2]]
        yield Observation(tuple(lines), (name,))


def _said(evidence: Evidence, entry: Mapping) -> str:
    """How a request ended; where the API server refuses at once, since its own check of the API fails, how that did."""
    if get(entry, "failures", "FailedDiscoveryCheck"):
        for apiservice in evidence.apiservices:
            if apiservice.get("name") == entry.get("name") and apiservice.get("reason") == "FailedDiscoveryCheck":
                return str(apiservice.get("message"))
    return str(entry.get("message") or "")


def _works_at_once(evidence: Evidence, target: Mapping) -> bool:
    seconds = [get(target, step, "seconds") or 0 for step in ("connect", "response")]
    if target.get("proxy") or max(seconds) >= SLOW:
        return False
    if target.get("verdict") == "not_sent":
        # Without a certificate to verify, the probe sends nothing; and what is ready has answered the kubelet.
        return bool(get(target, "tls", "ok")) and evidence.server_serves
    return target.get("verdict") == "ok"


def _hangs(entry: Mapping, said: str) -> bool:
    return bool(entry.get("ready") and LOST.search(said) and "dial tcp" not in said)


# --- AGG-11 ---------------------------------------------------------------------------------------------------------


def waits_for_apiservices(evidence: Evidence) -> t.Iterator[Observation]:
    """AGG-11: an API server that has just started waits for an aggregated API whose server does not answer."""
    for host in evidence.control_planes:
        checks = host.get("api_server", "checks", default=[])
        failing = [str(check.get("name")) for check in checks if not check.get("ok")]
        if (
            host.get("api_server", "ready")
            or not failing
            or not all(REGISTRATION_CHECKS.search(name) for name in failing)
        ):
            continue
        lines = [f"{host.name}: /readyz fails: {', '.join(failing)}"]
        started = host.component("kube-apiserver").get("start_time")
        if started:
            lines.append(f"{host.name}: kube-apiserver started at {started}")
        lines += [
            f"{entry.get('name')}: {entry.get('message')}"
            for entry in get(evidence.objects, "apiservices_unavailable", default=[])[:2]
        ]
        yield Observation(tuple(lines), (host.name,))


# --- rows -----------------------------------------------------------------------------------------------------------

RESTART = ("restart_api_server",)

ROWS: tuple[Row, ...] = (
    Row(
        id="AGG-09",
        title="One control plane does not reach $server",
        layer="api_server",
        symptom="$Requests works through one control plane and fails through another: Error from server "
        "(ServiceUnavailable): the server is currently unable to handle the request$get",
        cause="Something differs on this control plane: a route, a packet filter, or what its API server trusts. The "
        "others reach the same server. All of them write the one status of the APIService, so it flips, and "
        "the healthy ones answer 503 to a part of the requests, too.",
        repair=Repair(
            "advice",
            "Take this control plane out of the load balancer, compare its routes and packet filters with those of a "
            "healthy one, mend it, and put it back.",
            risk="one control plane less behind the load balancer meanwhile",
            commands=(
                "ip route get POD_IP",
                "iptables-save | grep -E 'OUTPUT|FORWARD|DROP|REJECT'",
                "curl -k --max-time 5 https://POD_IP:PORT/livez",
            ),
        ),
        avoid="Do not change the healthy control planes, and do not delete the APIService: its status tells nothing "
        "while one of several API servers fails.",
        rule=one_of_several,
        covers=("request",),
    ),
    Row(
        id="AGG-10",
        title="An API server keeps a dead connection to $server",
        layer="api_server",
        symptom="Error from server (ServiceUnavailable): error trying to reach service: http2: client connection "
        "lost; or $requests hangs, after the node or the pod of $server went away without closing its "
        "connections",
        cause="The API server sends requests over an HTTP/2 connection whose other end is gone. New connections from "
        "the same host work. API servers notice by themselves within about 45 seconds, unless their health check of "
        "connections was switched off (HTTP2_READ_IDLE_TIMEOUT_SECONDS=0).",
        repair=Repair(
            "consent",
            "Run doctor again after a minute. If it is still there, restart that API server, one after the other "
            "where it is several.",
            risk="a restart of that API server, behind a health check",
            downtime="that API server about 45 s",
            steps=RESTART,
        ),
        avoid="Do not delete and recreate the APIService: the connection stays. Do not restart all API servers at "
        "once.",
        rule=dead_connection,
        covers=("request",),
    ),
    Row(
        id="AGG-11",
        title="An API server that starts waits for an aggregated API that does not answer",
        layer="api_server",
        symptom="/readyz of an API server that has just started: [-]poststarthook/apiservice-discovery-controller "
        "failed: not finished, or [-]poststarthook/apiservice-registration-controller failed: not finished",
        cause="When it starts, an API server asks every aggregated API that is registered. The server of one of them "
        "does not answer, so the API server becomes ready only after its time-outs: ten seconds in Kubernetes 1.37, a "
        "minute in much older releases.",
        repair=Repair(
            "advice",
            "Wait up to three minutes. Mend the server of the aggregated API (the finding beside this one), or "
            "deregister it, before the next API server is restarted.",
            risk="a rolling restart that does not wait for /readyz takes all API servers down",
            commands=(
                "kubectl get --raw '/readyz?verbose'",
                "kubectl get apiservices",
            ),
        ),
        avoid="Do not restart the API server again: it starts to wait anew. Do not shorten the health check of a "
        "rolling restart.",
        rule=waits_for_apiservices,
        explains=("CON-02",),
        covers=("api_server", "request"),
    ),
)
