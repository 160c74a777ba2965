# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    """Documentation of the options of modules that talk to container registries."""

    DOCUMENTATION = r"""
options:
  registries:
    description:
      - Logins and CAs of registries. For a registry that is not among them, the login that C(podman), C(docker) or
        C(skopeo) keep is used, from E(REGISTRY_AUTH_FILE), C(containers/auth.json) or C(~/.docker/config.json), also by
        credential helpers. Of logins for parts of a registry, the one for the longest part counts.
      - Registries are reached by HTTPS only, and their certificates are verified. Proxies are those of the environment
        (E(HTTPS_PROXY), E(NO_PROXY)).
    type: list
    elements: dict
    default: []
    suboptions:
      host:
        description: Host of the registry, with its port where it has one. Docker Hub is V(docker.io).
        type: str
        required: true
      username:
        description: Who logs in.
        type: str
      password:
        description: The password or access token for it.
        type: str
      ca_file:
        description: File on the controller with the CA of the registry's certificate, beside those that the system
          trusts.
        type: path
"""
