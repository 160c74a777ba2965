#!/usr/bin/python
# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: resource_metrics_info
short_description: Compare metrics.k8s.io with the nodes and pods of the cluster
version_added: 0.1.0
author:
  - The kubemetrics.aggregation maintainers (@kubemetrics)
description:
  - Reports which Ready nodes and which running pods have no metrics, and how old the metrics of the others are,
    through each API server.
  - Ages are taken against the clock of the API server, so that the clock of the controller does not matter.
  - Sends one request for each list, and none for a single node or pod.
  - Can wait until everything that runs has fresh metrics.
extends_documentation_fragment:
  - kubemetrics.aggregation.api
  - kubemetrics.aggregation.wait
  - kubemetrics.aggregation.attributes.info
options:
  servers:
    description:
      - The API servers to ask for metrics, as C(https://HOST:PORT). Without it, the server of the kubeconfig.
      - The certificate of each is verified with the CA of the kubeconfig and has to be valid for the host given here.
      - What the cluster runs is always asked of the server of the kubeconfig.
    type: list
    elements: str
  version:
    description:
      - The version of the metrics API. V(auto) takes V(v1beta1) where it is served, else the version that is.
    type: str
    choices: [auto, v1beta1, v1]
    default: auto
  nodes:
    description:
      - Whether to check nodes.
    type: bool
    default: true
  pods:
    description:
      - Whether to check pods.
    type: bool
    default: true
  max_age:
    description:
      - Seconds after which a sample is stale. Give a little more than twice the resolution of the metrics server for
        a strict check.
    type: int
    default: 150
  grace:
    description:
      - Seconds that a node has to be Ready, and all containers of a pod have to run, before metrics are expected of
        it; and of a pod only where they are of its node. A rate needs two samples.
    type: int
    default: 60
  patience:
    description:
      - Seconds in which it looks again, every five, where every server answers and metrics of nodes or pods are missing
        or too old. So it is for a moment after the metrics server has reached a kubelet again, since a rate takes two
        samples.
      - O(wait) waits for everything, and needs no patience.
    type: int
    default: 0
seealso:
  - module: kubemetrics.aggregation.apiservice_info
"""

EXAMPLES = r"""
- name: Wait until every node and every running pod has fresh metrics, through every control plane
  kubemetrics.aggregation.resource_metrics_info:
    kubeconfig: "{{ kubeconfig_path }}"
    servers:
      - https://192.0.2.11:6443
      - https://192.0.2.12:6443
    max_age: 45
    wait: true
    wait_sleep: 2
  delegate_to: localhost
  run_once: true

- name: See which nodes lack metrics
  kubemetrics.aggregation.resource_metrics_info:
    pods: false
  delegate_to: localhost
  register: metrics

- name: Name them
  ansible.builtin.debug:
    msg: "No metrics of {{ metrics.servers[0].nodes.missing | join(', ') }}"
  when: metrics.servers[0].nodes.missing | length > 0
"""

RETURN = r"""
version:
  description: The version of the metrics API that was asked for.
  returned: success
  type: str
  sample: v1beta1
servers:
  description: What each API server says.
  returned: success
  type: list
  elements: dict
  contains:
    server:
      description: The URL of the API server.
      type: str
    ok:
      description: Whether everything that was checked has recent metrics.
      type: bool
    message:
      description: What is wrong, or an empty string.
      type: str
    nodes:
      description: Nodes against their metrics, or null when they were not checked or there was no answer.
      type: dict
      contains:
        expected:
          description: How many must have metrics.
          type: int
        with_metrics:
          description: How many of these have.
          type: int
        missing:
          description: Those that have not.
          type: list
          elements: str
        stale:
          description: Those whose sample is too old, or in the future, with RV(ignore:name) and RV(ignore:age).
          type: list
          elements: dict
        newest_age:
          description: Age of the newest sample in seconds, or null.
          type: float
        oldest_age:
          description: Age of the oldest sample in seconds, or null.
          type: float
        usage:
          description:
            - What each node uses, as RV(ignore:name), RV(ignore:cpu_millicores) and RV(ignore:memory_mib), in the
              units of C(kubectl top).
          type: list
          elements: dict
    pods:
      description: The same for pods, which are named C(NAMESPACE/NAME), without RV(servers[].nodes.usage).
      type: dict
  sample:
    - server: https://192.0.2.11:6443
      ok: false
      message: 1 of 12 pods without metrics (default/web-0)
      nodes:
        expected: 2
        with_metrics: 2
        missing: []
        stale: []
        newest_age: 4.2
        oldest_age: 9.8
        usage:
          - {name: cp1, cpu_millicores: 127, memory_mib: 585}
          - {name: w1, cpu_millicores: 26, memory_mib: 163}
      pods: {expected: 12, with_metrics: 11, missing: [default/web-0], stale: [], newest_age: 4.2, oldest_age: 14.1}
unreadable:
  description:
    - Why it is not known which nodes and pods have to have metrics, when the user of the kubeconfig may not read them,
      or an empty text. Then none counts as missing. With O(wait) that is a failure.
  returned: success
  type: str
  sample: ""
ok:
  description: Whether that is so for every server.
  returned: success
  type: bool
  sample: false
elapsed:
  description: Seconds spent.
  returned: success
  type: float
  sample: 0.3
"""

import datetime
import time
import typing as t
from concurrent.futures import ThreadPoolExecutor

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.api import kube, resource_metrics
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.api.wait import (
    WAIT_ARGUMENTS,
    Observation,
    check_wait_arguments,
    wait_until,
)

MAX_PARALLEL = 16
#: Seconds between two requests for metrics of pods.
PAUSE = 5.0


class Expected(t.NamedTuple):
    nodes: t.Set[str]
    pods: t.Set[str]


class Looker:
    def __init__(
        self,
        api: kube.Api,
        servers: t.List[str],
        *,
        version: str,
        kinds: t.List[str],
        max_age: float,
        grace: float,
    ) -> None:
        self.api = api
        self.servers = servers
        self.version: t.Optional[str] = None if version == "auto" else version
        self.kinds = kinds
        self.max_age = max_age
        self.grace = grace
        self.entries: t.List[t.Dict[str, t.Any]] = []
        #: Why it is not known what has to have metrics.
        self.unreadable = ""
        #: A server that cannot be trusted: useless to ask again.
        self.hopeless: t.Optional[kube.KubeError] = None

    def find_version(self) -> str:
        """The version that is served. As long as none is, the answer of the moment is not kept."""
        if self.version:
            return self.version
        try:
            group = self.api.get(resource_metrics.GROUP_PATH)[0]
        except kube.KubeError as exc:
            if exc.status != 404:
                raise
            return resource_metrics.PREFERRED_VERSION
        self.version = resource_metrics.choose_version(group)
        return self.version

    def expected_as_far_as_readable(self) -> Expected:
        """A user who may read metrics need not be allowed to read nodes and pods; then none is known to be missing."""
        try:
            return self.expected()
        except kube.KubeError as exc:
            if exc.status != 403:
                raise
            self.unreadable = exc.message
            return Expected(set(), set())

    def expected(self) -> Expected:
        nodes, date = self.api.list("/api/v1/nodes")
        now = date or datetime.datetime.now(datetime.timezone.utc)
        names = resource_metrics.expected_nodes(nodes, now, self.grace)
        pods: t.Set[str] = set()
        if "pods" in self.kinds:
            found, date = self.api.list("/api/v1/pods", query={"fieldSelector": "status.phase=Running"})
            pods = resource_metrics.expected_pods(found, names, date or now, self.grace)
        return Expected(names, pods)

    def ask(self, server: str, version: str, expected: Expected) -> t.Dict[str, t.Any]:
        entry: t.Dict[str, t.Any] = {"server": server, "ok": False, "message": "", "nodes": None, "pods": None}
        faults = []
        for kind in self.kinds:
            path = "%s/%s/%s" % (resource_metrics.GROUP_PATH, version, kind)
            try:
                body, date = self.api.get(path, server=server)
            except kube.KubeError as exc:
                entry["message"] = str(exc).rstrip(".")
                if exc.final:
                    self.hopeless = exc
                return entry
            samples = [item for item in (body or {}).get("items") or () if isinstance(item, dict)]
            now = date or datetime.datetime.now(datetime.timezone.utc)
            entry[kind] = resource_metrics.compare(getattr(expected, kind), samples, now, self.max_age)
            if kind == "nodes":
                entry[kind]["usage"] = resource_metrics.usage_of(samples)
            faults.append(resource_metrics.fault_of(kind, entry[kind]))
        entry["message"] = ", ".join(fault for fault in faults if fault)
        entry["ok"] = not entry["message"]
        return entry

    def look(self, *, tolerant: bool = True) -> Observation:
        version = self.find_version()
        expected = self.expected_as_far_as_readable() if tolerant else self.expected()
        # Servers are asked side by side, so that those that hang cost one timeout together.
        with ThreadPoolExecutor(max_workers=min(MAX_PARALLEL, len(self.servers))) as pool:
            self.entries = list(pool.map(lambda server: self.ask(server, version, expected), self.servers))
        faults = [
            entry["message"] if entry["server"] in entry["message"] else "%(server)s: %(message)s" % entry
            for entry in self.entries
            if not entry["ok"]
        ]
        return Observation(not faults, self.entries, "; ".join(faults))

    def settled_look(self, patience: float) -> Observation:
        """A look, repeated for a while where every server answers and something has no fresh metrics."""
        end = time.monotonic() + patience
        observation = self.look()
        while not observation.done and self.all_answered() and time.monotonic() + PAUSE <= end:
            time.sleep(PAUSE)
            observation = self.look()
        return observation

    def all_answered(self) -> bool:
        return all(entry[kind] is not None for entry in self.entries for kind in self.kinds)

    def patient_look(self) -> Observation:
        """A look for which a server that is away is a state to wait out."""
        try:
            observation = self.look(tolerant=False)
        except kube.KubeError as exc:
            if self.api.is_final(exc):
                raise
            return Observation(False, self.entries, str(exc).rstrip("."))
        if self.hopeless:
            raise self.hopeless
        return observation


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec={
            **kube.API_ARGUMENTS,
            **WAIT_ARGUMENTS,
            "servers": {"type": "list", "elements": "str"},
            "version": {"type": "str", "choices": ["auto", "v1beta1", "v1"], "default": "auto"},
            "nodes": {"type": "bool", "default": True},
            "pods": {"type": "bool", "default": True},
            "max_age": {"type": "int", "default": 150},
            "grace": {"type": "int", "default": 60},
            "patience": {"type": "int", "default": 0},
        },
        supports_check_mode=True,
    )
    params = module.params
    if kube.KUBERNETES_IMPORT_ERROR:
        module.fail_json(msg=missing_required_lib("kubernetes"), exception=kube.KUBERNETES_IMPORT_ERROR)
    complaint = check_wait_arguments(params)
    if complaint:
        module.fail_json(msg=complaint)
    for name, least in (("max_age", 1), ("grace", 0), ("patience", 0)):
        if params[name] < least:
            module.fail_json(msg="%s is %d; give at least %d." % (name, params[name], least))
    kinds = [kind for kind in ("nodes", "pods") if params[kind]]
    if not kinds:
        module.fail_json(msg="nodes and pods are both off; there is nothing to check.")
    started = time.monotonic()
    try:
        api = kube.Api.connect(
            kubeconfig=params["kubeconfig"], context=params["context"], request_timeout=params["request_timeout"]
        )
        servers = [kube.normalize_server(server) for server in params["servers"] or ()] or [api.server]
        looker = Looker(
            api,
            list(dict.fromkeys(servers)),
            version=params["version"],
            kinds=kinds,
            max_age=params["max_age"],
            grace=params["grace"],
        )
        if params["wait"]:
            waited = wait_until(looker.patient_look, timeout=params["wait_timeout"], sleep=params["wait_sleep"])
            observation = waited.observation
            if not observation.done:
                module.fail_json(
                    msg="No fresh metrics of everything after %d s: %s." % (waited.elapsed, observation.summary),
                    last_observed=observation.state,
                    elapsed=round(time.monotonic() - started, 1),
                )
        else:
            observation = looker.settled_look(params["patience"])
    except (kube.KubeError, ValueError) as exc:
        module.fail_json(msg=str(exc))
    module.exit_json(
        changed=False,
        ok=observation.done,
        version=looker.version or resource_metrics.PREFERRED_VERSION,
        servers=looker.entries,
        unreadable=looker.unreadable,
        elapsed=round(time.monotonic() - started, 1),
    )


if __name__ == "__main__":
    main()
