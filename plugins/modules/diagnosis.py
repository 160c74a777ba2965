#!/usr/bin/python
# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: diagnosis
short_description: Diagnose evidence and show the report
version_added: 0.1.0
author:
  - The kubemetrics.aggregation maintainers (@kubemetrics)
description:
  - Puts together what M(kubemetrics.aggregation.host_evidence) and M(kubemetrics.aggregation.api_evidence) have found,
    or reads it from a file, compares it with the catalogue of failures, and prints a report.
  - Fails when something was found, and says that it is unreachable when hosts could not be examined, so that
    C(ansible-playbook) ends with 2 or 4.
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
      - The hosts that M(kubemetrics.aggregation.host_evidence) was run on.
    type: list
    elements: str
    default: []
  left_out:
    description:
      - Hosts that were left out, because they run Windows.
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
  output:
    description:
      - The form of the report.
    type: str
    choices: [terminal, json, markdown, html]
    default: terminal
  report_file:
    description:
      - Where to write the report. Then the one for the terminal is printed. Empty - it is printed in the form
        O(output).
    type: path
    default: ""
requirements:
  - cryptography (Python library) on the controller
seealso:
  - module: kubemetrics.aggregation.host_evidence
  - module: kubemetrics.aggregation.api_evidence
"""

EXAMPLES = r"""
- name: Diagnose what another machine has saved
  kubemetrics.aggregation.diagnosis:
    evidence: evidence.json
    output: html
    report_file: report.html
"""

RETURN = r"""
verdict:
  description: V(well), V(findings), or V(unknown) where too little could be examined.
  returned: always
  type: str
  sample: findings
exit_status:
  description: V(0) for a well cluster, V(2) for findings, V(4) where hosts could not be examined.
  returned: always
  type: int
  sample: 2
findings:
  description: The ids of the rows of the catalogue that are roots.
  returned: always
  type: list
  elements: str
  sample: [NET-04]
msg:
  description: The headline of the report.
  returned: always
  type: str
"""
