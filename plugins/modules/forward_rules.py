#!/usr/bin/python
# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: forward_rules
short_description: Accept pod traffic where the policy of FORWARD drops it
version_added: 0.1.0
author:
  - The kubemetrics.aggregation maintainers (@kubemetrics)
description:
  - Follows new connections between pods, and between pods and O(peers), through the FORWARD chains of both iptables
    backends, by the interfaces that they take on this host - the bridge that pods are behind is known by its address,
    its routes and the configuration of CNI, whatever its name. Where the policy of a chain drops them, as it does
    after Docker has set it to C(DROP), accepts them and keeps it so over restarts of Docker and of the host. A host
    that forwards them is left as it is.
  - Rules are only appended, so that they replace the policy and nothing else. NetworkPolicies and other
    rules before them decide first. A rule that drops or rejects the traffic is intended by its author; it is
    reported in RV(advice), and stays.
  - Nothing that others made is removed. All rules are saved before a change, the files are a recorded change that
    M(kubemetrics.aggregation.recorded_change) rolls back, and a timer on the host restores everything after
    O(revert_after) seconds, unless it is stopped.
extends_documentation_fragment:
  - kubemetrics.aggregation.attributes
  - kubemetrics.aggregation.host
  - kubemetrics.aggregation.records
options:
  state:
    description:
      - V(present) accepts the traffic where that is needed. V(absent) removes what this module made.
      - A policy that this module set to C(ACCEPT) is set to C(DROP) again only where C(docker.service) is still there.
      - V(synced) makes the kernel follow the files, after M(kubemetrics.aggregation.recorded_change) has replaced or
        removed them.
    type: str
    choices: [present, absent, synced]
    default: present
  mode:
    description:
      - V(rules) accepts connections from and to O(pod_cidrs) in a chain of its own, to which FORWARD jumps in the end,
        and a systemd unit keeps it so.
      - V(policy) sets the policy to C(ACCEPT) by a systemd unit, for all traffic. V(docker_dropin) does so by a drop-in
        of C(docker.service).
      - V(auto) is V(rules) where it is certain that traffic is dropped and no firewall service is in charge; what is
        set up already is kept in its mode. The other modes are taken at their word, and also act where a rule that
        depends on interfaces or marks may accept the traffic after all.
    type: str
    choices: [auto, rules, docker_dropin, policy]
    default: auto
  pod_cidrs:
    description:
      - The networks of pods. Needed for O(state=present).
    type: list
    elements: str
    default: []
  peers:
    description:
      - Addresses outside of the pod networks that pods talk to, such as those of the control planes.
    type: list
    elements: str
    default: []
  restart_docker:
    description:
      - Whether to restart Docker for a new drop-in. Without it, the drop-in counts from the next start of Docker, and
        its effect is brought about at once by a command.
    type: bool
    default: false
  revert_after:
    description:
      - Seconds after which a timer on the host rolls a change back. Stop C(kubemetrics-forward-revert.timer) over a
        fresh connection to keep the change. With V(0) there is no timer.
    type: int
    default: 0
  change_id:
    description:
      - With O(state=synced), the id of the change that replaced the files.
    type: str
  timeout:
    description:
      - Seconds for each command.
    type: float
    default: 30
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
notes:
  - Needs systemd where something has to be changed.
  - The legacy tables of iptables are read only where the kernel has them already.
seealso:
  - module: kubemetrics.aggregation.host_network_info
  - module: kubemetrics.aggregation.recorded_change
"""

EXAMPLES = r"""
- name: Accept pod traffic that the policy of FORWARD would drop
  kubemetrics.aggregation.forward_rules:
    pod_cidrs: [10.233.64.0/18]
    peers: [192.0.2.11]
  become: true

- name: Remove what the module made
  kubemetrics.aggregation.forward_rules:
    state: absent
  become: true
"""

RETURN = r"""
mode:
  description: The mode that is set up on the host, null for none.
  returned: success
  type: str
  sample: rules
backends:
  description: The backends in which traffic is accepted by it, of V(nft), V(legacy), V(nft6) and V(legacy6).
  returned: success
  type: list
  elements: str
  sample: [nft]
dropped:
  description: The backends whose policy certainly drops pod traffic, without the rules of this module.
  returned: success
  type: list
  elements: str
  sample: [nft]
commands:
  description: The commands of iptables that were or would be run, without the program.
  returned: success
  type: list
  elements: str
  sample: ["nft: -A FORWARD -j KUBEMETRICS-FORWARD"]
advice:
  description: What stands in the way that is not this module's to change, with what to do.
  returned: success
  type: list
  elements: str
  sample: []
saved:
  description: Files on the host with all rules as they were before the change.
  returned: success
  type: list
  elements: str
  sample: [/var/lib/kubemetrics/iptables/20260301T100500Z-nft]
change_id:
  description: The id of the recorded change, null when no file was changed.
  returned: success
  type: str
  sample: 20260301T100500Z-1f0c9a3e
revert_timer:
  description: The timer that rolls the change back unless it is stopped, null when there is none.
  returned: success
  type: str
  sample: kubemetrics-forward-revert.timer
"""

import os
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.host import files as host_files
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.host import forwarding_change, network
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.host.forwarding_host import ForwardError, Host


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["present", "absent", "synced"], "default": "present"},
            "mode": {"type": "str", "choices": ["auto", "rules", "docker_dropin", "policy"], "default": "auto"},
            "pod_cidrs": {"type": "list", "elements": "str", "default": []},
            "peers": {"type": "list", "elements": "str", "default": []},
            "restart_docker": {"type": "bool", "default": False},
            "revert_after": {"type": "int", "default": 0},
            "change_id": {"type": "str"},
            "state_dir": {"type": "path", "default": host_files.STATE_DIR},
            "timeout": {"type": "float", "default": 30},
        },
        required_if=[("state", "synced", ("change_id",))],
        supports_check_mode=True,
    )
    params = module.params
    if os.geteuid() != 0:
        module.fail_json(msg="Rules of iptables are for root alone; run the task as root (become: true).")
    if params["state"] == "present" and not params["pod_cidrs"]:
        module.fail_json(
            msg="pod_cidrs is empty, and without the networks of pods nothing can be said of their traffic; give those "
            "of the controller manager's --cluster-cidr, for example [10.233.64.0/18]."
        )
    if not os.path.isabs(params["state_dir"]):
        module.fail_json(msg="state_dir is %r, and has to be an absolute path." % params["state_dir"])
    if params["revert_after"] < 0:
        module.fail_json(msg="revert_after is %d; give seconds, or 0 for no timer." % params["revert_after"])
    try:
        network.parse_networks(params["pod_cidrs"] + params["peers"])
    except ValueError as exc:
        module.fail_json(msg=str(exc))

    host = Host(params["timeout"])
    journal = host_files.Journal(params["state_dir"])
    try:
        result, change, tables = forwarding_change.plan(params, host, journal)
        result["changed"] = change.needed
        if module._diff and change.needed:
            result["diff"] = forwarding_change.diff(change, tables)
        if change.needed and not module.check_mode:
            result.update(forwarding_change.carry_out(change, host, params, tables, journal))
    except (ForwardError, host_files.HostFileError) as exc:
        module.fail_json(msg=str(exc).rstrip(".") + ".")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
