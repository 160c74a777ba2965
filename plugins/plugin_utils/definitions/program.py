# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether a definition starts the component itself, and what to do where somebody else writes its flags."""

from __future__ import annotations

import posixpath
import typing as t

from ansible_collections.kubemetrics.aggregation.plugins.module_utils.text import (
    distributions,
    flag_plan,
    flags,
    masking,
)

SHELLS = {"sh", "bash", "dash", "ash", "ksh", "zsh", "busybox"}
_MENTIONED = 5

#: Programs that start components with flags of their own, by their base name, and the manager that they stand for.
_PROGRAMS = {"k0s": "k0s", "k3s": "k3s", "rke2": "rke2", "minikube": "minikube", "kubelite": "microk8s"}


class DefinitionError(Exception):
    """One sentence: what is wrong with which file, and what to do."""


class ForeignDefinitionError(DefinitionError):
    """The definition starts something else, which gives the component its flags."""


def program_index(words: t.Sequence[str], component: str, path: str) -> int:
    """The index of the word that names the program; its arguments follow. Raises DefinitionError for another one."""
    program = posixpath.basename(words[0]) if words else ""
    index = flags.program_index(words, component)
    shell = program in SHELLS or program.endswith(".sh")
    if index is not None and not (shell and "-c" in words[1:index]):
        return index
    if shell:
        raise DefinitionError(
            f"{path} starts {component} through {words[0]}, whose text cannot be edited safely; change the flags there "
            "by hand, or let the definition start the program itself."
        )
    if program in _PROGRAMS:
        raise DefinitionError(f"{path} starts {program}: {distribution_advice(component, _PROGRAMS[program], {})}")
    if program == "snap":
        raise ForeignDefinitionError(
            f"{path} starts {component} through {words[0]}, and the snap gives it its flags; change them where the "
            "snap takes them (its file args, or an option of its charm such as api-extra-args), and restart it there."
        )
    raise ForeignDefinitionError(
        f"{path} does not start {component} but {words[0] if words else 'nothing'}, which gives it flags of its own; "
        "change them where that program takes them, or let the definition start the component itself."
    )


def distribution_advice(component: str, manager: str, wanted: t.Mapping[str, t.Any]) -> str:
    """Where the flags of a distribution's component belong, with the lines to put there."""
    pairs = [
        (flag, text)
        for flag, value in wanted.items()
        for text in flag_plan.values_of(component, flag, masking.mask_flag(flag, value))
    ]
    what = distributions.flags_clause(manager, component, pairs)
    return f"{distributions.TABLE[manager].name} writes the flags of {component} itself; {what}."


def disagreement(
    component: str,
    path: str,
    running: t.Mapping[str, t.Any],
    defined: t.Mapping[str, t.Any],
    edited_since_start: bool,
) -> str:
    """Why a definition cannot be what started the running process, as a sentence; empty when it can.

    Flags that the definition lacks come from somewhere else. A definition that was edited after the start may have
    lost some; then it has to lack most of them.
    """
    lacking = [name for name in running if name not in defined]
    if not lacking or (edited_since_start and len(lacking) * 2 <= len(running)):
        return ""
    shown = ", ".join(f"--{name}" for name in lacking[:_MENTIONED])
    more = f" and {len(lacking) - _MENTIONED} more" if len(lacking) > _MENTIONED else ""
    return (
        f"{component} runs with flags that {path} does not give it ({shown}{more}), so that something else starts it; "
        "change its flags there, or restart the service if the definition is newer, and run again."
    )
