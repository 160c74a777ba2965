#!/usr/bin/python
# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: kubelet_csr
short_description: Approve kubelet serving certificate requests that pass every check
version_added: 0.1.0
author:
  - The kubemetrics.aggregation maintainers (@kubemetrics)
description:
  - Nothing in Kubernetes approves the serving certificates that kubelets ask for, and approving all of them would
    give any node a certificate for any address. This module approves those that can be shown to be right, and leaves
    or denies the rest with the reason.
  - A request is approved only if its signer is C(kubernetes.io/kubelet-serving); it was sent by C(system:node:NAME)
    in group C(system:nodes); its subject is exactly C(O=system:nodes,CN=system:node:NAME); its usages are C(server
    auth), C(digital signature) and at most C(key encipherment) beside; it names IPs and DNS names only, at least one,
    each of which belongs to that node and to no other; and there is such a node, by O(nodes) or by its Node object.
  - The approver that the role C(metrics_server) can run in the cluster has the same rules, without an inventory.
  - Addresses that can never be a node's are refused whoever lists them - loopback, the C(kubernetes) Service, names of
    services, wildcards.
  - An address that only a Node object states has to be outside of O(service_cidrs), and for a node that is no control
    plane it has to be none by which clients know the API servers - none that their certificate, the kubeconfig or
    O(control_plane_addresses) names. A load balancer's address is one of these.
  - Of several pending requests of one node only the newest is approved, because a kubelet that asks again makes a new
    key. The older ones are left, and the cluster removes them after a day.
extends_documentation_fragment:
  - kubemetrics.aggregation.api
  - kubemetrics.aggregation.wait
  - kubemetrics.aggregation.attributes
options:
  nodes:
    description:
      - The nodes whose requests may be approved, each with the addresses (IPs and DNS names) that it may have beside
        its own name.
      - Without it, every node of the cluster may be approved by what its Node object states.
      - An address listed here for one node is refused to all others.
    type: dict
  other_nodes:
    description:
      - Nodes that are none of this call's business, each with its addresses, which are refused to those of O(nodes).
        What O(nodes) says of the same node wins.
    type: dict
  use_node_addresses:
    description:
      - Whether the addresses in the status of the Node object count as well.
      - A kubelet writes that status itself. Switch this off and list every address in O(nodes) where nodes are not
        trusted to name their own addresses.
    type: bool
    default: true
  service_cidrs:
    description:
      - The networks of Services. No address in them is taken from a Node object.
    type: list
    elements: str
    default: []
  control_plane_addresses:
    description:
      - Further addresses and names of the API servers, such as those of a load balancer or a virtual IP. The
        certificate of the API server and the kubeconfig name most of them.
    type: list
    elements: str
    default: []
  control_plane_nodes:
    description:
      - Nodes that are control planes although no label says so.
    type: list
    elements: str
    default: []
  state:
    description:
      - The state of the requests that pass.
    type: str
    choices: [approved]
    default: approved
  deny_invalid:
    description:
      - Whether to deny requests that fail a check, instead of leaving them pending.
      - Requests of nodes that are not in O(nodes) are never denied.
    type: bool
    default: false
  issued_after:
    description:
      - With O(wait), only certificates count that were asked for at or after this time (RFC 3339), for example the
        time at which the kubelets were restarted.
    type: str
  wait:
    description:
      - Whether to check repeatedly until each node of O(nodes) has a certificate issued. After O(wait_timeout) the
        module fails with the last observed state, and for a request that was denied or could not be signed with what
        its condition says of that.
      - The cluster removes a request an hour after it was issued. Wait only where a new certificate is expected.
      - In check mode there is nothing to wait for, and the module checks once.
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
    details: Unless a kubelet has asked for another certificate in between.
requirements:
  - cryptography (Python library) on the machine that the module runs on
seealso:
  - module: kubemetrics.aggregation.component_info
  - name: TLS bootstrapping of kubelets
    description: Kubernetes' own description of serving certificates of kubelets.
    link: https://kubernetes.io/docs/reference/access-authn-authz/kubelet-tls-bootstrapping/#certificate-rotation
"""

EXAMPLES = r"""
- name: Approve what the nodes of the inventory ask for, by the addresses of the inventory alone
  kubemetrics.aggregation.kubelet_csr:
    kubeconfig: "{{ kubeconfig_path }}"
    nodes:
      cp1: [192.0.2.11]
      w1: [192.0.2.21, w1.example.com]
    use_node_addresses: false
    issued_after: "{{ restarted_at }}"
    wait: true
    wait_sleep: 1
    wait_timeout: 60
  delegate_to: localhost
  run_once: true

- name: See what would be approved in the whole cluster, and why the rest would not
  kubemetrics.aggregation.kubelet_csr:
    kubeconfig: ~/.kube/config
  check_mode: true
  delegate_to: localhost
  register: requests

- name: Deny what fails a check
  kubemetrics.aggregation.kubelet_csr:
    kubeconfig: ~/.kube/config
    deny_invalid: true
  delegate_to: localhost
"""

RETURN = r"""
approved:
  description: The requests that were approved, or would be in check mode.
  returned: always
  type: list
  elements: dict
  contains:
    name:
      description: Name of the request.
      type: str
    node:
      description: The node that sent it.
      type: str
    addresses:
      description: What the certificate is for.
      type: list
      elements: str
    created:
      description: When it was sent.
      type: str
  sample:
    - name: csr-7xk2p
      node: w1
      addresses: [w1, 192.0.2.21]
      created: "2026-03-01T10:00:00Z"
denied:
  description: The requests that were denied, or would be in check mode.
  returned: always
  type: list
  elements: dict
  contains:
    name:
      description: Name of the request.
      type: str
    node:
      description: The node that sent it, or an empty string when the sender is no node.
      type: str
    reason:
      description: The check that failed.
      type: str
  sample: []
left:
  description: The requests that are left pending.
  returned: always
  type: list
  elements: dict
  contains:
    name:
      description: Name of the request.
      type: str
    node:
      description: The node that sent it, or an empty string when the sender is no node.
      type: str
    reason:
      description: The check that failed, or why nobody needs it.
      type: str
  sample:
    - name: csr-q9v4d
      node: w2
      reason: 192.0.2.11 also belongs to node cp1
nodes:
  description: How far the request of each node of O(nodes) is.
  returned: always
  type: dict
  contains:
    state:
      description: V(issued), V(approved) (no certificate yet), V(pending), V(denied), V(failed) or V(none).
      type: str
    csr:
      description: Name of the request, or null.
      type: str
    created:
      description: When it was sent, or null.
      type: str
  sample:
    w1: {state: issued, csr: csr-7xk2p, created: "2026-03-01T10:00:00Z"}
server_time:
  description:
    - The clock of the API server (RFC 3339), which writes the creation times of requests. Take it from a run before the
      kubelets are restarted as O(issued_after) of a run after that, since the clocks of other machines may differ.
  returned: success
  type: str
  sample: "2026-03-01T10:00:02Z"
elapsed:
  description: Seconds spent.
  returned: always
  type: float
  sample: 1.3
"""

import datetime
import time
import typing as t
from urllib.parse import urlsplit

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.api import kube, kubelet_csrs
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.api.wait import (
    WAIT_ARGUMENTS,
    Observation,
    check_wait_arguments,
    wait_until,
)

CSR_PATH = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
APPROVED_BECAUSE = "Sender, usages and every address were checked against the inventory and the cluster's nodes."


def parse_nodes(
    value: t.Optional[t.Mapping[str, t.Any]], option: str = "nodes"
) -> t.Optional[t.Dict[str, t.List[str]]]:
    """The nodes option in one shape. Raises ValueError with a sentence."""
    if value is None:
        return None
    nodes = {}
    for name, addresses in value.items():
        given = [] if addresses is None else [addresses] if isinstance(addresses, str) else addresses
        if not isinstance(given, list) or not all(isinstance(address, str) and address.strip() for address in given):
            raise ValueError("%s.%s has to be a list of IPs and DNS names, for example [192.0.2.21]." % (option, name))
        nodes[str(name)] = given
    return nodes


class Approver:
    """Reads the requests, decides, acts, and remembers what was done over several checks."""

    def __init__(
        self,
        api: kube.Api,
        *,
        nodes: t.Optional[t.Dict[str, t.List[str]]],
        other_nodes: t.Optional[t.Dict[str, t.List[str]]] = None,
        use_node_addresses: bool,
        deny_invalid: bool,
        issued_after: str,
        dry_run: bool,
        service_cidrs: t.Sequence[str] = (),
        control_plane_addresses: t.Sequence[str] = (),
        control_plane_nodes: t.Sequence[str] = (),
    ) -> None:
        self.api = api
        self.nodes = nodes
        self.other_nodes = other_nodes or {}
        self.use_node_addresses = use_node_addresses
        self.deny_invalid = deny_invalid
        self.issued_after = issued_after
        self.dry_run = dry_run
        self.service_cidrs = service_cidrs
        self.control_plane_addresses = control_plane_addresses
        self.control_plane_nodes = control_plane_nodes
        self.approved: t.Dict[str, t.Dict[str, t.Any]] = {}
        self.denied: t.Dict[str, t.Dict[str, t.Any]] = {}
        self.left: t.List[t.Dict[str, t.Any]] = []
        self.progress: t.Dict[str, t.Dict[str, t.Any]] = {}
        #: Name of a request -> why it was denied or failed.
        self.refusals: t.Dict[str, str] = {}
        self.server_time: t.Optional[str] = None
        self.certificate_names: t.Optional[t.List[str]] = None

    def owners(self) -> kubelet_csrs.Owners:
        api_hosts = [urlsplit(self.api.server).hostname or "", *self.control_plane_addresses]
        control_planes = list(self.control_plane_nodes)
        if self.certificate_names is None:
            self.certificate_names = self.api.certificate_names()
        api_hosts += self.certificate_names
        nodes = self.api.list("/api/v1/nodes")[0]
        # A kubelet cannot label its own node so.
        control_planes += [
            str((node.get("metadata") or {}).get("name")) for node in nodes if kubelet_csrs.is_control_plane(node)
        ]
        service = self.api.get("/api/v1/namespaces/default/services/kubernetes")[0]
        spec = service.get("spec") or {}
        service_ips = list(spec.get("clusterIPs") or ()) + [spec.get("clusterIP") or ""]
        return kubelet_csrs.Owners(
            {**self.other_nodes, **(self.nodes or {})},
            nodes if self.use_node_addresses else (),
            service_ips=[kubelet_csrs.normalize(ip) for ip in service_ips if ip],
            service_cidrs=self.service_cidrs,
            api_hosts=api_hosts,
            control_planes=control_planes,
        )

    def look(self) -> Observation:
        """One round: list, decide, act, and see how far each node is."""
        csrs = self._list()
        decision = kubelet_csrs.decide(csrs, self.owners(), self.nodes)
        by_name = {csr["metadata"]["name"]: csr for csr in csrs}
        self.left = [
            {"name": request.name, "node": request.node, "reason": reason} for request, reason in decision.leave
        ]
        acted = False
        for request in decision.approve:
            if self._settle(by_name[request.name], approve=True, message=APPROVED_BECAUSE):
                acted = True
                self.approved[request.name] = {
                    "name": request.name,
                    "node": request.node,
                    "addresses": request.addresses,
                    "created": request.created,
                }
        for request in decision.refuse:
            entry = {"name": request.name, "node": request.node, "reason": request.fault}
            if not self.deny_invalid:
                self.left.append(entry)
            elif self._settle(by_name[request.name], approve=False, message="Refused because %s." % request.fault):
                acted = True
                self.denied[request.name] = entry
        if acted and not self.dry_run:
            csrs = self._list()
        self.progress = {
            name: kubelet_csrs.progress(csrs, name, self.issued_after) for name in sorted(self.nodes or {})
        }
        self.refusals = {csr["metadata"]["name"]: kubelet_csrs.why_refused(csr) for csr in csrs}
        waiting = {name: state["state"] for name, state in self.progress.items() if state["state"] != "issued"}
        return Observation(not waiting, self.progress, self._words(waiting))

    def _words(self, waiting: t.Mapping[str, str]) -> str:
        reasons = {entry["name"]: entry["reason"] for entry in self.left}
        parts = []
        for name, state in list(waiting.items())[:5]:
            words = {
                "none": "has sent no request (is serverTLSBootstrap on, and was the kubelet restarted?)",
                "approved": "is approved but has no certificate (has kube-controller-manager got the CA key?)",
            }.get(state, "is " + state)
            reason = reasons.get(self.progress[name]["csr"])
            if reason:
                words += " because " + reason
            words += refused_in_words(self.refusals.get(self.progress[name]["csr"], ""))
            parts.append("%s %s" % (name, words))
        if len(waiting) > 5:
            parts.append("and %d more" % (len(waiting) - 5))
        return "; ".join(parts)

    def _list(self) -> t.List[t.Dict[str, t.Any]]:
        csrs, date = self.api.list(CSR_PATH, query={"fieldSelector": "spec.signerName=" + kubelet_csrs.SIGNER})
        self.server_time = to_seconds(date) or None
        return [csr for csr in csrs if (csr.get("metadata") or {}).get("name")]

    def _settle(self, csr: t.Dict[str, t.Any], *, approve: bool, message: str) -> bool:
        """Approve or deny. False when somebody else was faster; the next look sees what came of it."""
        if self.dry_run:
            return True
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        body = kubelet_csrs.with_condition(csr, approve=approve, message=message, now=now)
        try:
            self.api.send("PUT", "%s/%s/approval" % (CSR_PATH, csr["metadata"]["name"]), body)
        except kube.KubeError as exc:
            if exc.status in (404, 409):
                return False
            raise
        return True

    def result(self) -> t.Dict[str, t.Any]:
        changes = dict.fromkeys(self.approved, "approved")
        changes.update(dict.fromkeys(self.denied, "denied"))
        result: t.Dict[str, t.Any] = {
            "changed": bool(changes),
            "approved": sorted(self.approved.values(), key=lambda entry: (entry["node"], entry["name"])),
            "denied": sorted(self.denied.values(), key=lambda entry: (entry["node"], entry["name"])),
            "left": sorted(self.left, key=lambda entry: (entry["node"], entry["name"])),
            "nodes": self.progress,
            "server_time": self.server_time,
        }
        if changes:
            result["diff"] = {"before": dict.fromkeys(changes, "pending"), "after": changes}
        return result


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec={
            **kube.API_ARGUMENTS,
            **WAIT_ARGUMENTS,
            "nodes": {"type": "dict"},
            "other_nodes": {"type": "dict"},
            "use_node_addresses": {"type": "bool", "default": True},
            "service_cidrs": {"type": "list", "elements": "str", "default": []},
            "control_plane_addresses": {"type": "list", "elements": "str", "default": []},
            "control_plane_nodes": {"type": "list", "elements": "str", "default": []},
            "state": {"type": "str", "choices": ["approved"], "default": "approved"},
            "deny_invalid": {"type": "bool", "default": False},
            "issued_after": {"type": "str"},
        },
        supports_check_mode=True,
    )
    params = module.params
    if kube.KUBERNETES_IMPORT_ERROR:
        module.fail_json(msg=missing_required_lib("kubernetes"), exception=kube.KUBERNETES_IMPORT_ERROR)
    if kubelet_csrs.CRYPTOGRAPHY_IMPORT_ERROR:
        module.fail_json(msg=missing_required_lib("cryptography"), exception=kubelet_csrs.CRYPTOGRAPHY_IMPORT_ERROR)
    complaint = check_wait_arguments(params)
    if complaint:
        module.fail_json(msg=complaint)
    if params["wait"] and not params["nodes"]:
        module.fail_json(msg="wait needs to know whom to wait for; list the nodes in nodes.")
    issued_after = kube.parse_rfc3339(params["issued_after"])
    if params["issued_after"] and issued_after is None:
        module.fail_json(
            msg="issued_after is %r and no RFC 3339 time such as 2026-03-01T10:00:00Z." % params["issued_after"]
        )

    started = time.monotonic()
    waits = params["wait"] and not module.check_mode
    approver: t.Optional[Approver] = None
    try:
        approver = Approver(
            kube.Api.connect(
                kubeconfig=params["kubeconfig"], context=params["context"], request_timeout=params["request_timeout"]
            ),
            nodes=parse_nodes(params["nodes"]),
            other_nodes=parse_nodes(params["other_nodes"], "other_nodes"),
            use_node_addresses=params["use_node_addresses"],
            deny_invalid=params["deny_invalid"],
            issued_after=to_seconds(issued_after),
            dry_run=module.check_mode,
            service_cidrs=params["service_cidrs"],
            control_plane_addresses=params["control_plane_addresses"],
            control_plane_nodes=params["control_plane_nodes"],
        )
        if waits:
            waited = wait_until(
                lambda: patient_look(approver), timeout=params["wait_timeout"], sleep=params["wait_sleep"]
            )
            if not waited.observation.done:
                module.fail_json(
                    msg="Not every kubelet has a serving certificate after %d s: %s."
                    % (waited.elapsed, waited.observation.summary),
                    last_observed=waited.observation.state,
                    elapsed=round(time.monotonic() - started, 1),
                    **approver.result(),
                )
        else:
            approver.look()
    except (kube.KubeError, ValueError) as exc:
        module.fail_json(msg=str(exc), **(approver.result() if approver else {}))
    module.exit_json(elapsed=round(time.monotonic() - started, 1), **approver.result())


def refused_in_words(why: str) -> str:
    """What follows `is denied`: who said why, and what to do where it was the approver that kubespray installs."""
    if kubelet_csrs.KUBESPRAYS_APPROVER not in why:
        return " (%s)" % why if why else ""
    return (
        " (%s); on clusters of kubespray set kubelet_csr_approver_values to {bypassDnsResolution: true} and run "
        "cluster.yml, or set kubelet_csr_approver_enabled to false and uninstall its Helm release %s"
        % (why, kubelet_csrs.KUBESPRAYS_APPROVER)
    )


def patient_look(approver: Approver) -> Observation:
    """A look for which a server that is away is a state to wait out."""
    try:
        return approver.look()
    except kube.KubeError as exc:
        if approver.api.is_final(exc):
            raise
        return Observation(False, approver.progress, str(exc).rstrip("."))


def to_seconds(moment: t.Optional[datetime.datetime]) -> str:
    """A time as the API writes creation times, so that both compare as text."""
    return moment.astimezone(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ") if moment else ""


if __name__ == "__main__":
    main()
