#!/usr/bin/python
# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: diagnosis
short_description: Diagnose evidence
version_added: 0.1.0
author:
  - The kubemetrics.aggregation maintainers (@kubemetrics)
description:
  - Puts together what M(kubemetrics.aggregation.host_evidence) and M(kubemetrics.aggregation.api_evidence) have found,
    or reads it from a file, and compares it with the catalogue of failures.
  - It runs on the controller and contacts no host.
extends_documentation_fragment:
  - kubemetrics.aggregation.attributes
attributes:
  check_mode:
    support: full
    details: Files are written in check mode, too.
  diff_mode:
    support: none
  idempotent:
    support: full
    details: Files are written anew.
options:
  evidence:
    description:
      - Path of a saved evidence. Then the other options that say where evidence is are not used.
    type: path
    default: ""
  hosts:
    description:
      - The hosts of the cluster. Those that run Windows are named, and no more.
    type: list
    elements: str
    default: []
  discovery_variable:
    description:
      - The variable that the step V(discovery) was registered as.
    type: str
    default: ""
  connections_variable:
    description:
      - The variable that the step V(connections) was registered as.
    type: str
    default: ""
  api_variable:
    description:
      - The variable that M(kubemetrics.aggregation.api_evidence) was registered as.
    type: str
    default: ""
  evidence_file:
    description:
      - Where to save the evidence, readable for its owner alone. Empty - it is not saved.
    type: path
    default: ""
  apiservice:
    description:
      - The APIService that M(kubemetrics.aggregation.api_evidence) was given. A saved evidence says it itself.
    type: str
    default: v1beta1.metrics.k8s.io
requirements:
  - cryptography (Python library) on the controller
seealso:
  - module: kubemetrics.aggregation.host_evidence
  - module: kubemetrics.aggregation.api_evidence
  - module: kubemetrics.aggregation.diagnosis_report
"""

EXAMPLES = r"""
- name: Diagnose what another machine has saved
  kubemetrics.aggregation.diagnosis:
    evidence: evidence.json
  register: diagnosed

- name: Show it
  kubemetrics.aggregation.diagnosis_report:
    diagnosis: "{{ diagnosed.diagnosis }}"
"""

RETURN = r"""
diagnosis:
  description: The diagnosis, which docs/evidence.md describes.
  returned: success
  type: dict
  contains:
    verdict:
      description: V(well), V(findings), or V(unknown) where too little could be examined.
      type: str
    headline:
      description: The verdict in one sentence.
      type: str
    distribution:
      description:
        - The distribution of the cluster where it is one that writes its configuration itself, with C(key), C(name) and
          C(sentence), which says what that means for the repairs; empty for other clusters.
      type: dict
    exit_status:
      description: V(0) for a well cluster, V(2) for findings, V(4) where hosts could not be examined.
      type: int
    path:
      description: The path of a request, hop by hop, with the state of each.
      type: list
      elements: dict
    findings:
      description: The rows of the catalogue that apply, roots first.
      type: list
      elements: dict
    unexplained:
      description: What was measured to be wrong and is in no row.
      type: list
      elements: dict
    notices:
      description: What is no fault of resource metrics, such as a node that is not Ready.
      type: list
      elements: str
    unknown:
      description: What was not seen or is hidden by a fault.
      type: list
      elements: str
"""
