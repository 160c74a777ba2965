#!/usr/bin/python
# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: apiservice_info
short_description: Show whether aggregated APIs are served, by each API server
version_added: 0.1.0
author:
  - The kubemetrics.aggregation maintainers (@kubemetrics)
description:
  - Reports APIServices with their condition, the Service and the endpoints behind them and the CA bundle, and what
    each API server really answers to requests for them.
  - In a cluster with several API servers all of them write the one condition of an APIService, and it flips when they
    disagree. So this module asks each server, several times, and reads each server's own gauge
    C(aggregator_unavailable_apiservice).
  - Can wait until every server serves all of them.
extends_documentation_fragment:
  - kubemetrics.aggregation.api
  - kubemetrics.aggregation.wait
  - kubemetrics.aggregation.attributes.info
options:
  name:
    description:
      - The APIServices.
    type: list
    elements: str
    default: [v1beta1.metrics.k8s.io]
  all_versions:
    description:
      - Whether to check every other registered version of the groups of O(name), too, such as C(v1.metrics.k8s.io)
        beside C(v1beta1.metrics.k8s.io). A client takes the one that it knows.
      - Goes without O(request_path).
    type: bool
    default: false
  servers:
    description:
      - The API servers to ask, as C(https://HOST:PORT). Without it, the server of the kubeconfig.
      - The certificate of each is verified with the CA of the kubeconfig and has to be valid for the host given here.
    type: list
    elements: str
  request_path:
    description:
      - The path to ask for. Without it, the root of each APIService, such as C(/apis/metrics.k8s.io/v1beta1).
      - Needs O(name) to be a single APIService.
    type: str
  attempts:
    description:
      - Requests to each server. All of them have to succeed for RV(servers[].ok).
      - After a request that was not answered in time no more are sent to that server for that APIService.
    type: int
    default: 3
requirements:
  - cryptography (Python library) on the machine that the module runs on
notes:
  - A single 503 is normal while an API server or the server behind the APIService restarts. Use O(wait) to tolerate it.
seealso:
  - module: kubemetrics.aggregation.resource_metrics_info
  - module: kubemetrics.aggregation.component_info
"""

EXAMPLES = r"""
- name: Wait until every control plane serves the metrics API
  kubemetrics.aggregation.apiservice_info:
    kubeconfig: "{{ kubeconfig_path }}"
    servers: "{{ groups['kube_control_plane'] | map('regex_replace', '^(.*)$', 'https://\\1:6443') }}"
    wait: true
    wait_sleep: 1
    wait_timeout: 90
  delegate_to: localhost
  run_once: true

- name: Check two aggregated APIs through the server of the kubeconfig
  kubemetrics.aggregation.apiservice_info:
    name:
      - v1beta1.metrics.k8s.io
      - v1beta1.custom.metrics.k8s.io
  delegate_to: localhost
  register: aggregated

- name: Request data, not only discovery
  kubemetrics.aggregation.apiservice_info:
    request_path: /apis/metrics.k8s.io/v1beta1/nodes
    attempts: 5
  delegate_to: localhost
"""

RETURN = r"""
apiservices:
  description: The APIServices in the order of O(name).
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: Its name.
      type: str
    exists:
      description: Whether there is one.
      type: bool
    available:
      description: Whether its condition C(Available) is true. RV(servers) is the more reliable indicator.
      type: bool
    reason:
      description: The reason in the condition.
      type: str
    message:
      description: The message in the condition.
      type: str
    service:
      description:
        - The Service behind it with RV(ignore:namespace), RV(ignore:name) and RV(ignore:port), or null when the API
          server serves it itself.
      type: dict
    service_exists:
      description: Whether that Service exists and has that port, or null without a Service.
      type: bool
    endpoints:
      description:
        - The addresses behind that port with RV(ignore:ip), RV(ignore:port), RV(ignore:ready) and RV(ignore:node).
      type: list
      elements: dict
    insecure_skip_tls_verify:
      description: Whether API servers are told not to verify the certificate.
      type: bool
    ca_bundle:
      description: The CA bundle that API servers verify the certificate with.
      type: dict
      contains:
        present:
          description: Whether there is one.
          type: bool
        valid_pem:
          description: Whether it parses. API servers take one that does not and then fail every request.
          type: bool
        message:
          description: Why it does not parse.
          type: str
        subjects:
          description: Subjects of its certificates.
          type: list
          elements: str
        not_after:
          description: When the last of its certificates expires.
          type: str
        fingerprints_sha256:
          description: SHA-256 of each certificate.
          type: list
          elements: str
  sample:
    - name: v1beta1.metrics.k8s.io
      exists: true
      available: true
      reason: Passed
      message: all checks passed
      service: {namespace: kube-system, name: metrics-server, port: 443}
      service_exists: true
      endpoints: [{ip: 10.233.65.4, port: 10250, ready: true, node: w1}]
      insecure_skip_tls_verify: false
      ca_bundle:
        present: true
        valid_pem: true
        message: ""
        subjects: ["CN=metrics-server-ca"]
        not_after: "2036-02-27T10:00:00Z"
        fingerprints_sha256: [6d1c3c2f0a4e6f0f7bd7b3f2c1d53a9d1c64a0e1d8a4f5be0f3f27f2f1e7c9aa]
servers:
  description: What each API server answers, one entry for each server and APIService.
  returned: success
  type: list
  elements: dict
  contains:
    server:
      description: The URL of the API server.
      type: str
    name:
      description: The APIService.
      type: str
    reachable:
      description: Whether the API server answers at all.
      type: bool
    ready:
      description: Whether its C(/readyz) is 200.
      type: bool
    statuses:
      description: The HTTP status of each request, null for one without an answer.
      type: list
      elements: int
    ok:
      description: Whether the server is ready, all requests were answered with 200, and its gauge is not 1.
      type: bool
    message:
      description: What is wrong, or an empty string.
      type: str
    seconds:
      description: What the slowest request took.
      type: float
    aggregator_unavailable:
      description: The server's own gauge, V(0) or V(1), or null when it could not be read or there is none.
      type: int
    failures:
      description: The server's count of failed checks since its start, by reason.
      type: dict
  sample:
    - server: https://192.0.2.11:6443
      name: v1beta1.metrics.k8s.io
      reachable: true
      ready: true
      statuses: [200, 200, 200]
      ok: true
      message: ""
      seconds: 0.004
      aggregator_unavailable: 0
      failures: {MissingEndpoints: 2}
unreadable:
  description:
    - The APIServices whose objects the user of the kubeconfig may not read, with the answer. The servers are asked all
      the same. With O(wait) that is a failure.
  returned: success
  type: dict
  sample: {}
ok:
  description: Whether every APIService exists, is available and is served by every server.
  returned: success
  type: bool
  sample: true
elapsed:
  description: Seconds spent.
  returned: success
  type: float
  sample: 0.8
"""

import time
import typing as t
from concurrent.futures import ThreadPoolExecutor

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.api import apiservices, kube
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.api.wait import (
    WAIT_ARGUMENTS,
    Observation,
    check_wait_arguments,
    wait_until,
)
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.pki import certificates as certs

APISERVICE_PATH = "/apis/apiregistration.k8s.io/v1/apiservices/"
SLICES_PATH = "/apis/discovery.k8s.io/v1/namespaces/%s/endpointslices"
ATTEMPT_INTERVAL = 0.2
MAX_PARALLEL = 16


def get_or_none(api: kube.Api, path: str) -> t.Optional[t.Dict[str, t.Any]]:
    try:
        return api.get(path)[0]
    except kube.KubeError as exc:
        if exc.status == 404:
            return None
        raise


def describe(api: kube.Api, name: str) -> t.Dict[str, t.Any]:
    """An APIService with what stands behind it, as the objects say."""
    obj = get_or_none(api, APISERVICE_PATH + name)
    summary = apiservices.summarize(name, obj)
    summary["ca_bundle"] = certs.describe_bundle(((obj or {}).get("spec") or {}).get("caBundle"))
    summary["service_exists"] = None
    summary["endpoints"] = []
    service = summary["service"]
    if service:
        found = get_or_none(api, "/api/v1/namespaces/%(namespace)s/services/%(name)s" % service)
        port = apiservices.port_name(found, service["port"])
        summary["service_exists"] = port is not None
        if port is not None:
            slices, unused_date = api.list(
                SLICES_PATH % service["namespace"],
                query={"labelSelector": "kubernetes.io/service-name=" + service["name"]},
            )
            summary["endpoints"] = apiservices.endpoints_of(slices, port)
    return summary


def other_versions(api: kube.Api, paths: t.Mapping[str, str]) -> t.Dict[str, str]:
    """The paths of every registered version of the groups that these APIServices belong to, by name."""
    groups = {name.partition(".")[2] for name in paths}
    found = {}
    items, unused_date = api.list(APISERVICE_PATH.rstrip("/"))
    for item in items:
        name = str((item.get("metadata") or {}).get("name") or "")
        path = apiservices.default_path(name)
        if path is not None and name.partition(".")[2] in groups:
            found[name] = path
    return dict(sorted(found.items()))


class Asked(t.NamedTuple):
    """What one API server makes of each APIService, and what makes it useless to ask again."""

    entries: t.List[t.Dict[str, t.Any]]
    hopeless: t.Optional[kube.KubeError]


def ask_server(api: kube.Api, server: str, paths: t.Mapping[str, str], attempts: int) -> Asked:
    """Ask one API server for each APIService."""
    entries = {
        name: {
            "server": server,
            "name": name,
            "reachable": False,
            "ready": False,
            "statuses": [],
            "ok": False,
            "message": "",
            "seconds": None,
            "aggregator_unavailable": None,
            "failures": {},
        }
        for name in paths
    }
    try:
        ready = api.request("GET", "/readyz", server=server)
    except kube.KubeError as exc:
        for entry in entries.values():
            entry["message"] = str(exc).rstrip(".")
        return Asked(list(entries.values()), exc if exc.final else None)

    def ask(name: str) -> None:
        entry = entries[name]
        entry["reachable"] = True
        entry["ready"] = ready.status == 200
        entry["message"] = request_repeatedly(api, server, paths[name], attempts, entry)
        if not entry["ready"]:
            entry["message"] = "is not ready (/readyz answers %d)" % ready.status

    # Side by side, so that several that hang cost one timeout together.
    with ThreadPoolExecutor(max_workers=min(MAX_PARALLEL, len(entries))) as pool:
        list(pool.map(ask, entries))
    read_unavailability(api, server, entries)
    for entry in entries.values():
        if not entry["message"] and entry["aggregator_unavailable"]:
            entry["message"] = "answers, but holds it to be unavailable (%s is 1)" % apiservices.GAUGE
        entry["ok"] = not entry["message"]
    return Asked(list(entries.values()), None)


def request_repeatedly(api: kube.Api, server: str, path: str, attempts: int, entry: t.Dict[str, t.Any]) -> str:
    """Ask several times and note each answer. Returns what went wrong last, or an empty string."""
    fault = ""
    slowest = 0.0
    for attempt in range(attempts):
        if attempt:
            time.sleep(ATTEMPT_INTERVAL)
        started = time.monotonic()
        try:
            answer = api.request("GET", path, server=server)
        except kube.KubeError as exc:
            entry["statuses"].append(None)
            slowest = max(slowest, time.monotonic() - started)
            fault = "request for %s: %s" % (path, str(exc).rstrip("."))
            if exc.reason == "Timeout":
                break
            continue
        slowest = max(slowest, time.monotonic() - started)
        entry["statuses"].append(answer.status)
        if answer.status != 200:
            reason, message = kube.status_message(answer.body)
            fault = "answers %d to %s: %s" % (answer.status, path, (message or reason or "no text").rstrip("."))
    entry["seconds"] = round(slowest, 3)
    return fault


def read_unavailability(api: kube.Api, server: str, entries: t.Dict[str, t.Dict[str, t.Any]]) -> None:
    """Take the gauges from the server's metrics. They are a second witness; without them the requests have to do."""
    try:
        found = apiservices.parse_unavailability(api.lines("/metrics", server=server), entries)
    except kube.KubeError:
        return
    for name, values in found.items():
        entries[name]["aggregator_unavailable"] = values["unavailable"]
        entries[name]["failures"] = values["failures"]


class Looker:
    def __init__(
        self, api: kube.Api, paths: t.Dict[str, str], servers: t.List[str], attempts: int, all_versions: bool
    ) -> None:
        self.api = api
        self.named = paths
        self.paths = paths
        self.all_versions = all_versions
        self.servers = servers
        self.attempts = attempts
        self.apiservices: t.List[t.Dict[str, t.Any]] = []
        self.unreadable: t.Dict[str, str] = {}
        self.entries: t.List[t.Dict[str, t.Any]] = []
        self.hopeless: t.Optional[kube.KubeError] = None

    def look(self, *, tolerant: bool = True) -> Observation:
        self.read_objects(tolerant)
        # Servers are asked side by side, so that those that hang cost one timeout together.
        with ThreadPoolExecutor(max_workers=min(MAX_PARALLEL, len(self.servers))) as pool:
            answers = list(
                pool.map(lambda server: ask_server(self.api, server, self.paths, self.attempts), self.servers)
            )
        self.entries = [entry for answer in answers for entry in answer.entries]
        self.hopeless = next((answer.hopeless for answer in answers if answer.hopeless), None)
        faults = [fault for summary in self.apiservices for fault in apiservices.verdict(summary, self.entries)]
        faults += ["%s cannot be read: %s" % (name, why.rstrip(".")) for name, why in self.unreadable.items()]
        return Observation(not faults, self.state(), "; ".join(faults))

    def read_objects(self, tolerant: bool) -> None:
        """What the objects say, as far as the user may read them."""
        self.paths, self.apiservices, self.unreadable = dict(self.named), [], {}
        try:
            if self.all_versions:
                self.paths.update(other_versions(self.api, self.named))
        except kube.KubeError as exc:
            # Then only what is asked for by name is known.
            if not tolerant or exc.status != 403:
                raise
        for name in self.paths:
            try:
                self.apiservices.append(describe(self.api, name))
            except kube.KubeError as exc:
                if not tolerant or exc.status != 403:
                    raise
                self.unreadable[name] = exc.message

    def patient_look(self) -> Observation:
        """A look for which a server that is away is a state to wait out."""
        try:
            observation = self.look(tolerant=False)
        except kube.KubeError as exc:
            if self.api.is_final(exc):
                raise
            return Observation(False, self.state(), str(exc).rstrip("."))
        if self.hopeless:
            raise self.hopeless
        return observation

    def state(self) -> t.Dict[str, t.Any]:
        return {"apiservices": self.apiservices, "servers": self.entries, "unreadable": self.unreadable}


def check_arguments(params: t.Mapping[str, t.Any]) -> t.Dict[str, str]:
    """The path to ask for by APIService. Raises ValueError with a sentence."""
    complaint = check_wait_arguments(params)
    if complaint:
        raise ValueError(complaint)
    if params["attempts"] < 1:
        raise ValueError("attempts is %d; give at least 1." % params["attempts"])
    if not params["name"]:
        raise ValueError("name is empty; give at least one APIService, for example v1beta1.metrics.k8s.io.")
    if params["request_path"] is not None:
        if len(params["name"]) != 1:
            raise ValueError("request_path goes with a single name; leave one of them out.")
        if params["all_versions"]:
            raise ValueError("request_path and all_versions exclude each other; leave one of them out.")
        if not params["request_path"].startswith("/"):
            raise ValueError("request_path is %r and has to start with a slash." % params["request_path"])
        return {params["name"][0]: params["request_path"]}
    paths = {}
    for name in params["name"]:
        path = apiservices.default_path(name)
        if path is None or "/" in name:
            raise ValueError("%r names no APIService; they look like v1beta1.metrics.k8s.io." % name)
        paths[name] = path
    return paths


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec={
            **kube.API_ARGUMENTS,
            **WAIT_ARGUMENTS,
            "name": {"type": "list", "elements": "str", "default": ["v1beta1.metrics.k8s.io"]},
            "all_versions": {"type": "bool", "default": False},
            "servers": {"type": "list", "elements": "str"},
            "request_path": {"type": "str"},
            "attempts": {"type": "int", "default": 3},
        },
        supports_check_mode=True,
    )
    params = module.params
    if kube.KUBERNETES_IMPORT_ERROR:
        module.fail_json(msg=missing_required_lib("kubernetes"), exception=kube.KUBERNETES_IMPORT_ERROR)
    if certs.CRYPTOGRAPHY_IMPORT_ERROR:
        module.fail_json(msg=missing_required_lib("cryptography"), exception=certs.CRYPTOGRAPHY_IMPORT_ERROR)
    started = time.monotonic()
    try:
        paths = check_arguments(params)
        api = kube.Api.connect(
            kubeconfig=params["kubeconfig"], context=params["context"], request_timeout=params["request_timeout"]
        )
        servers = [kube.normalize_server(server) for server in params["servers"] or ()] or [api.server]
        looker = Looker(api, paths, list(dict.fromkeys(servers)), params["attempts"], params["all_versions"])
        if params["wait"]:
            waited = wait_until(looker.patient_look, timeout=params["wait_timeout"], sleep=params["wait_sleep"])
            observation = waited.observation
            if not observation.done:
                module.fail_json(
                    msg="Not served by every API server after %d s: %s." % (waited.elapsed, observation.summary),
                    last_observed=observation.state,
                    elapsed=round(time.monotonic() - started, 1),
                )
        else:
            observation = looker.look()
    except (kube.KubeError, ValueError) as exc:
        module.fail_json(msg=str(exc))
    module.exit_json(changed=False, ok=observation.done, elapsed=round(time.monotonic() - started, 1), **looker.state())


if __name__ == "__main__":
    main()
