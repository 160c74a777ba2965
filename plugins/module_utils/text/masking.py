# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What may be shown: command lines, flags and the texts of definitions without what is secret in them.

The only place that decides this. The texts are those of units, environment files, manifests, kubelet and kubeadm
configurations; they are masked as text, because what is shown may be broken, and hosts have no parser for YAML.
"""

from __future__ import annotations

import itertools
import re
import typing as t

from ansible_collections.kubemetrics.aggregation.plugins.module_utils.text.flags import normalize

MASK = "********"

_SECRET_KIND_OF_KEY = r"(?:api|app|access|secret|encryption|private)[-_]?key"
_SECRET_WORD = r"(?i:token|password|passwd|passphrase|secret|credentials?|" + _SECRET_KIND_OF_KEY + r")"
_SECRET_FLAG = re.compile(r"(^|-)" + _SECRET_WORD + r"$|^manifest-url-header$|^(basic-?)?auth$")
_SECRET_VARIABLE = re.compile(r"(?i)(pass|secret|token|credential|(access|api|app|encryption)_?key|private)")
#: Variables that name a file or a limit, and systemd's own directives, hold no secret.
_HARMLESS_VARIABLE = re.compile(r"(?i:_(file|path|dir|ttl|name))$|^(Private[A-Z]|Pass[A-Z]|LoadCredential|ImportCred)")
_SECRET_KEY = re.compile(
    r"(?i)(token|password|passwd|passphrase|secret|credentials?|certificatekey|key-?data|" + _SECRET_KIND_OF_KEY + r")$"
)

#: A password may have a slash in it where nobody has encoded it, as in those of databases: mysql://user:a/b@tcp(...).
#: What comes after the port of a host is a path, and its @ belongs to that.
_USERINFO = re.compile(
    r"(?P<scheme>[a-zA-Z][a-zA-Z0-9+.-]*://)"
    r"(?:[^\s\"']*@(?=(?:tcp|unix)\()|(?:[^/@\s,\"']*@)+|[^/@\s,\"':\[]*:(?!\d+/)[^@\s,\"']*@)"
)
#: What curl is given as a login.
_CURL_LOGIN = re.compile(r"(?P<lead>\bcurl\b[^\n|;&]*?[ \t](?:-u|--user)[ \t=]*[\"']?)(?P<login>[^\s\"']+:[^\s\"']*)")
#: A proxy may lack the scheme: user:password@proxy:3128.
_PROXY = re.compile(r"(?P<lead>(?i:\b(?:https?|all|ftp)_proxy)[\"']?[ \t]*[=:][ \t]*[\"']?)[^/@\s,\"']+@")
_FLOW_VALUE = re.compile(
    r"([\"']?\bvalue[\"']?[ \t]*:\s*)(\"(?:[^\"\\]|\\.)*\"|'(?:[^']|'')*'|[^,}\]\n\"'\[{ ][^,}\]]*)", re.DOTALL
)
_STANDING_ALONE = [
    re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL),
    # A bootstrap token, and a JSON web token.
    re.compile(r"(?<![\w./-])[a-z0-9]{6}\.[a-z0-9]{16}(?![\w./-])"),
    re.compile(r"eyJ[\w-]+\.[\w-]+\.[\w-]*"),
    re.compile(r"(?<=Bearer )[^\s\"',}\]]+|(?<=Basic )[\w+/=-]{6,}"),
]
_QUOTED = r"\\\"(?:[^\"\\]|\\[^\"])*\\?\"|\"(?:[^\"\\]|\\.)*\"|'[^'\n]*'"
_FLAG = re.compile(
    r"(?P<name>(?<![\w-])--?(?:(?:[A-Za-z0-9][\w-]*[-_])?"
    + _SECRET_WORD
    + r"|manifest[-_]url[-_]header|(?:basic[-_]?)?auth))"
    r"(?P<sign>=|[ \t]+(?:\\\r?\n(?:[ \t]*[#;][^\n]*\n)*[ \t]*)*|[\"']?[ \t]*,\s*(?!-))"
    r"(?P<value>" + _QUOTED + r"|[^\s\"'\\]*)"
)
#: Flags whose value holds spaces, by where they stand: an item of its own in quotes, an item of a list in YAML, and the
#: item that follows one. Which of them are secret is_secret_flag says.
_FLAG_ITEMS = [
    re.compile(
        r"(?P<lead>(?:^|(?<=[\s\[,]))(?P<quote>[\"'])(?P<name>--?[A-Za-z0-9][\w-]*)=)"
        r"(?P<value>(?:\\.|(?!(?P=quote))[^\\])*)(?=(?P=quote))",
        re.DOTALL,
    ),
    re.compile(
        r"(?m)^(?P<lead>(?P<indent>[ \t]*)-[ \t]+(?:[|>][0-9+-]*[ \t]*(?:\#[^\n]*)?\n[ \t]+)?"
        r"(?P<name>--?[A-Za-z0-9][\w-]*)=)(?P<value>[^\n]*(?:\n(?P=indent)[ \t]+\S[^\n]*)*)"
    ),
    re.compile(
        r"(?m)^(?P<lead>(?P<indent>[ \t]*)-[ \t]+[\"']?(?P<name>--?[A-Za-z0-9][\w-]*)[\"']?"
        r"(?:[ \t]*(?:\#[^\n]*)?\r?\n)+(?P=indent)-[ \t]+)"
        r"(?P<value>" + _QUOTED + r"|[^\n]*(?:\n(?P=indent)[ \t]+\S[^\n]*)*)"
    ),
]
_ASSIGNED_ITEM = re.compile(
    r"(?P<quote>[\"'])(?P<name>[A-Za-z_]\w*)=(?P<value>(?:\\.|(?!(?P=quote))[^\\])*)", re.DOTALL
)
_ASSIGNED_LINE = re.compile(
    r"(?m)^(?P<lead>[ \t]*(?:export[ \t]+)?(?P<name>[A-Za-z_]\w*)[ \t]*=[ \t]*)"
    r"(?P<value>(?:\"(?:[^\"\\]|\\.)*\"|'[^']*')*(?:[^\n\\]|\\(?:.|\n))*)",
    re.DOTALL,
)
_ASSIGNED_WORD = re.compile(
    # What Environment= sets is not its value: each of its words is an assignment.
    r"(?P<lead>(?<=[\s=])(?!Environment=)(?P<name>[A-Za-z_]\w*)=)"
    r"(?P<value>(?:\"(?:[^\"\\]|\\.)*\"|'[^']*'|[^\s\"'])+)"
)
_KEY = r"[\"']?(?P<key>[A-Za-z][\w.-]*)[\"']?[ \t]*:"
_SCALAR = r"\"(?:[^\"\\\n]|\\.)*\"|'(?:[^'\n]|'')*'|"
_FLOW_PAIR = re.compile(
    r"(?P<lead>[{,][ \t\n]*" + _KEY + r"[ \t]*)(?P<value>" + _SCALAR + r"[^,}\]\n\"'\[{ ][^,}\]\n]*)"
)
_BLOCK_PAIR = re.compile(r"^(?P<lead>(?P<indent>[ \t]*(?:-[ \t]+)*)" + _KEY + r"(?:[ \t]+|(?=\r?$)))(?P<rest>.*)$")
#: The rest of a line whose value stands below it: an anchor or a tag, the sign of a block, a comment.
_BELOW = re.compile(r"(?:[!&]\S*[ \t]*)*(?:[|>][0-9+-]*)?[ \t]*(?:\#.*)?\r?$")
#: A value on its line, up to what follows it.
_ON_LINE = re.compile(r"(?P<value>\"(?:[^\"\\]|\\.)*\"|'(?:[^']|'')*'|[\"']?.*?)(?P<end>[ \t]*,?[ \t]*(?:\#.*)?\r?)$")
_PAIR_OR_ITEM = re.compile(r"[ \t]*(?:-[ \t]|[?{\[]|[\"']?[A-Za-z][\w./-]*[\"']?[ \t]*:(?:\s|$))")
_FLOW_MAPPING = re.compile(r"\{(?:\"(?:[^\"\\]|\\.)*\"|'[^']*'|[^{}\"'])*\}", re.DOTALL)
_FLOW_NAME = re.compile(r"[{,\s][\"']?name[\"']?[ \t]*:\s*[\"']?([\w./-]+)")
_ENV = r"(?:env|extraEnvs)"
_NAME_LINE = re.compile(r"^[ \t]*(?:-[ \t]+)?[\"']?name[\"']?[ \t]*:[ \t]*[\"']?([\w./-]+)")
_NOTHING = {"", "true", "false", "null", "~", '""', "''", MASK, '"%s"' % MASK}


def is_secret_flag(name: str) -> bool:
    """Whether the value of a flag is a secret by itself; the name of a file with a secret is none."""
    return bool(_SECRET_FLAG.search(normalize(name)))


def strip_userinfo(value: str) -> str:
    """A URL, or a list of them, without user names and passwords."""
    value = _USERINFO.sub(lambda match: match.group("scheme"), value)
    # A proxy variable may lack the scheme: user:password@proxy:3128.
    return re.sub(r"^[^/@\s,]+@", "", value)


def mask_argv(argv: t.Sequence[str]) -> t.List[str]:
    """The command line with the values that are secrets taken out."""
    masked: t.List[str] = []
    hide_next = False
    logs_in = any(argument.rpartition("/")[2] == "curl" for argument in argv)
    for argument in argv:
        if hide_next and not argument.startswith("-"):
            masked.append(MASK)
            hide_next = False
            continue
        # The login that curl is given.
        hide_next = logs_in and argument in ("-u", "--user")
        name, equals, value = argument.partition("=")
        if argument.startswith("-") and is_secret_flag(name):
            hide_next = not equals
            masked.append(name + equals + (MASK if value else ""))
        elif re.search(r"\s", argument):
            # A whole command, as a shell is given it.
            masked.append(mask_text(argument))
        else:
            masked.append(_USERINFO.sub(lambda match: match.group("scheme"), argument))
    return masked


def mask_flags(values: t.Mapping[str, t.Any]) -> t.Dict[str, t.Any]:
    """Flags by their names, as they may be returned; None (not set) stays."""
    return {name: mask_flag(name, value) for name, value in values.items()}


def mask_flag(name: str, value: t.Any) -> t.Any:
    """The value of a flag as it may be shown."""
    if is_secret_flag(name) and value not in (None, "", []):
        return MASK
    if isinstance(value, list):
        return [mask_flag(name, entry) for entry in value]
    if isinstance(value, str) and re.search(r"\s", value):
        # As in a command line, which flags are compared with.
        return mask_text("--%s=%s" % (name, value)).partition("=")[2]
    return _USERINFO.sub(lambda match: match.group("scheme"), value) if isinstance(value, str) else value


def mask_text(text: str) -> str:
    """A definition, or a sentence about one, without secrets. Lines stay where they are, so that diffs stay true."""
    text = mask_standing_alone(mask_kubelet_config(text))
    text = _USERINFO.sub(lambda match: match.group("scheme") + MASK + "@", text)
    text = _PROXY.sub(lambda match: match.group("lead") + MASK + "@", text)
    for pattern in _FLAG_ITEMS:
        text = _mask_flag_items(pattern, text)
    text = _FLAG.sub(_mask_flag_match, text)
    text = _CURL_LOGIN.sub(lambda match: match.group("lead") + MASK, text)
    for pattern in (_ASSIGNED_ITEM, _ASSIGNED_LINE, _ASSIGNED_WORD):
        text = pattern.sub(_mask_variable, text)
    return _mask_pairs(text)


def mask_standing_alone(text: str) -> str:
    """A text without what is a secret by its own form: private keys, tokens, credentials of requests."""
    for pattern in _STANDING_ALONE:
        text = pattern.sub(lambda match: MASK + "\n" * match.group(0).count("\n"), text)
    return text


def _hidden(value: str) -> str:
    """The mask in the place of a value, in its quotes, over as many lines."""
    quote = re.match(r"\\?[\"']", value)
    mark = quote.group(0) if quote and value.endswith(quote.group(0)) and len(value) > len(quote.group(0)) else ""
    return mark + MASK + "\n" * value.count("\n") + mark


def _mask_flag_match(match: "t.Match[str]") -> str:
    value = match.group("value")
    if not value:
        return match.group(0)
    return match.group("name") + match.group("sign") + _hidden(value)


def _mask_flag_items(pattern: "t.Pattern[str]", text: str) -> str:
    parts: t.List[str] = []
    position = 0
    match = pattern.search(text)
    while match:
        # What follows a flag that is no secret may be one that is.
        after = match.end("name")
        if match.group("value").strip() and is_secret_flag(match.group("name")):
            parts += [text[position : match.start("value")], _hidden(match.group("value"))]
            position = after = match.end()
        match = pattern.search(text, after)
    return "".join(parts) + text[position:]


def _mask_variable(match: "t.Match[str]") -> str:
    name, value = match.group("name"), match.group("value")
    # Such as a feature gate that is on.
    if value.strip() in _NOTHING or not _SECRET_VARIABLE.search(name) or _HARMLESS_VARIABLE.search(name):
        return match.group(0)
    return match.group(0)[: match.start("value") - match.start(0)] + _hidden(value)


def _mask_pairs(text: str) -> str:
    """The pairs of YAML and JSON whose keys say that they are secrets, and the variables of containers."""
    text = _FLOW_MAPPING.sub(_mask_named, _mask_flow_env(text))
    text = _FLOW_PAIR.sub(_mask_pair, text)
    lines = text.split("\n")
    result: t.List[str] = []
    env_indent: t.Optional[int] = None
    #: Lines that are indented deeper than this belong to a value that is hidden.
    block_indent: t.Optional[int] = None
    secret_name = False
    for number, line in enumerate(lines):
        indent = len(line) - len(line.lstrip(" \t"))
        stripped = line.strip()
        if block_indent is not None and (not stripped or indent > block_indent):
            result.append(line[:indent] + MASK if stripped else line)
            continue
        block_indent = None
        if env_indent is not None and stripped and not stripped.startswith("#"):
            inside = indent > env_indent or (indent == env_indent and stripped.startswith("-"))
            env_indent = env_indent if inside else None
            if inside and re.match(r"-[ \t]+\{", stripped):
                rest = "\n".join(lines[number:])
                end = _end_of_flow(rest, rest.index("{"))
                lines[number:] = (_mask_values(rest[:end]) + rest[end:]).split("\n")
                line = lines[number]
        if re.match(r"^[ \t]*(-[ \t]+)?" + _ENV + r":[ \t]*(#.*)?$", line):
            env_indent = indent + (2 if stripped.startswith("-") else 0)
        if stripped.startswith("-"):
            secret_name = False
        named = _NAME_LINE.match(line)
        if named:
            secret_name = is_secret_flag(named.group(1))
        match = _BLOCK_PAIR.match(line)
        if match is None:
            result.append(line)
            continue
        column = len(match.group("indent"))
        scalar = match.group("key") == "value" and (
            env_indent is not None or secret_name or _is_named_below(lines, number, column)
        )
        if not scalar and not _is_secret_key(match.group("key")):
            result.append(line)
        elif _BELOW.match(match.group("rest")):
            result.append(line)
            # Below a key that only sounds like a secret may be a mapping, such as a volume's.
            if scalar or re.search(r"[|>]", match.group("rest").split("#")[0]) or not _is_structure(lines, number + 1):
                block_indent = column
        elif match.group("rest")[0] in "[{":
            result.append(line)
        else:
            result.append(match.group("lead") + _hidden_on_line(match.group("rest")))
            block_indent = column
    return "\n".join(result)


def _hidden_on_line(rest: str) -> str:
    """What follows a key on its line, without the value."""
    found = _ON_LINE.match(rest)
    if found is None or found.group("value") in _NOTHING:
        return rest
    value = found.group("value")
    end = found.group("end") if value[-1] == value[0] and value[0] in "\"'" else rest[len(rest.rstrip(" \t\r")) :]
    return _hidden(value) + end


def _is_structure(lines: t.Sequence[str], number: int) -> bool:
    """Whether a mapping or a list begins in one of the lines from this one on, and no text."""
    following = (
        line for line in itertools.islice(lines, number, None) if line.strip() and not line.strip().startswith("#")
    )
    return bool(_PAIR_OR_ITEM.match(next(following, "")))


def _is_named_below(lines: t.Sequence[str], number: int, column: int) -> bool:
    """Whether the entry with a value in this column has the name of a secret flag in one of the lines below."""
    for line in itertools.islice(lines, number + 1, None):
        indent = len(line) - len(line.lstrip(" \t"))
        if line.strip() and not line.strip().startswith("#"):
            if indent < column:
                return False
            named = _NAME_LINE.match(line) if indent == column and line[indent] != "-" else None
            if named:
                return is_secret_flag(named.group(1))
    return False


def _mask_values(text: str) -> str:
    return _FLOW_VALUE.sub(lambda found: found.group(1) + _hidden(found.group(2)), text)


def _mask_named(match: "t.Match[str]") -> str:
    """A mapping in flow style with the name and the value of a flag."""
    name = _FLOW_NAME.search(match.group(0))
    return _mask_values(match.group(0)) if name and is_secret_flag(name.group(1)) else match.group(0)


def _is_secret_key(key: str) -> bool:
    return bool(_SECRET_KEY.search(key)) and key.lower() != "imagepullsecret"


def _mask_pair(match: "t.Match[str]") -> str:
    value = match.group("value")
    if not _is_secret_key(match.group("key")) or value.strip() in _NOTHING:
        return match.group(0)
    return match.group("lead") + _hidden(value)


def _mask_flow_env(text: str) -> str:
    """Containers' variables in flow style: every value between the brackets."""
    result = []
    position = 0
    for match in re.finditer(r"[\"']?\b" + _ENV + r"[\"']?[ \t]*:\s*(?=[\[{])", text):
        if match.start() < position:
            continue
        end = _end_of_flow(text, match.end())
        result.append(text[position : match.end()])
        result.append(_mask_values(text[match.end() : end]))
        position = end
    result.append(text[position:])
    return "".join(result)


def mask_kubelet_config(text: str) -> str:
    """A kubelet configuration without the values of staticPodURLHeader, still of the same form."""
    result = []
    position = 0
    for match in re.finditer(r"""["']?staticPodURLHeader["']?[ \t]*:[ \t]*""", text):
        if match.start() < position:
            continue
        result.append(text[position : match.end()])
        position = match.end()
        if text[position : position + 1] == "{":
            result.append('{"masked": ["%s"]}' % MASK)
            position = _end_of_flow(text, position)
            continue
        line_start = text.rfind("\n", 0, match.start()) + 1
        indent = match.start() - line_start
        end = text.find("\n", position)
        end = len(text) if end < 0 else end
        empty = text[position:end].split("#")[0].strip() in ("", "null", "~")
        result.append(text[position:end] if empty else '"%s"' % MASK)
        block, position = _masked_block(text, end, indent)
        result.append(block)
    result.append(text[position:])
    return "".join(result)


def _end_of_flow(text: str, start: int) -> int:
    depth = 0
    quote = ""
    position = start
    while position < len(text):
        char = text[position]
        if quote:
            if char == "\\" and quote == '"':
                position += 1
            elif char == quote:
                quote = ""
        elif char in "\"'":
            quote = char
        elif char in "{[":
            depth += 1
        elif char in "}]":
            depth -= 1
            if depth == 0:
                return position + 1
        position += 1
    return len(text)


def _masked_block(text: str, start: int, indent: int) -> t.Tuple[str, int]:
    """The lines below a key of a block mapping that belong to it, values masked, and where they end."""
    kept = []
    position = start
    while position < len(text):
        end = text.find("\n", position + 1)
        end = len(text) if end < 0 else end
        line = text[position + 1 : end]
        stripped = line.strip()
        if stripped and len(line) - len(line.lstrip(" \t")) <= indent:
            break
        key = re.match(r"""^(\s*(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')\s*:)(.*)$""", line)
        if key:
            kept.append("\n" + key.group(1) + (' "%s"' % MASK if key.group(2).strip() else ""))
        elif stripped.startswith("-"):
            kept.append("\n" + line[: line.index("-")] + '- "%s"' % MASK)
        position = end
    return "".join(kept), position
