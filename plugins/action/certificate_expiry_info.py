# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""certificate_expiry_info: gathers what the roles know of certificates, and has plugin_utils/expiry.py read it."""

from __future__ import annotations

import json
import typing as t

from ansible.plugins.action import ActionBase
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.pki import certificates as certs
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils import expiry
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.native import native

#: What the roles leave behind on a host.
VARIABLES = (
    "__kubelet_access_health",
    "cluster_host",
    "__kubelet_access_front_proxy",
    "__front_proxy_pki_info",
)


class ActionModule(ActionBase):
    _supports_check_mode = True
    _supports_async = False
    _requires_connection = False
    TRANSFERS_FILES = False

    #: The same as in the documentation of the module of this name.
    ARGUMENTS: t.ClassVar[dict[str, t.Any]] = {
        "hosts": {"type": "list", "elements": "str", "required": True},
        "approver": {"type": "bool", "default": False},
        "renew_before_days": {"type": "int", "default": 30},
    }

    def run(self, tmp: t.Any = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        result: dict[str, t.Any] = super().run(tmp, task_vars)
        _validation, arguments = self.validate_argument_spec(argument_spec=self.ARGUMENTS)
        if certs.CRYPTOGRAPHY_IMPORT_ERROR:
            result.update(failed=True, msg="The Python library cryptography is missing on the controller; install it.")
            return result
        variables_here = task_vars or {}
        hostvars = variables_here["hostvars"]
        planned = native((variables_here.get("__kubelet_access_rollout") or {}).get("hosts") or {})
        managed = {name for name, entry in planned.items() if json.loads(entry)["managed"]}
        known = {}
        for name in native(arguments["hosts"]):
            variables = hostvars[name]
            known[name] = {key: native(variables.get(key)) for key in VARIABLES}
        found = expiry.gather(
            known, managed, approver=arguments["approver"], renew_before_days=arguments["renew_before_days"]
        )
        result.update(changed=False, certificates=[entry._asdict() for entry in found], report=expiry.report(found))
        return result
