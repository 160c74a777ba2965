# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Validates the variables of several roles of this collection in one task."""

from __future__ import annotations

import contextlib
import typing as t

from ansible.errors import AnsibleUndefinedVariable
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.plugins.action import ActionBase
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils import kubespray
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.role_specifications import specification


class ActionModule(ActionBase):
    _supports_check_mode = True
    _supports_async = False
    _requires_connection = False
    TRANSFERS_FILES = False

    #: The same as in the documentation of the module of this name.
    ARGUMENTS: t.ClassVar[dict[str, t.Any]] = {"roles": {"type": "list", "elements": "str", "required": True}}

    def run(self, tmp: t.Any = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        result: dict[str, t.Any] = super().run(tmp, task_vars)
        variables = task_vars or {}
        _validation, arguments = self.validate_argument_spec(argument_spec=self.ARGUMENTS)
        errors = []
        for role in arguments["roles"]:
            options = specification(str(role))
            if options is None:
                errors.append(f"this collection has no role {role}")
                continue
            validated = ArgumentSpecValidator(options).validate(
                self.given(options, variables), validate_role_argument_spec=True
            )
            errors += [f"{role}: {message}" for message in validated.error_messages]
        result.update(changed=False)
        if errors:
            result.update(
                failed=True, msg=f"Variables of roles are wrong. {'; '.join(errors)}.", argument_errors=errors
            )
        return result

    def given(self, options: t.Iterable[str], variables: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
        """What is set. What refers to facts that come later cannot be judged yet, and what kubespray takes for its
        default is ours."""
        found = {}
        for name in options:
            if name in variables:
                with contextlib.suppress(AnsibleUndefinedVariable):
                    found[name] = self._templar.template(variables[name])
        return {name: value for name, value in found.items() if not kubespray.means_default(name, value)}
