# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Change single values of a YAML document and leave every other byte of it alone.

The parser says where each node stands in the text; an edit replaces exactly that span. Because each result is parsed
again and compared with what it has to mean, a document of a shape that the text surgery does not know ends in an error,
never in a wrong file. Runs on the controller, where PyYAML is a part of Ansible.
"""

from __future__ import annotations

import copy
import json
import re

try:
    import yaml
except ImportError:  # ansible-core itself needs PyYAML; only a host that merely imports this file can lack it
    yaml = None

_BOOL_WORDS = {"y", "n", "yes", "no", "on", "off", "true", "false", "null", "~", "", "<<", "="}
_NUMBER_LIKE = re.compile(
    r"^[-+]?(0[xob][0-9a-f_]+|[0-9._]*[0-9][0-9._]*(e[-+]?[0-9]+)?|\.inf|\.nan|[0-9]+(:[0-9]+)+)$", re.IGNORECASE
)
_PLAIN_DATE = re.compile(r"^[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}")


class YamlTextError(Exception):
    """One sentence for the user: what is wrong with which document."""


def merged(data, desired, same=None):
    """``data`` with ``desired`` merged into it: mappings recurse, None removes, everything else replaces."""
    same = same or same_value
    result = dict(data) if isinstance(data, dict) else {}
    for key, value in desired.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict):
            result[key] = merged(result.get(key), value, same)
        elif key not in result or not same(result[key], value):
            result[key] = copy.deepcopy(value)
    return result


def same_value(left, right):
    """Equality in which true is not 1 and "1" is not 1."""
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same_value(value, right[key]) for key, value in left.items())
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(same_value(one, two) for one, two in zip(left, right))  # noqa: B905 - 3.8 has no strict
    if isinstance(left, bool) or isinstance(right, bool):
        return isinstance(left, bool) and isinstance(right, bool) and left == right
    if isinstance(left, (int, float)) and isinstance(right, (int, float)):
        return left == right
    return type(left) is type(right) and left == right


def render_scalar(value, style=None):
    """``value`` as one line of YAML that means the same to YAML 1.1 and 1.2 parsers; ``style`` is a wish (' or \")."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return json.dumps(value)
    printable = value.isprintable()
    if style == "'" and printable:
        return "'" + value.replace("'", "''") + "'"
    if (
        style == '"'
        or not printable
        or value.lower() in _BOOL_WORDS
        or _NUMBER_LIKE.match(value)
        or _PLAIN_DATE.match(value)
    ):
        return json.dumps(value, ensure_ascii=not printable)
    text = yaml.safe_dump(value, width=float("inf"), allow_unicode=True)
    return text[: -len("\n...\n")] if text.endswith("\n...\n") else text.rstrip("\n")


def render_block(value, indent, newline):
    """A collection in block style, each line indented by ``indent``, without a final newline."""
    text = yaml.dump(
        value, Dumper=_dumper(), default_flow_style=False, sort_keys=False, width=float("inf"), allow_unicode=True
    )
    return newline.join(" " * indent + line if line else line for line in text.rstrip("\n").split("\n"))


def _dumper():
    """A dumper whose strings obey render_scalar's rules for what has to be quoted, and which writes no aliases."""

    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data):
            return True

    def represent_str(dumper, value):
        quoted = value.lower() in _BOOL_WORDS or _NUMBER_LIKE.match(value) or _PLAIN_DATE.match(value)
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style='"' if quoted else None)

    Dumper.add_representer(str, represent_str)
    return Dumper


class YamlText:
    """A single YAML document as text; ``data`` is what it means now, ``text`` what it looks like now."""

    def __init__(self, text, name):
        self.name = name
        self.text = text
        self._json_only = False
        self._load()

    # --- reading ---

    def _load(self):
        try:
            self.root, self.data = _compose(self.text)
        except yaml.YAMLError as exc:
            if self._load_json():
                return
            problem = f"is not valid YAML: {_problem(exc)}"
            raise YamlTextError(f"{self.name} {problem}; correct the file first.") from None
        except RecursionError:
            raise YamlTextError(f"{self.name} is nested too deeply to be a configuration file.") from None
        except _ShapeError as exc:
            raise YamlTextError(f"{self.name} {exc}; correct the file first.") from None
        self._json_only = False

    def _load_json(self):
        """Take the text as JSON, which may be indented with tabs, as YAML must not be."""
        if not self.text.lstrip().startswith("{"):
            return False
        try:
            self.data = json.loads(self.text)
        except ValueError:
            return False
        self.root, self._json_only = None, True
        return True

    @property
    def newline(self):
        return "\r\n" if "\r\n" in self.text else "\n"

    def get(self, path, default=None):
        """The value at ``path`` (a sequence of keys and indexes), or ``default``."""
        value = self.data
        for step in path:
            known = step in value if isinstance(value, dict) else isinstance(value, list) and step in range(len(value))
            if not known:
                return default
            value = value[step]
        return value

    # --- changing ---

    def merge(self, desired, same=None):
        """Merge ``desired`` (see ``merged``) into the document."""
        if self.data is not None and not isinstance(self.data, dict):
            raise YamlTextError(f"{self.name} is not a mapping of settings; correct the file first.")
        expected = merged(self.data, desired, same)
        if same_value(self.data if self.data is not None else {}, expected):
            return
        self._merge_at((), desired, same or same_value)
        self._check(expected)

    def _merge_at(self, path, desired, same):
        for key, value in desired.items():
            present = key in (self.get(path) or {})
            current = self.get((*path, key))
            if value is None:
                if present:
                    self._delete((*path, key))
            elif isinstance(value, dict):
                if isinstance(current, dict):
                    self._merge_at((*path, key), value, same)
                else:
                    self._set((*path, key), merged({}, value))
            elif not present or not same(current, value):
                self._set((*path, key), value)

    def set(self, path, value):
        """Set the value at ``path``; its parent must exist. For a sequence the index may be one past the end."""
        expected = copy.deepcopy(self.data)
        parent = expected
        for step in path[:-1]:
            parent = parent[step]
        if isinstance(parent, list) and path[-1] == len(parent):
            parent.append(value)
        else:
            parent[path[-1]] = value
        self._set(tuple(path), value)
        self._check(expected)

    def insert(self, path, value):
        """Insert a scalar into a sequence before the index ``path[-1]``."""
        expected = copy.deepcopy(self.data)
        parent = expected
        for step in path[:-1]:
            parent = parent[step]
        parent.insert(path[-1], value)
        self._insert_item(self._node(path[:-1]), path[-1], value)
        self._check(expected)

    def delete(self, path):
        """Remove the entry at ``path``."""
        expected = copy.deepcopy(self.data)
        parent = expected
        for step in path[:-1]:
            parent = parent[step]
        del parent[path[-1]]
        self._delete(tuple(path))
        self._check(expected)

    def _check(self, expected):
        if not same_value(self.data, expected):
            raise self._cannot()

    def _cannot(self):
        return YamlTextError(
            f"{self.name} is written in a way that cannot be changed without touching other parts (anchors, merge "
            "keys, explicit keys); make the change by hand."
        )

    def _replace(self, start, end, text):
        before = self.text
        self.text = self.text[:start] + text + self.text[end:]
        try:
            self._load()
        except YamlTextError:
            self.text = before
            self._load()
            raise self._cannot() from None

    def _replace_json(self, path, change):
        data = copy.deepcopy(self.data)
        parent = data
        for step in path[:-1]:
            parent = parent[step]
        change(parent)
        match = re.search(r"\n([ \t]+)\S", self.text)
        indent = match.group(1) if match else None
        tail = "\n" if self.text.endswith("\n") else ""
        self.text = json.dumps(data, indent=indent, ensure_ascii=False) + tail
        self.data = data

    # --- nodes ---

    def _node(self, path):
        node = self.root
        for step in path:
            node = self._node_child(node, step)
        return node

    def _pair(self, mapping, key):
        for key_node, value_node in mapping.value:
            if _key_value(key_node) == key:
                return key_node, value_node
        # Reached through a merge key: the entry is real but stands elsewhere.
        raise self._cannot()

    def _content_end(self, node):
        """The index after the last character of ``node``, without the blank lines and comments the parser counts in."""
        if isinstance(node, yaml.CollectionNode) and not node.flow_style:
            if not node.value:
                return node.start_mark.index
            last = node.value[-1]
            return self._content_end(last[1] if isinstance(last, tuple) else last)
        end = node.end_mark.index
        if isinstance(node, yaml.ScalarNode) and node.style in ("|", ">"):
            body = self.text[node.start_mark.index : end]
            header = body.split("\n", 1)[0]
            return node.start_mark.index + len(body[:-1] if "+" in header and body.endswith("\n") else body.rstrip())
        return end

    def _line_start(self, index):
        return self.text.rfind("\n", 0, index) + 1

    def _line_end(self, index):
        end = self.text.find("\n", index)
        end = len(self.text) if end < 0 else end
        return end - 1 if end > index and self.text[end - 1] == "\r" else end

    def _after_line(self, index):
        end = self.text.find("\n", index)
        return len(self.text) if end < 0 else end + 1

    def _alone_on_line(self, index):
        return not self.text[self._line_start(index) : index].strip()

    # --- setting ---

    def _set(self, path, value):
        if self._json_only:

            def change(parent):
                if isinstance(parent, list) and path[-1] == len(parent):
                    parent.append(value)
                else:
                    parent[path[-1]] = value

            self._replace_json(path, change)
            return
        if not path[:-1] and (self.root is None or _is_null(self.root)):
            self._start_document(path[-1], value)
            return
        parent = self._node(path[:-1])
        if isinstance(parent, yaml.SequenceNode):
            if path[-1] == len(parent.value):
                self._insert_item(parent, path[-1], value)
            else:
                node = parent.value[path[-1]]
                self._replace(node.start_mark.index, self._content_end(node), self._inline(value, node))
            return
        if isinstance(parent, yaml.MappingNode):
            if any(_key_value(key) == path[-1] for key, _value in parent.value):
                self._set_existing(parent, path[-1], value)
            elif parent.value and not parent.flow_style:
                self._add_to_block(parent, path[-1], value)
            elif parent.value or self._in_flow(path[:-1]):
                self._add_to_flow(parent, path[-1], value)
            else:
                self._set_collection_at(path[:-1], {path[-1]: value})
            return
        # The parent is empty or a scalar: it becomes a mapping.
        self._set_collection_at(path[:-1], {path[-1]: value})

    def _set_collection_at(self, path, value):
        if not path:
            self._replace(
                self.root.start_mark.index, self._content_end(self.root), render_block(value, 0, self.newline)
            )
            return
        parent = self._node(path[:-1])
        if isinstance(parent, yaml.MappingNode):
            self._set_existing(parent, path[-1], value)
        else:
            node = parent.value[path[-1]]
            self._replace(node.start_mark.index, self._content_end(node), json.dumps(value, ensure_ascii=False))

    def _in_flow(self, path):
        node = self.root
        for step in path:
            if node.flow_style:
                return True
            node = self._node_child(node, step)
        return False

    def _node_child(self, node, step):
        return self._pair(node, step)[1] if isinstance(node, yaml.MappingNode) else node.value[step]

    def _start_document(self, key, value):
        body = render_block({key: value}, 0, self.newline) + self.newline
        text = self.text
        if text and not text.endswith("\n"):
            text += self.newline
        if text.strip() in ("{}", "null", "~"):
            text = ""
        self._replace(0, len(self.text), text + body)

    def _inline(self, value, old):
        if isinstance(value, (dict, list)):
            return json.dumps(value, ensure_ascii=False)
        return render_scalar(value, old.style if isinstance(old, yaml.ScalarNode) and isinstance(value, str) else None)

    def _set_existing(self, parent, key, value):
        key_node, old = self._pair(parent, key)
        colon = self.text.index(":", key_node.end_mark.index) + 1
        start, end = old.start_mark.index, self._content_end(old)
        flat = parent.flow_style or not isinstance(value, (dict, list)) or not value
        if flat:
            rendered = self._inline(value, old)
            if isinstance(old, yaml.CollectionNode) and not old.flow_style and old.value:
                # Cut whole lines, so that a comment behind the key survives.
                cut = self._line_end(key_node.end_mark.index)
                self._replace(colon, end, " " + rendered + self.text[colon:cut].rstrip())
            elif start == end:
                self._replace(colon, colon, " " + rendered)
            else:
                self._replace(start, end, rendered)
            return
        indent = key_node.start_mark.column + (0 if isinstance(value, list) else self._step())
        block = self.newline + render_block(value, indent, self.newline)
        if isinstance(old, yaml.CollectionNode) and not old.flow_style and old.value:
            cut = self._line_end(key_node.end_mark.index)
            self._replace(cut, end, block)
        else:
            line_end = self._line_end(end)
            self._replace(colon, line_end, self.text[end:line_end].rstrip() + block)

    def _step(self):
        """The indentation that this document uses for nested mappings."""
        step = self._nested_step(self.root)
        return step or 2

    def _nested_step(self, node):
        if isinstance(node, yaml.MappingNode) and not node.flow_style:
            for key, value in node.value:
                if isinstance(value, yaml.MappingNode) and not value.flow_style and value.value:
                    return value.value[0][0].start_mark.column - key.start_mark.column
        return None

    def _add_to_block(self, parent, key, value):
        indent = parent.value[0][0].start_mark.column
        position = self._line_end(self._content_end(parent))
        if isinstance(value, (dict, list)) and value:
            entry = {key: value}
            text = render_block(entry, indent, self.newline)
            text = text if _has_list(value) else self._restep(text, indent)
        else:
            rendered = json.dumps(value) if isinstance(value, (dict, list)) else render_scalar(value)
            text = " " * indent + render_scalar(key) + ": " + rendered
        self._replace(position, position, self.newline + text)

    def _restep(self, text, indent):
        """Stretch the two-space steps of rendered mappings to the document's own step."""
        step = self._step()
        if step == 2:
            return text
        lines = []
        for line in text.split(self.newline):
            body = line.lstrip(" ")
            depth = (len(line) - len(body) - indent) // 2
            lines.append(" " * (indent + depth * step) + body)
        return self.newline.join(lines)

    def _add_to_flow(self, parent, key, value):
        if parent.value:
            last_key, last_value = parent.value[-1]
            rendered_key = json.dumps(key) if last_key.style == '"' else render_scalar(key)
        else:
            last_key = last_value = None
            rendered_key = json.dumps(key)
        self._add_flow_entry(parent, last_key, last_value, rendered_key + ": " + self._flow_value(value))

    def _flow_value(self, value):
        return json.dumps(value, ensure_ascii=False)

    def _add_flow_entry(self, parent, first, last, entry):
        """Append ``entry`` to a flow collection; ``first``/``last`` are the first and last node of its last entry."""
        if last is None:
            self._replace(parent.start_mark.index + 1, parent.start_mark.index + 1, entry)
            return
        end = self._content_end(last)
        comma = re.compile(r"(?:\s|#[^\n]*\n)*,").match(self.text, end, parent.end_mark.index)
        lead = "" if comma else ","
        position = comma.end() if comma else end
        if self._alone_on_line(first.start_mark.index):
            entry = lead + self.newline + " " * first.start_mark.column + entry
        else:
            entry = lead + " " + entry
        self._replace(position, position, entry)

    def _insert_item(self, sequence, index, value):
        if self._json_only or not isinstance(sequence, yaml.SequenceNode):
            raise self._cannot()
        items = sequence.value
        neighbour = items[min(index, len(items) - 1)] if items else None
        style = neighbour.style if isinstance(neighbour, yaml.ScalarNode) and neighbour.style in ("'", '"') else None
        if sequence.flow_style:
            rendered = (
                render_scalar(value, style or '"') if not isinstance(value, (dict, list)) else self._flow_value(value)
            )
            if index >= len(items):
                self._add_flow_entry(sequence, neighbour, neighbour, rendered)
                return
            start = items[index].start_mark.index
            if self._alone_on_line(start):
                self._replace(start, start, rendered + "," + self.newline + " " * items[index].start_mark.column)
            else:
                self._replace(start, start, rendered + ", ")
            return
        column = sequence.start_mark.column
        if isinstance(value, (dict, list)):
            body = render_block([value], column, self.newline)
        else:
            body = " " * column + "- " + render_scalar(value, style)
        if index >= len(items):
            position = self._line_end(self._content_end(sequence))
            self._replace(position, position, self.newline + body)
        else:
            position = self._line_start(self._dash(items[index]))
            self._replace(position, position, body + self.newline)

    def _dash(self, node):
        """Where the dash of an item of a block sequence is; between both may be comments, with dashes of their own."""
        position = max(node.start_mark.index, 1)
        while position > 0:
            position = self.text.rfind("-", 0, position)
            if position >= 0 and "#" not in self.text[self._line_start(position) : position]:
                return position
        raise self._cannot()

    # --- deleting ---

    def _delete(self, path):
        if self._json_only:
            self._replace_json(path, lambda parent: parent.__delitem__(path[-1]))
            return
        parent = self._node(path[:-1])
        if isinstance(parent, yaml.SequenceNode):
            entries = [(node, node) for node in parent.value]
            position = path[-1]
        else:
            entries = list(parent.value)
            position = next((i for i, pair in enumerate(entries) if _key_value(pair[0]) == path[-1]), None)
            if position is None:
                raise self._cannot()
        if len(entries) == 1:
            self._empty(path[:-1], "[]" if isinstance(parent, yaml.SequenceNode) else "{}", parent)
            return
        first, last = entries[position]
        if parent.flow_style:
            if position + 1 < len(entries):
                self._replace(first.start_mark.index, entries[position + 1][0].start_mark.index, "")
            else:
                self._replace(self._content_end(entries[position - 1][1]), self._content_end(last), "")
            return
        start = self._dash(first) if isinstance(parent, yaml.SequenceNode) else first.start_mark.index
        if self._alone_on_line(start):
            self._replace(self._line_start(start), self._after_line(self._content_end(last)), "")
        elif position + 1 < len(entries):
            following = entries[position + 1][0].start_mark.index
            self._replace(start, following, "")
        else:
            raise self._cannot()

    def _empty(self, path, rendered, node):
        if not path or node.flow_style:
            end = self._content_end(node)
            self._replace(node.start_mark.index, end, rendered)
            return
        parent = self._node(path[:-1])
        if isinstance(parent, yaml.MappingNode):
            self._set_existing(parent, path[-1], {} if rendered == "{}" else [])
        else:
            self._replace(node.start_mark.index, self._content_end(node), rendered)


def _has_list(value):
    return isinstance(value, list) or (isinstance(value, dict) and any(_has_list(one) for one in value.values()))


class _ShapeError(Exception):
    """A document that parses but is not one that can be edited."""


def _compose(text):
    loader = yaml.SafeLoader(text)
    roots = []
    try:
        while loader.check_node():
            roots.append(loader.get_node())
    finally:
        loader.dispose()
    real = [node for node in roots if not _is_null(node)]
    if len(real) > 1 or (real and real[0] is not roots[0]):
        raise _ShapeError(f"holds {len(roots)} YAML documents where one is expected")
    root = real[0] if real else (roots[0] if roots else None)
    if root is None:
        return None, None
    _check_duplicates(root, set())
    data = next(iter(yaml.load_all(text, Loader=yaml.SafeLoader)))  # noqa: S506 - SafeLoader; load() refuses a trailing "---"
    return root, data


def _check_duplicates(node, seen):
    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.MappingNode):
        keys = set()
        for key, value in node.value:
            name = _key_value(key)
            if name in keys:
                raise _ShapeError(f"sets {name!r} twice in the same mapping (line {key.start_mark.line + 1})")
            keys.add(name)
            _check_duplicates(value, seen)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _check_duplicates(item, seen)


def _key_value(node):
    return node.value if isinstance(node, yaml.ScalarNode) else id(node)


def _is_null(node):
    return isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null"


def _problem(exc):
    mark = getattr(exc, "problem_mark", None)
    problem = getattr(exc, "problem", None) or getattr(exc, "reason", None) or "it cannot be parsed"
    return f"{problem} in line {mark.line + 1}, column {mark.column + 1}" if mark else str(problem)
