#!/usr/bin/python
# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: component_info
short_description: Show how the Kubernetes components of a host really run
version_added: 0.1.0
author:
  - The kubemetrics.aggregation maintainers (@kubemetrics)
description:
  - Reports the Kubernetes components of the host from the running processes, their command lines, environments and
    control groups, and names the files that define them.
  - The running process counts, not a manifest or a unit that may have been edited since. Components that are not
    running are looked up where they would be defined.
  - One call gathers everything that is to be known of a host, in about a quarter of a second.
  - Processes of clusters that are nested in this host (nodes in containers, hosted control planes in pods) are
    left out.
extends_documentation_fragment:
  - kubemetrics.aggregation.attributes.info
  - kubemetrics.aggregation.host
options:
  components:
    description:
      - The components to report.
    type: list
    elements: str
    choices: [kube-apiserver, kube-controller-manager, kube-scheduler, kube-proxy, kubelet, etcd]
    default: [kube-apiserver, kube-controller-manager, kube-scheduler, kube-proxy, kubelet, etcd]
  gather_subset:
    description:
      - What else to find out, in the same call.
      - V(kubelet_answers) connects to the kubelet as a metrics server does.
      - V(forwarding) reads the packet filters, whether they may be in the way of pod traffic.
      - V(images) lists the images of O(image_repository).
    type: list
    elements: str
    choices: [forwarding, images, kubelet_answers]
    default: [kubelet_answers]
  image_repository:
    description:
      - Name without a tag of the images that V(images) in O(gather_subset) lists. Needed with it.
    type: str
  kubelet_serving_ca_file:
    description:
      - The CA on the host that the kubelet's serving certificate is verified against.
      - Without it, the C(clientCAFile) of the kubelet, and with k3s and RKE2 their own CA for servers.
    type: path
  timeout:
    description:
      - Seconds after which the module gives up and fails.
    type: int
    default: 10
notes:
  - An executable from a container image is asked for its version as an unprivileged user, never as root.
seealso:
  - module: kubemetrics.aggregation.apiservice_info
  - module: kubemetrics.aggregation.kubelet_csr
"""

EXAMPLES = r"""
- name: Discover what runs on each host
  kubemetrics.aggregation.component_info:
  register: host
  become: true

- name: Refuse to go on where the API server has no front proxy
  ansible.builtin.assert:
    that: "'proxy-client-cert-file' in host.components['kube-apiserver'].flags"
    fail_msg: "kube-apiserver on {{ inventory_hostname }} runs without --proxy-client-cert-file."
  when: host.components['kube-apiserver'].running

- name: Read the kubelet only
  kubemetrics.aggregation.component_info:
    components: [kubelet]
  register: host
  become: true
"""

RETURN = r"""
components:
  description: Each component that was asked for, by its name.
  returned: success
  type: dict
  contains:
    running:
      description: Whether a process runs it.
      type: bool
    pid:
      description: The process, the oldest one if there are several.
      type: int
    other_pids:
      description: More processes of the same name. There should be none.
      type: list
      elements: int
    in_process:
      description:
        - Whether it runs inside of another program's process. Then RV(components.flags) is empty for k3s, and from the
          files of arguments for MicroK8s.
      type: bool
    argv:
      description: The command line, with secrets masked.
      type: list
      elements: str
    flags:
      description:
        - The flags of the command line by name, without dashes, as the component itself reads them.
        - A flag that takes a list is a list of strings. Repeated flags add up, and each value is a line of CSV, so
          that C(--requestheader-allowed-names="aggregator") with literal quotes is the one name V(aggregator),
          C(--requestheader-allowed-names="") is a list of one empty name, and C(--requestheader-allowed-names=) is
          the empty list.
        - Any other flag is the text of its last value; pairs of repeated maps such as C(--feature-gates) are joined.
          A bare flag is V("true").
      type: dict
    environ:
      description: The proxy variables of the process as they are spelled there, without user names and passwords.
      type: dict
    start_time:
      description: When the process started (RFC 3339).
      type: str
    binary:
      description: The executable, as the process itself sees it; in a container that is a path in the image.
      type: str
    binary_replaced:
      description: Whether the executable was replaced or removed since the process started, as an upgrade does it.
      type: bool
    version:
      description: What the executable answers to C(--version), or null when it cannot be asked.
      type: str
    managed_by:
      description:
        - Who starts it, and so where a flag has to be changed.
        - V(static_pod), V(pod) (an ordinary pod, such as a DaemonSet's), V(systemd), V(k3s), V(rke2), V(minikube),
          V(k0s), V(microk8s), V(openshift) or V(unknown).
      type: str
    unit:
      description: The systemd service it runs in.
      type: str
    unit_state:
      description: What systemd knows of that service, or null.
      type: dict
      contains:
        active_state:
          description: For example V(active), V(failed).
          type: str
        fragment:
          description: The unit file.
          type: str
        drop_ins:
          description: Its drop-in files.
          type: list
          elements: str
        environment_files:
          description: The environment files that it names, with RV(ignore:path) and whether it is RV(ignore:optional).
          type: list
          elements: dict
        need_daemon_reload:
          description: Whether files have changed since systemd read them.
          type: bool
    pod_uid:
      description: The pod it runs in.
      type: str
    definition_files:
      description:
        - The existing files that define it - a static pod's manifest, a unit with its drop-ins and environment files,
          the configuration of k3s or RKE2.
        - Two manifests of one component are both listed; the kubelet runs only one of them.
      type: list
      elements: str
  sample:
    kube-apiserver:
      running: true
      pid: 1234
      other_pids: []
      in_process: false
      argv: [kube-apiserver, --advertise-address=192.0.2.11, --allow-privileged=true]
      flags: {advertise-address: 192.0.2.11, allow-privileged: "true"}
      environ: {NO_PROXY: "10.233.0.0/18,.svc"}
      start_time: "2026-03-01T10:00:00Z"
      binary: /usr/local/bin/kube-apiserver
      binary_replaced: false
      version: v1.36.3
      managed_by: static_pod
      unit:
      unit_state:
      pod_uid: 6f1b2a3c4d5e6f708192a3b4c5d6e7f8
      definition_files: [/etc/kubernetes/manifests/kube-apiserver.yaml]
host:
  description: The host itself.
  returned: success
  type: dict
  contains:
    hostname:
      description: The kernel's host name.
      type: str
    node_name:
      description:
        - The name that the kubelet registers with, which is its C(--hostname-override) or else the host name in lower
          case. A cloud provider may have given it another one, which its client certificate then has.
      type: str
    kubelet_client_certificate:
      description:
        - The certificate by which the API server knows the kubelet (DER in base64), or null. Its common name is
          C(system:node:) and the name of the node.
      type: str
    boot_id:
      description: Changes with every boot.
      type: str
    cgroup_version:
      description: V(2) for the unified hierarchy, else V(1).
      type: int
    default_ipv4:
      description: The address that the default route uses, or null.
      type: str
    time:
      description: The clock of the host (RFC 3339) when the module ran.
      type: str
  sample:
    hostname: cp1
    node_name: cp1
    kubelet_client_certificate: MIIDAz...
    boot_id: 0c9d3c8e-8f5c-4a50-9d4b-0d1a5e1f7a11
    cgroup_version: 2
    default_ipv4: 192.0.2.11
    time: "2026-03-01T10:05:00Z"
kubelet_config:
  description: The configuration of the kubelet, also when O(components) leaves the kubelet out.
  returned: success
  type: dict
  contains:
    path:
      description: The configuration file in effect.
      type: str
    exists:
      description: Whether the file can be read.
      type: bool
    source:
      description:
        - V(flag) when the running kubelet was given the file by C(--config).
        - V(default) when no kubelet runs and the file is the one that kubeadm's unit names.
        - V(none) when the kubelet has no file (then the old defaults of its flags hold, which admit unauthenticated
          clients), or nothing is known.
      type: str
    text:
      description: The text of the file, the values of C(staticPodURLHeader) masked.
      type: str
    drop_in_dir:
      description: The directory given by C(--config-dir).
      type: str
    drop_ins:
      description:
        - The drop-in files that the kubelet reads, in its order, with RV(ignore:path) and RV(ignore:text), those of
          subdirectories among them.
      type: list
      elements: dict
    static_pod_path:
      description: The directory of static pod manifests.
      type: str
    overriding_flags:
      description:
        - The flags of the running kubelet that win over the same setting in the file, in the form of
          RV(components.flags).
      type: dict
    changed_since_start:
      description:
        - Whether one of its files was written after the kubelet started, which reads them only then. False when none
          runs.
      type: bool
    newer_files:
      description: Those files, or the drop-in directory where one was removed.
      type: list
      elements: str
  sample:
    path: /var/lib/kubelet/config.yaml
    exists: true
    source: flag
    text: "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n"
    drop_in_dir:
    drop_ins: []
    static_pod_path: /etc/kubernetes/manifests
    overriding_flags: {}
    changed_since_start: false
    newer_files: []
kubelet_answers:
  description: What the running kubelet answers to a client without credentials; null when none runs or nobody asked.
  returned: success
  type: dict
  contains:
    url:
      description: What was asked for, at the address of the node.
      type: str
    ca_file:
      description: What the certificate was verified against, or null where nothing says which CA signs it.
      type: str
    reachable:
      description: Whether the port accepts connections.
      type: bool
    verified:
      description: Whether the certificate is valid, by that CA and for that address.
      type: bool
    status:
      description:
        - The HTTP status, or null. A kubelet that authenticates its clients answers V(401), or V(403) where anonymous
          requests are let in and authorized.
      type: int
    error:
      description: The first thing that is wrong, in one clause, or an empty text.
      type: str
    certificate:
      description: The serving certificate (DER in base64), or null.
      type: str
    read_only_port:
      description:
        - The RV(ignore:port) without TLS, which is V(10255) where the kubelet is not told another one, and whether it
          is RV(ignore:open).
      type: dict
  sample:
    url: https://192.0.2.11:10250/metrics/resource
    ca_file: /etc/kubernetes/pki/ca.crt
    reachable: true
    verified: true
    status: 401
    error: ""
    certificate: MIIDAz...
    read_only_port: {port: 10255, open: false}
forwarding:
  description: What the packet filters do with what the host forwards; null when nobody asked.
  returned: success
  type: dict
  contains:
    accepts_everything:
      description:
        - Whether the FORWARD chains of iptables surely accept everything, whatever the networks of pods.
        - Where not, M(kubemetrics.aggregation.forward_rules) knows more.
      type: bool
    managed:
      description: Whether M(kubemetrics.aggregation.forward_rules) has made rules or files there.
      type: bool
  sample: {accepts_everything: true, managed: false}
images:
  description: The images of O(image_repository) in the container runtime of the host; null when nobody asked.
  returned: success
  type: dict
  contains:
    runtime:
      description: V(containerd), V(cri-o), V(docker), or null.
      type: str
    names:
      description: Their full names.
      type: list
      elements: str
    error:
      description: Why they cannot be listed, or an empty text.
      type: str
  sample:
    runtime: containerd
    names: [localhost/kubemetrics/metrics-server:0123456789ab]
    error: ""
interrupted_certificates:
  description:
    - Recorded changes of the front proxy's certificates that were interrupted between two files, by their ids, the
      oldest first. With half of a pair an API server does not start.
  returned: success
  type: list
  elements: str
  sample: []
lost_flags:
  description:
    - Flags of kube-apiserver that its manifest had before kubeadm last wrote it anew, and has no more, from what an
      upgrade keeps of the old manifests.
  returned: success
  type: list
  elements: dict
  contains:
    component:
      description: V(kube-apiserver).
      type: str
    name:
      description: The flag, without dashes.
      type: str
    value:
      description: Its value, secrets masked.
      type: str
    source:
      description: The file that still has it.
      type: str
  sample:
    - component: kube-apiserver
      name: enable-aggregator-routing
      value: "true"
      source: /etc/kubernetes/tmp/kubeadm-backup-manifests-2026-03-01-10-00-00/kube-apiserver.yaml
kubernetes_dir:
  description: Where the installer keeps its files.
  returned: success
  type: dict
  contains:
    pki_dir:
      description:
        - The directory of the certificates, from the flags of the API server or the configuration of the kubelet, else
          the one that exists.
      type: str
    admin_kubeconfig:
      description: An administrator's kubeconfig on this host, or null.
      type: str
    kubeadm:
      description: Whether kubeadm made this host.
      type: bool
  sample:
    pki_dir: /etc/kubernetes/pki
    admin_kubeconfig: /etc/kubernetes/admin.conf
    kubeadm: true
"""

import os
import signal
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.host import (
    components,
    forwarding_host,
    images,
    processes,
)


class OutOfTime(Exception):
    """The time that the caller allowed is over."""


def gather(params: t.Mapping[str, t.Any]) -> t.Dict[str, t.Any]:
    host = components.Host(proc=processes.Proc(), timeout=params["timeout"])
    kubelet_config = host.kubelet_config()
    manifests = host.manifests(kubelet_config["static_pod_path"])
    directories = components.describe_directories(host, manifests, kubelet_config["text"])
    kubelet_answers = None
    if "kubelet_answers" in params["gather_subset"]:
        kubelet_answers = components.describe_kubelet_answers(
            host, kubelet_config, directories["pki_dir"], params["kubelet_serving_ca_file"]
        )
    forwarding = images_found = None
    if "forwarding" in params["gather_subset"]:
        forwarding = forwarding_host.survey(host.remaining())
    if "images" in params["gather_subset"]:
        endpoint = images.configured_endpoint(host.flags_of("kubelet"), kubelet_config["text"])
        images_found = images.survey(endpoint, params["image_repository"], host.remaining())
    return {
        "components": components.describe(host, params["components"], manifests),
        "host": components.describe_host(host),
        "kubelet_config": kubelet_config,
        "kubelet_answers": kubelet_answers,
        "forwarding": forwarding,
        "images": images_found,
        "kubernetes_dir": directories,
        "interrupted_certificates": components.interrupted_certificates(),
        "lost_flags": components.lost_flags(manifests),
    }


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec={
            "components": {
                "type": "list",
                "elements": "str",
                "choices": list(processes.COMPONENTS),
                "default": list(processes.COMPONENTS),
            },
            "gather_subset": {
                "type": "list",
                "elements": "str",
                "choices": ["forwarding", "images", "kubelet_answers"],
                "default": ["kubelet_answers"],
            },
            "image_repository": {"type": "str"},
            "kubelet_serving_ca_file": {"type": "path"},
            "timeout": {"type": "int", "default": 10},
        },
        supports_check_mode=True,
    )
    timeout = module.params["timeout"]
    if timeout < 1:
        module.fail_json(msg="timeout is %d, and has to be at least 1 second." % timeout)
    if "images" in module.params["gather_subset"] and not module.params["image_repository"]:
        module.fail_json(msg="gather_subset has images; say with image_repository which ones.")
    if os.geteuid() != 0:
        module.fail_json(msg="The module runs as user id %d, not as root, and would miss most of it." % os.geteuid())

    def out_of_time(unused_signal: int, unused_frame: t.Any) -> None:
        raise OutOfTime

    # A process table can hang a reader (a stuck file system behind a link), and this module must not hang its caller.
    signal.signal(signal.SIGALRM, out_of_time)
    signal.setitimer(signal.ITIMER_REAL, timeout + 0.5)
    try:
        result = gather(module.params)
    except OutOfTime:
        module.fail_json(
            msg="The components of this host could not be read within %d s; raise timeout or look for hung processes."
            % timeout
        )
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
