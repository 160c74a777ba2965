#!/usr/bin/python
# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: diagnosis_report
short_description: Show a diagnosis
version_added: 0.1.0
author:
  - The kubemetrics.aggregation maintainers (@kubemetrics)
description:
  - Prints what M(kubemetrics.aggregation.diagnosis) has found; in the playbook C(doctor.yml), behind everything else.
  - Fails where something was found, and says that it is unreachable where hosts could not be examined, so that
    C(ansible-playbook) ends with 2 or 4.
  - It runs on the controller and contacts no host.
extends_documentation_fragment:
  - kubemetrics.aggregation.attributes
attributes:
  check_mode:
    support: full
    details: The report is written in check mode, too.
  diff_mode:
    support: none
  idempotent:
    support: full
    details: The report is written anew.
options:
  diagnosis:
    description:
      - What M(kubemetrics.aggregation.diagnosis) returned as RV(kubemetrics.aggregation.diagnosis#module:diagnosis).
    type: dict
    required: true
  output:
    description:
      - The form of the report.
    type: str
    choices: [terminal, json, markdown, html]
    default: terminal
  report_file:
    description:
      - Where to write the report, readable for its owner alone. Then the one for the terminal is printed. Empty - it is
        printed in the form O(output).
    type: path
    default: ""
  fail_on_findings:
    description:
      - Whether to fail where something was found or could not be examined.
    type: bool
    default: true
seealso:
  - module: kubemetrics.aggregation.diagnosis
"""

EXAMPLES = r"""
- name: Make a page of a diagnosis
  kubemetrics.aggregation.diagnosis_report:
    diagnosis: "{{ doctor_diagnosis }}"
    output: html
    report_file: report.html
    fail_on_findings: false
"""

RETURN = r"""
verdict:
  description: As in the diagnosis.
  returned: always
  type: str
  sample: findings
msg:
  description: The headline of the report.
  returned: always
  type: str
"""
