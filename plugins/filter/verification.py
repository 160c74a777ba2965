# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The role verify's way to the decisions of plugin_utils/verification.py."""

from __future__ import annotations

import typing as t

from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils import verification
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.native import native


def verification_context(
    cluster: t.Any,
    hosts: t.Any,
    requests: t.Any,
    kubelets: t.Any,
    days: t.Any,
    placed: t.Any = None,
    resource_metrics: t.Any = True,
) -> dict[str, t.Any]:
    """What is known beside the metrics themselves. resource_metrics: whether they are among what is verified."""
    cluster = native(cluster)
    if not resource_metrics:
        # The image of the metrics server tells nothing of another server.
        placed = ()
    return {
        "cluster": {key: cluster.get(key) or {} for key in ("nodes", "control_planes", "distribution")},
        "pending": verification.pending_requests(native(requests or {})),
        "expiring": verification.expiring_certificates(native((kubelets or {}).get("results") or ()), int(days)),
        "availability": verification.availability(cluster["nodes"], native(hosts), native(placed)),
    }


def verification_aggregation_failure(failed: t.Any, context: t.Any) -> str:
    context = native(context)
    found = verification.aggregation_failure(native(failed), context["availability"])
    return verification.with_distribution(found, context["cluster"])


def verification_metrics_failure(failed: t.Any, context: t.Any, aggregation: t.Any) -> str:
    context, namespace = native(context), verification.namespace_of(native(aggregation))
    found = verification.metrics_failure(native(failed), context["pending"], namespace)
    return verification.with_distribution(found, context["cluster"])


def verification_result(aggregation: t.Any, metrics: t.Any, context: t.Any) -> dict[str, t.Any]:
    context, metrics = native(context), native(metrics)
    found = verification.result(
        native(aggregation),
        metrics,
        pending=context["pending"],
        expiring=context["expiring"],
        availability=context["availability"],
    )
    return {**found, "measured": verification.measured(metrics)}


def verification_summary(result: t.Any, context: t.Any, shown_nodes: t.Any, unreached: t.Any = ()) -> list[str]:
    context = native(context)
    return verification.summary(
        native(result),
        cluster=context["cluster"],
        expiring=context["expiring"],
        shown_nodes=int(shown_nodes),
        unreached=native(unreached),
    )


class FilterModule:
    """Decisions of the role verify."""

    def filters(self) -> dict[str, t.Any]:
        return {
            "verification_aggregation_failure": verification_aggregation_failure,
            "verification_context": verification_context,
            "verification_metrics_failure": verification_metrics_failure,
            "verification_result": verification_result,
            "verification_summary": verification_summary,
        }
