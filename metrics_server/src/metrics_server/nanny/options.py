# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line of `metrics-server nanny`: pod_nanny's flags, and its configuration file."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from metrics_server.companion import Common, common, common_flags
from metrics_server.flags import Flag, FlagError, FlagSet, Parsed
from metrics_server.kube.client import SERVICE_ACCOUNT_DIR
from metrics_server.nanny.sizing import Need, Needs, Tolerance, exponential, linear
from metrics_server.quantity import parse_quantity

_GROUP = "Nanny"
_LOG = "Retired"
#: How pod_nanny writes that a resource is not its business.
_NO_VALUE = "MISSING"
#: Field of the configuration file -> option.
_FIELDS = {"baseCPU": "cpu", "cpuPerNode": "extra_cpu", "baseMemory": "memory", "memoryPerNode": "extra_memory"}
_API_VERSION = "nannyconfig/v1alpha1"


def _ignored(name: str, kind: str, default: Any, note: str) -> Flag:
    return Flag(name, kind, default, _LOG, "", status="ignored", note=note)


FLAGS = FlagSet(
    (
        Flag("config-dir", "string", _NO_VALUE, _GROUP, "Folder with the file NannyConfiguration, which beats flags."),
        Flag("cpu", "string", _NO_VALUE, _GROUP, "CPU without any node, for example 100m."),
        Flag("extra-cpu", "string", "0", _GROUP, "CPU for each node."),
        Flag("memory", "string", _NO_VALUE, _GROUP, "Memory without any node, for example 80Mi."),
        Flag("extra-memory", "string", "0Mi", _GROUP, "Memory for each node."),
        Flag("storage", "string", _NO_VALUE, _GROUP, "Ephemeral storage without any node."),
        Flag("extra-storage", "string", "0Gi", _GROUP, "Ephemeral storage for each node."),
        Flag("cpu-limit", "bool", True, _GROUP, "Set the CPU limit to the request; with false limits of CPU stay."),
        Flag("threshold", "int", 0, _GROUP, "Percentage by which resources may be off before they are rewritten."),
        Flag(
            "acceptance-offset",
            "int",
            20,
            _GROUP,
            "The same, together with --recommendation-offset instead of --threshold.",
        ),
        Flag(
            "recommendation-offset",
            "int",
            10,
            _GROUP,
            "Percentage from the expected amount at which a rewritten resource ends, on the side that it came from.",
        ),
        Flag("scale-down-delay", "duration", 0.0, _GROUP, "Time after the start or a change before shrinking."),
        Flag("scale-up-delay", "duration", 0.0, _GROUP, "Time after the start or a change before growing."),
        Flag(
            "estimator", "string", "linear", _GROUP, "linear, or exponential: sizes in steps of half the size before."
        ),
        Flag("minClusterSize", "int", 16, _GROUP, "Number of nodes at which exponential begins, at least 2."),
        Flag("use-metrics", "bool", False, _GROUP, "Read the number of nodes from the API server's /metrics."),
        Flag("poll-period", "int", 10000, _GROUP, "Milliseconds between two checks."),
        Flag("namespace", "string", "", _GROUP, "Namespace of the Deployment; without it the pod's own."),
        Flag("deployment", "string", "", _GROUP, "Name of the Deployment. Needed."),
        Flag("container", "string", "pod-nanny", _GROUP, "Name of the container in it."),
        _ignored("pod", "string", "", "the Deployment is read, so that all of its replicas agree"),
        Flag(
            "scaling-mode",
            "string",
            "node-proportional",
            _LOG,
            "",
            status="refused",
            note="sizes follow the number of nodes (node-proportional) only",
        ),
        *(
            _ignored(name, kind, default, "the log goes to standard error, every line at once")
            for name, kind, default in (
                ("logtostderr", "bool", True),
                ("alsologtostderr", "bool", False),
                ("stderrthreshold", "string", ""),
                ("log-flush-frequency", "duration", 5.0),
                ("log_backtrace_at", "string", ""),
                ("log_dir", "string", ""),
                ("vmodule", "string", ""),
            )
        ),
        *common_flags(8082),
    )
)


@dataclass(frozen=True, slots=True)
class Options:
    """The settings of a run, validated."""

    common: Common
    namespace: str
    deployment: str
    container: str
    poll_period: float
    needs: Needs
    configuration: Path | None
    size: Callable[[int], int]
    tolerance: Tolerance
    limit_cpu: bool
    scale_down_delay: float
    scale_up_delay: float
    use_metrics: bool
    #: The amounts as they were given, for a configuration file to change some of.
    amounts: Mapping[str, str]


def read_options(parsed: Parsed) -> Options:
    """Return the settings; raise `FlagError` with one sentence when they make no sense."""
    values = parsed.values
    if not values["deployment"]:
        raise FlagError("--deployment is needed, for example --deployment=metrics-server")
    if not values["container"]:
        raise FlagError("--container must not be empty")
    if values["poll_period"] < 100:
        raise FlagError("--poll-period must be at least 100 (milliseconds), for example 10000")
    for option in ("scale_down_delay", "scale_up_delay"):
        if values[option] < 0:
            raise FlagError(f"--{option.replace('_', '-')} must not be negative")
    amounts = {option: values[option] for option in ("cpu", "extra_cpu", "memory", "extra_memory")}
    amounts |= {"storage": values["storage"], "extra_storage": values["extra_storage"]}
    directory = values["config_dir"]
    configuration = Path(directory) / "NannyConfiguration" if directory not in ("", _NO_VALUE) else None
    try:
        needs = needs_of(amounts)
    except ValueError as error:
        raise FlagError(str(error)) from None
    if not needs and configuration is None:
        raise FlagError("nothing to size: give --cpu, --memory or --storage, for example --memory=80Mi")
    return Options(
        common(values),
        values["namespace"] or _own_namespace(),
        values["deployment"],
        values["container"],
        values["poll_period"] / 1000,
        needs,
        configuration,
        _size(values),
        _tolerance(parsed),
        values["cpu_limit"],
        values["scale_down_delay"],
        values["scale_up_delay"],
        values["use_metrics"],
        amounts,
    )


def needs_of(amounts: Mapping[str, str]) -> dict[str, Need]:
    """Return what is to be sized; raise ValueError for an amount that is none."""
    needs = {}
    for name in ("cpu", "memory", "storage"):
        if amounts[name] not in ("", _NO_VALUE):
            needs[name] = Need(_amount(name, amounts[name]), _amount(f"extra-{name}", amounts[f"extra_{name}"]))
    return needs


def read_configuration(text: str, amounts: Mapping[str, str]) -> dict[str, Need]:
    """Return what is to be sized by a NannyConfiguration over the flags. Raises ValueError with a sentence."""
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ValueError("NannyConfiguration is not valid YAML") from None
    if not isinstance(document, dict) or document.get("kind") != "NannyConfiguration":
        raise ValueError("NannyConfiguration must have the kind NannyConfiguration")
    if document.get("apiVersion") != _API_VERSION:
        raise ValueError(f"NannyConfiguration must have the apiVersion {_API_VERSION}")
    changed = dict(amounts)
    for name, value in document.items():
        if name in _FIELDS:
            if value is not None and str(value):
                changed[_FIELDS[name]] = str(value)
        elif name not in ("apiVersion", "kind", "metadata"):
            raise ValueError(f'NannyConfiguration has the unknown field "{name}", known are {", ".join(_FIELDS)}')
    return needs_of(changed)


def _amount(name: str, text: str) -> Any:
    try:
        amount = parse_quantity(text)
    except ValueError as error:
        raise ValueError(f"--{name}: {error}") from None
    if amount < 0:
        raise ValueError(f'--{name}: "{text}" is negative')
    return amount


def _size(values: Mapping[str, Any]) -> Callable[[int], int]:
    if values["minClusterSize"] < 2:
        raise FlagError("--minClusterSize must be at least 2")
    if values["estimator"] == "linear":
        return linear
    if values["estimator"] == "exponential":
        return partial(exponential, smallest=values["minClusterSize"])
    raise FlagError(f'--estimator: "{values["estimator"]}" is not known, must be linear or exponential')


def _tolerance(parsed: Parsed) -> Tolerance:
    values = parsed.values
    ranged = [name for name in ("acceptance-offset", "recommendation-offset") if name in parsed.given]
    for name in ("threshold", "acceptance-offset", "recommendation-offset"):
        if not 0 <= values[name.replace("-", "_")] <= 100:
            raise FlagError(f"--{name} must be between 0 and 100")
    if not ranged:
        return Tolerance(values["threshold"])
    if "threshold" in parsed.given:
        raise FlagError(f"cannot use both --threshold and --{ranged[0]}")
    if values["recommendation_offset"] > values["acceptance_offset"]:
        raise FlagError("--acceptance-offset must not be lower than --recommendation-offset")
    return Tolerance(values["acceptance_offset"], values["recommendation_offset"])


def _own_namespace() -> str:
    for name in ("MY_POD_NAMESPACE", "POD_NAMESPACE"):
        if os.environ.get(name):
            return os.environ[name]
    try:
        namespace = (SERVICE_ACCOUNT_DIR / "namespace").read_text(encoding="utf-8").strip()
    except OSError:
        namespace = ""
    if not namespace:
        raise FlagError("--namespace is needed (or MY_POD_NAMESPACE) outside of a pod")
    return namespace
