# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: server_image_tag
short_description: The image tag that follows from the bundled server's source
version_added: 0.1.0
author: The kubemetrics.aggregation maintainers (@kubemetrics)
description:
  - Returns the first twelve hexadecimal digits of a SHA-256 over the files that make the image, so that the same source
    has the same tag on every machine and a changed source never hides behind an old tag.
options:
  _terms:
    description:
      - The first term is the folder of the server's source.
      - Further terms are what else decides the content, such as the base image.
    type: list
    elements: str
    required: true
"""

EXAMPLES = r"""
- name: Show the tag
  ansible.builtin.debug:
    msg: "{{ lookup('kubemetrics.aggregation.server_image_tag', source, 'python:3.13-slim-bookworm') }}"
  vars:
    source: "{{ playbook_dir }}/../metrics_server"
"""

RETURN = r"""
_raw:
  description: One tag.
  type: list
  elements: str
"""

from pathlib import Path

from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.image.source import SourceError, source_tag
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.native import native


class LookupModule(LookupBase):
    """Read the source on the controller; nothing is written."""

    def run(self, terms, variables=None, **kwargs):
        self.set_options(var_options=variables, direct=kwargs)
        if not terms:
            raise AnsibleLookupError("server_image_tag needs the folder of the server's source as its first term.")
        try:
            source, *others = native(terms)
            return [source_tag(Path(source), *[str(other) for other in others])]
        except (SourceError, OSError) as exc:
            raise AnsibleLookupError(str(exc)) from exc
