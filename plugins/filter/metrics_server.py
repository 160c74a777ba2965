# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The roles' way to the decisions of plugin_utils/metrics_server.py and plugin_utils/image_nodes.py."""

from __future__ import annotations

import typing as t

from ansible.errors import AnsibleFilterError
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils import image_nodes, metrics_server
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.native import native


def metrics_server_problem(values: t.Any, provider: t.Any = None) -> str:
    try:
        found = metrics_server.problems(native(values))
        if provider is not None:
            found = metrics_server.obstacles(native(values), native(provider))
    except (TypeError, ValueError) as exc:
        raise AnsibleFilterError(f"A variable of the role metrics_server has a value of another kind: {exc}") from exc
    return found[0] if found else ""


def metrics_server_pod(values: t.Any, cluster: t.Any, image: t.Any, versions: t.Any, name: t.Any) -> dict[str, t.Any]:
    return metrics_server.describe(native(values), native(cluster), str(image), native(versions), str(name))


def metrics_server_objects(objects: t.Any) -> dict[str, t.Any]:
    return metrics_server.stamped(native([entry for entry in objects if entry]))


def metrics_server_takeover(provider: t.Any, wanted: t.Any) -> dict[str, t.Any]:
    return metrics_server.takeover(native(provider), native(wanted))


def metrics_server_unregistered(objects: t.Any, plan: t.Any) -> list[t.Any]:
    return metrics_server.unregistered(native(objects), native(plan))


def metrics_server_switched(objects: t.Any, plan: t.Any, ca_data: t.Any) -> dict[str, t.Any]:
    return metrics_server.switched(native(objects), native(plan), str(ca_data))


def metrics_server_kept(objects: t.Any) -> dict[str, t.Any]:
    return metrics_server.kept(native(objects))


def metrics_server_handed_back(objects: t.Any) -> dict[str, t.Any]:
    return metrics_server.handed_back(native(objects))


def metrics_server_unreached(hosts: t.Any, answers: t.Any) -> list[str]:
    return metrics_server.unreached(dict(zip(native(hosts), native(answers), strict=True)))


def metrics_server_without_namespace(objects: t.Any, namespace: t.Any) -> list[t.Any]:
    return metrics_server.without_namespace(native(objects), str(namespace))


def server_image_plan(values: t.Any, provider: t.Any, hosts: t.Any, image: t.Any) -> dict[str, t.Any]:
    values, provider = native(values), native(provider)
    nodes = provider["nodes"]
    by_node = {entry["node_name"]: {"images": entry["images"]} for entry in native(hosts)}
    placement = metrics_server.placement(values)
    if values["metrics_server_state"] == "absent":
        return {"problem": "", **image_nodes.nowhere(nodes), "architectures": [], "trial": []}
    if not metrics_server.Settings(values).loads:
        return {"problem": "", **image_nodes.nowhere(nodes), **image_nodes.pulling(nodes, placement)}
    makes_pull = metrics_server.pulling_servers(native(hosts))
    if makes_pull:
        words = metrics_server.always_pulled(f"The API server of {', '.join(makes_pull)} runs with")
        return {"problem": words, **image_nodes.nowhere(nodes), "architectures": [], "trial": []}
    try:
        plan = image_nodes.plan(
            nodes,
            by_node,
            str(image),
            workers=values["metrics_server_image_nodes"],
            placement=placement,
            running=provider["server_nodes"],
        )
    except image_nodes.ImageNodesError as exc:
        return {"problem": str(exc), **image_nodes.nowhere(nodes), "architectures": [], "trial": []}
    return {"problem": "", **plan, **image_nodes.loaded(nodes, plan)}


def server_image_patches(labels: t.Any) -> list[dict[str, t.Any]]:
    return image_nodes.patches(native(labels))


class FilterModule:
    """Decisions about the metrics server's objects and image."""

    def filters(self) -> dict[str, t.Any]:
        return {
            "metrics_server_handed_back": metrics_server_handed_back,
            "metrics_server_kept": metrics_server_kept,
            "metrics_server_objects": metrics_server_objects,
            "metrics_server_pod": metrics_server_pod,
            "metrics_server_problem": metrics_server_problem,
            "metrics_server_switched": metrics_server_switched,
            "metrics_server_takeover": metrics_server_takeover,
            "metrics_server_unreached": metrics_server_unreached,
            "metrics_server_unregistered": metrics_server_unregistered,
            "metrics_server_without_namespace": metrics_server_without_namespace,
            "server_image_patches": server_image_patches,
            "server_image_plan": server_image_plan,
        }
