#!/usr/bin/python
# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: component_flags
short_description: Set and remove flags of a Kubernetes component where it is defined
version_added: 0.1.0
author:
  - The kubemetrics.aggregation maintainers (@kubemetrics)
description:
  - Changes the flags of a component in the file that defines it, which is the manifest of a static pod, a systemd unit
    or one of its drop-ins, or an environment file whose variable the unit puts into the command line. The definition is
    found from the running process.
  - Only the words of the flags in question change. Order, comments (also those in the middle of a continued line),
    unknown flags and all other lines stay byte for byte as they are.
  - Flags are read as the component reads them, so that repeated lists add up and a list is a line of CSV. What already
    means what is wanted is left as it is written; what does not is folded into the last occurrence of its flag.
  - New flags of a systemd service go into its own variable for additions (such as C(KUBELET_EXTRA_ARGS)), else into
    its own last variable for arguments (C(*_ARGS), C(*_OPTS)), else into the command. An environment file that another
    unit reads, too, is never written to; a flag that stands there is overruled by one of the service's own.
  - The file is replaced atomically, backed up outside of every directory that a kubelet or systemd loads, and recorded.
  - The kubelet restarts a static pod by itself when its manifest changes. A systemd service has to be restarted by the
    caller, after a daemon-reload if RV(daemon_reload) says so.
  - k3s, RKE2, minikube, k0s, MicroK8s and OpenShift write these definitions themselves. There the task fails with the
    lines that their own configuration needs. It also fails where a unit starts another program than the component,
    does not give the running process its flags, or is overridden by one in C(/etc/systemd/system) that systemd has not
    read.
extends_documentation_fragment:
  - kubemetrics.aggregation.attributes
  - kubemetrics.aggregation.host
  - kubemetrics.aggregation.records
  - kubemetrics.aggregation.records.backup
options:
  component:
    description:
      - The component.
    type: str
    required: true
    choices: [kube-apiserver, kube-controller-manager, kube-scheduler, kube-proxy, kubelet, etcd]
  flags:
    description:
      - Flags by their names without dashes. V(null) removes a flag.
      - A list is written as a line of CSV, except for the few flags that are given once for each value, such as
        C(service-account-issuer). An empty list makes a flag of lists empty.
    type: dict
    required: true
  definition:
    description:
      - The manifest or the unit file, where it cannot be found from the process. Drop-ins beside a unit file are read,
        too.
    type: path
  version:
    description:
      - The version of the component, by which a flag that it does not have is refused and obsolete ones are reported.
      - By default what the running executable says, or else the tag of the manifest's image.
    type: str
  observed:
    description:
      - What M(kubemetrics.aggregation.component_info) has just said of the component, its
        RV(kubemetrics.aggregation.component_info#module:components) at the name of O(component). Without it the host is
        asked.
    type: dict
  add_mounts:
    description:
      - Whether to mount the directories of files that the flags name into the static pod, read-only, where no volume
        covers them yet. If V(false), such a file is an error, because the component would not find it.
    type: bool
    default: false
  remove_obsolete:
    description:
      - Whether to remove flags that this version no longer has. If V(false), they are only reported.
    type: bool
    default: false
  leave_staged:
    description:
      - Whether to leave a requested flag alone that the definition gives neither as requested nor as the running
        process has it, because somebody edited the definition and has not restarted the component yet. If V(false),
        such an edit is overwritten. RV(staged_flags) names them in both cases.
      - What this collection wrote itself after the process started, by its records in O(state_dir), is no such edit. It
        is what an interrupted run has left.
    type: bool
    default: false
attributes:
  check_mode:
    support: full
    details: A read-only file system, lack of space and lack of permission are found in check mode, too.
  diff_mode:
    support: full
    details: What is a secret is masked, in flags, variables and manifests.
  idempotent:
    support: full
notes:
  - A unit file that belongs to a package of the distribution is overridden by a changed copy below
    C(/etc/systemd/system), because an update of the package would undo a change in place.
seealso:
  - module: kubemetrics.aggregation.component_info
  - module: kubemetrics.aggregation.kubeadm_config
  - module: kubemetrics.aggregation.kubelet_config
"""

EXAMPLES = r"""
- name: Give the API server its front proxy
  kubemetrics.aggregation.component_flags:
    component: kube-apiserver
    flags:
      requestheader-client-ca-file: /etc/kubernetes/pki/front-proxy-ca.crt
      requestheader-allowed-names: [front-proxy-client]
      requestheader-username-headers: X-Remote-User
      requestheader-group-headers: X-Remote-Group
      requestheader-extra-headers-prefix: X-Remote-Extra-
      proxy-client-cert-file: /etc/kubernetes/pki/front-proxy-client.crt
      proxy-client-key-file: /etc/kubernetes/pki/front-proxy-client.key
  become: true
  register: flags

- name: Take a flag out that wins over the kubelet's configuration file
  kubemetrics.aggregation.component_flags:
    component: kubelet
    flags:
      read-only-port:
  become: true
"""

RETURN = r"""
managed_by:
  description: What kind of definition it is, V(static_pod) or V(systemd).
  returned: success
  type: str
  sample: systemd
unit:
  description: The systemd service, null for a static pod.
  returned: success
  type: str
  sample: kube-apiserver.service
files:
  description: The files that were or would be changed.
  returned: success
  type: list
  elements: str
  sample: [/etc/kubernetes/apiserver.env]
daemon_reload:
  description: Whether systemd has to read its units again before the service is restarted.
  returned: success
  type: bool
previous:
  description:
    - What changed had these values before, in the form of O(flags); passed as O(flags), they undo the change.
  returned: success
  type: dict
  sample: {enable-aggregator-routing: null}
flags:
  description:
    - All flags of the definition afterwards, as the component reads them. One that takes a list is a list of strings.
  returned: success
  type: dict
running_differs:
  description:
    - The requested flags that the running process does not have as requested, so that it has to be restarted, also when
      nothing changed now. Null when it does not run.
  returned: success
  type: list
  elements: str
  sample: [enable-aggregator-routing]
staged_flags:
  description:
    - The requested flags that somebody edited in the definition, otherwise than they are requested, and that the
      running process has not read yet; see O(leave_staged).
  returned: success
  type: list
  elements: str
  sample: []
unread_flags:
  description: The other flags that the running process has otherwise than the definition; a restart changes them.
  returned: success
  type: list
  elements: str
  sample: []
obsolete_flags:
  description: The flags of the definition that this version removed or deprecated.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: The flag.
      type: str
    state:
      description: V(removed) or V(deprecated).
      type: str
    since:
      description: The version with which that came.
      type: str
  sample:
    - name: apiserver-count
      state: deprecated
      since: "1.24"
duplicate_flags:
  description: Other flags that are given more than once; they are left alone.
  returned: success
  type: list
  elements: str
  sample: []
added_mounts:
  description: The directories that were or would be mounted into the static pod.
  returned: success
  type: list
  elements: str
  sample: []
missing_files:
  description: Files that the requested flags name and that do not exist on the host.
  returned: success
  type: list
  elements: str
  sample: []
backup_files:
  description: Where the old content of each changed file is, by its path.
  returned: success
  type: dict
  sample:
    /etc/kubernetes/apiserver.env: /var/lib/kubemetrics/backups/20260301T100500Z-1f0c9a3e/etc/kubernetes/apiserver.env
change_id:
  description: The id of the recorded change; null when nothing was recorded.
  returned: success
  type: str
  sample: 20260301T100500Z-1f0c9a3e
"""
