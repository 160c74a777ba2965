#!/usr/bin/python
# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: kubelet_config
short_description: Change settings in the configuration that the kubelet really reads
version_added: 0.1.0
author:
  - The kubemetrics.aggregation maintainers (@kubemetrics)
description:
  - Merges settings into the configuration file of the kubelet. The file is found from the command line of the running
    kubelet, because a file that merely lies in the usual place may be read by nobody.
  - A kubelet with a drop-in directory (C(--config-dir)) gets a drop-in of its own, C(90-kubemetrics.conf), and its main
    file stays as it is.
  - What already holds is left alone, also when it holds by the kubelet's own default. Lines that need no change stay
    byte for byte as they are.
  - Flags of the running kubelet that win over the file are named.
  - The kubelet reads its configuration only when it starts; restart it when this task has changed something.
extends_documentation_fragment:
  - kubemetrics.aggregation.attributes
  - kubemetrics.aggregation.host
  - kubemetrics.aggregation.records
  - kubemetrics.aggregation.records.backup
options:
  config:
    description:
      - The settings, in the form of a C(KubeletConfiguration) without C(apiVersion) and C(kind).
      - Mappings are merged, lists and scalars are replaced, and V(null) removes a setting.
    type: dict
    required: true
  path:
    description:
      - The file to change, for a kubelet that does not run or a file that is not in use yet. It is created when it does
        not exist; its directory has to.
      - By default the file that the running kubelet was given.
    type: path
  fail_on_override:
    description:
      - Fail, before anything is changed, when a flag of the running kubelet or a later drop-in file makes a requested
        setting void.
    type: bool
    default: false
attributes:
  check_mode:
    support: full
    details: A read-only file system, lack of space and lack of permission are found in check mode, too.
  diff_mode:
    support: full
    details: What is a secret is masked.
  idempotent:
    support: full
notes:
  - The file is replaced atomically, with its mode, owner and extended attributes. A symbolic link stays a link.
seealso:
  - module: kubemetrics.aggregation.component_flags
  - module: kubemetrics.aggregation.component_info
  - module: kubemetrics.aggregation.kubeadm_config
"""

EXAMPLES = r"""
- name: Let the kubelet verify tokens, and let it ask the cluster for its serving certificate
  kubemetrics.aggregation.kubelet_config:
    config:
      authentication:
        anonymous:
          enabled: false
        webhook:
          enabled: true
          cacheTTL: 2m
      authorization:
        mode: Webhook
      readOnlyPort: 0
      serverTLSBootstrap: true
    fail_on_override: true
  become: true
  notify: Restart the kubelet

- name: Take a setting out again
  kubemetrics.aggregation.kubelet_config:
    config:
      tlsCertFile:
      tlsPrivateKeyFile:
  become: true
"""

RETURN = r"""
path:
  description: The file that was or would be changed.
  returned: success
  type: str
  sample: /etc/kubernetes/kubelet-config.yaml
backup_file:
  description: Where the file's old content is; null when nothing changed, there was none, or O(backup) is off.
  returned: success
  type: str
  sample: /var/lib/kubemetrics/backups/20260301T100500Z-1f0c9a3e/etc/kubernetes/kubelet-config.yaml
change_id:
  description: The id of the recorded change; null when nothing was recorded.
  returned: success
  type: str
  sample: 20260301T100500Z-1f0c9a3e
overriding_flags:
  description: The flags of the running kubelet that make a requested setting void, with their values.
  returned: success
  type: dict
  sample: {read-only-port: "10255"}
overriding_files:
  description: The drop-in files that are applied later and make a requested setting void.
  returned: success
  type: list
  elements: str
  sample: []
"""
