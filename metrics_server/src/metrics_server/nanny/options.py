# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line of `metrics-server nanny`: pod_nanny's flags, and its configuration file."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from metrics_server.companion import CommonOptions, port_flag
from metrics_server.flags import FlagError, FlagSet, Parsed, flag, flags_of, ignored, refused
from metrics_server.kube.client import SERVICE_ACCOUNT_DIR
from metrics_server.nanny.sizing import Need, Needs, Tolerance, exponential, linear
from metrics_server.quantity import parse_quantity

_GROUP = "Nanny"
_RETIRED = "Retired"
#: How pod_nanny writes that a resource is not its business.
_NO_VALUE = "MISSING"
#: Options that say how much.
_AMOUNTS = ("cpu", "extra_cpu", "memory", "extra_memory", "storage", "extra_storage")
#: Field of the configuration file -> option.
_FIELDS = {"baseCPU": "cpu", "cpuPerNode": "extra_cpu", "baseMemory": "memory", "memoryPerNode": "extra_memory"}
_API_VERSION = "nannyconfig/v1alpha1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(CommonOptions):
    """The settings of a run. Each field declares its flag, but for the last ones, which follow from several."""

    config_dir: str = flag("string", _NO_VALUE, _GROUP, "Folder with the file NannyConfiguration, which beats flags.")
    cpu: str = flag("string", _NO_VALUE, _GROUP, "CPU without any node, for example 100m.")
    extra_cpu: str = flag("string", "0", _GROUP, "CPU for each node.")
    memory: str = flag("string", _NO_VALUE, _GROUP, "Memory without any node, for example 80Mi.")
    extra_memory: str = flag("string", "0Mi", _GROUP, "Memory for each node.")
    storage: str = flag("string", _NO_VALUE, _GROUP, "Ephemeral storage without any node.")
    extra_storage: str = flag("string", "0Gi", _GROUP, "Ephemeral storage for each node.")
    cpu_limit: bool = flag("bool", True, _GROUP, "Set the CPU limit to the request; with false limits of CPU stay.")
    threshold: int = flag("int", 0, _GROUP, "Percentage by which resources may be off before they are rewritten.")
    acceptance_offset: int = flag(
        "int", 20, _GROUP, "The same, together with --recommendation-offset instead of --threshold."
    )
    recommendation_offset: int = flag(
        "int",
        10,
        _GROUP,
        "Percentage from the expected amount at which a rewritten resource ends, on the side that it came from.",
    )
    scale_down_delay: float = flag("duration", 0.0, _GROUP, "Time after the start or a change before shrinking.")
    scale_up_delay: float = flag("duration", 0.0, _GROUP, "Time after the start or a change before growing.")
    estimator: str = flag("string", "linear", _GROUP, "linear, or exponential: sizes in steps of half the size before.")
    min_cluster_size: int = flag(
        "int", 16, _GROUP, "Number of nodes at which exponential begins, at least 2.", name="minClusterSize"
    )
    use_metrics: bool = flag("bool", False, _GROUP, "Read the number of nodes from the API server's /metrics.")
    in_place: bool = flag(
        "bool", False, _GROUP, "Resize running pods in place where the API server can, instead of replacing them."
    )
    poll_period: int = flag("int", 10000, _GROUP, "Milliseconds between two checks.")
    namespace: str = flag("string", "", _GROUP, "Namespace of the Deployment; without it the pod's own.")
    deployment: str = flag("string", "", _GROUP, "Name of the Deployment. Needed.")
    container: str = flag("string", "pod-nanny", _GROUP, "Name of the container in it.")
    port: int = port_flag(8082)
    #: What is to be sized, by the flags alone.
    needs: Needs = field(default_factory=dict)
    configuration: Path | None = None
    #: The number of nodes to size for, by the number that there is.
    size: Callable[[int], int] = linear
    tolerance: Tolerance = Tolerance(0)

    @property
    def amounts(self) -> dict[str, str]:
        """Return the amounts as they were given, for a configuration file to change some of."""
        return {name: getattr(self, name) for name in _AMOUNTS}


FLAGS = FlagSet(
    (
        *flags_of(Options),
        ignored("pod", "string", "", _GROUP, "the Deployment is read, so that all of its replicas agree"),
        refused(
            "scaling-mode",
            "string",
            "node-proportional",
            _RETIRED,
            "sizes follow the number of nodes (node-proportional) only",
        ),
        *(
            ignored(name, kind, default, _RETIRED, "the log goes to standard error, every line at once")
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
    )
)


def read_options(parsed: Parsed) -> Options:
    """Return the settings; raise `FlagError` with one sentence when they make no sense."""
    options = parsed.options(Options)
    if not options.deployment:
        raise FlagError("--deployment is needed, for example --deployment=metrics-server")
    if not options.container:
        raise FlagError("--container must not be empty")
    if options.poll_period < 100:
        raise FlagError("--poll-period must be at least 100 (milliseconds), for example 10000")
    for name, delay in (
        ("scale-down-delay", options.scale_down_delay),
        ("scale-up-delay", options.scale_up_delay),
    ):
        if delay < 0:
            raise FlagError(f"--{name} must not be negative")
    directory = options.config_dir
    configuration = Path(directory) / "NannyConfiguration" if directory not in ("", _NO_VALUE) else None
    try:
        needs = needs_of(options.amounts)
    except ValueError as error:
        raise FlagError(str(error)) from None
    if not needs and configuration is None:
        raise FlagError("nothing to size: give --cpu, --memory or --storage, for example --memory=80Mi")
    return replace(
        options,
        needs=needs,
        configuration=configuration,
        size=_size(options),
        tolerance=_tolerance(options, parsed.given),
        namespace=options.namespace or _own_namespace(),
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


def _size(options: Options) -> Callable[[int], int]:
    if options.min_cluster_size < 2:
        raise FlagError("--minClusterSize must be at least 2")
    if options.estimator == "linear":
        return linear
    if options.estimator == "exponential":
        return partial(exponential, smallest=options.min_cluster_size)
    raise FlagError(f'--estimator: "{options.estimator}" is not known, must be linear or exponential')


def _tolerance(options: Options, given: Sequence[str]) -> Tolerance:
    ranged = [name for name in ("acceptance-offset", "recommendation-offset") if name in given]
    for name, percentage in (
        ("threshold", options.threshold),
        ("acceptance-offset", options.acceptance_offset),
        ("recommendation-offset", options.recommendation_offset),
    ):
        if not 0 <= percentage <= 100:
            raise FlagError(f"--{name} must be between 0 and 100")
    if not ranged:
        return Tolerance(options.threshold)
    if "threshold" in given:
        raise FlagError(f"cannot use both --threshold and --{ranged[0]}")
    if options.recommendation_offset > options.acceptance_offset:
        raise FlagError("--acceptance-offset must not be lower than --recommendation-offset")
    return Tolerance(options.acceptance_offset, options.recommendation_offset)


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
