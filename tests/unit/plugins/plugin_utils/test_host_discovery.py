# SPDX-License-Identifier: GPL-3.0-or-later
"""A host that cannot be examined: what is told of it, and whether it runs Windows."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from ansible.errors import AnsibleConnectionFailure
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils import cluster
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.host_discovery import HostDiscovery

NO_SHELL = "Failed to create temporary directory. Failed command was: ( umask 77 && mkdir ...), exited with result 1"
#: As cmd and PowerShell of a German Windows print it, and a POSIX shell.
WINDOWS = (0, b"\r\nMicrosoft Windows [Version 10.0.20348.2031]\r\n", b"")
LINUX = (127, b"", b"sh: 1: cmd.exe: not found")


class Action(HostDiscovery):
    def run(self, tmp=None, task_vars=None):
        raise NotImplementedError


@pytest.fixture
def discover():
    """Examines a host on which component_info ends as given; returns the error and the commands that it was sent."""

    def run(ending, answer, *, transport="ssh", control_plane=False):
        sent = []

        def exec_command(command, **unused):
            sent.append(command)
            if isinstance(answer, Exception):
                raise answer
            return answer

        def execute_module(**unused):
            if isinstance(ending, Exception):
                raise ending
            return ending

        action = Action.__new__(Action)
        action.task_vars = {}
        action._connection = SimpleNamespace(transport=transport, exec_command=exec_command)
        action._execute_module = execute_module
        arguments = dict.fromkeys(["timeout", "restart_timeout"], 0)
        arguments.update(dict.fromkeys(["image_repository", "kubelet_serving_ca_file"], ""))
        with pytest.raises(cluster.ClusterError) as error:
            action.discover("w1", {**arguments, "control_plane": control_plane})
        return error.value, sent

    return run


@pytest.mark.parametrize(
    "ending",
    [
        AnsibleConnectionFailure(NO_SHELL),
        {"failed": True, "module_stdout": "'/bin/sh' is not recognized as an internal or external command", "rc": 1},
    ],
)
def test_windows_over_ssh_is_found_out(discover, ending):
    error, sent = discover(ending, WINDOWS)
    assert isinstance(error, cluster.WindowsHostError) and sent == ["cmd.exe /d /c ver"]


def test_another_host_keeps_its_own_error(discover):
    ending = {"failed": True, "module_stderr": "python3: not found"}
    for answer in (LINUX, AnsibleConnectionFailure("gone meanwhile")):
        error, sent = discover(ending, answer)
        assert not isinstance(error, cluster.WindowsHostError) and "its Python cannot be used" in str(error) and sent


@pytest.mark.parametrize(
    ("ending", "more"),
    [
        # It would be waited for once more.
        (AnsibleConnectionFailure("Failed to connect to the host via ssh: timed out"), {}),
        ({"failed": True}, {"transport": "local"}),
        ({"failed": True}, {"control_plane": True}),
    ],
)
def test_nobody_asks_where_it_cannot_be(discover, ending, more):
    error, sent = discover(ending, WINDOWS, **more)
    assert not isinstance(error, cluster.WindowsHostError) and sent == []
