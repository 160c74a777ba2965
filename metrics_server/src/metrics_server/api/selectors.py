# SPDX-License-Identifier: GPL-3.0-or-later
"""Label and field selectors, in the full grammar of the Kubernetes API.

A selector is compiled once into a tuple of requirements; matching one object is then a short loop over them. The
messages of `SelectorError` are those that Kubernetes clients know.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

_WHITESPACE = " \t\r\n"
_SYMBOLS = "=!(),><"
_OPERATORS = ("==", "!=", "=", "!", "(", ")", ",", ">", "<")
_BINARY_OPERATORS = "in, notin, =, ==, !=, gt, lt"
_KEYWORDS = frozenset({"in", "notin"})

_NAME = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")
_VALUE = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_INTEGER = re.compile(r"[+-]?[0-9]+")

#: Longer selectors are refused: no client writes them, and each costs a pass over every pod.
MAX_SELECTOR_LENGTH = 16 * 1024

_ENDS = "and must start and end with an alphanumeric character"
_NAME_RULE = (
    f"must consist of alphanumeric characters, '-', '_' or '.', {_ENDS} "
    "(e.g. 'MyName',  or 'my.name',  or '123-abc', "
    "regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
)
_VALUE_RULE = (
    f"a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', {_ENDS} "
    "(e.g. 'MyValue',  or 'my_value',  or '12345', "
    "regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
)
_SUBDOMAIN_RULE = (
    f"a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', {_ENDS} "
    "(e.g. 'example.com', "
    "regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)


class SelectorError(ValueError):
    """The selector cannot be parsed; the text says where."""


@dataclass(frozen=True, slots=True)
class Requirement:
    """One condition on one label."""

    key: str
    #: One of `exists`, `absent`, `in`, `notin`, `gt`, `lt`.
    operator: str
    values: frozenset[str] = frozenset()
    bound: int = 0

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether the labels of an object satisfy this condition."""
        value = labels.get(self.key)
        if self.operator == "in":
            return value is not None and value in self.values
        if self.operator == "notin":
            return value is None or value not in self.values
        if self.operator == "exists":
            return value is not None
        if self.operator == "absent":
            return value is None
        number = None if value is None else _integer(value)
        if number is None:
            return False
        return number > self.bound if self.operator == "gt" else number < self.bound


@dataclass(frozen=True, slots=True)
class LabelSelector:
    """A conjunction of requirements; empty matches everything."""

    requirements: tuple[Requirement, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.requirements)

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether an object with these labels is selected."""
        return all(requirement.matches(labels) for requirement in self.requirements)


def parse_label_selector(text: str) -> LabelSelector:
    """Compile a label selector; raise `SelectorError` if it is not one."""
    if len(text) > MAX_SELECTOR_LENGTH:
        raise SelectorError(f"the selector is longer than {MAX_SELECTOR_LENGTH} characters")
    return LabelSelector(_LabelParser(text).parse())


def _integer(text: str) -> int | None:
    # 19 digits hold every 64-bit integer; a longer text is no number to Kubernetes either.
    if not _INTEGER.fullmatch(text) or len(text) > 20:
        return None
    number = int(text)
    return number if -(2**63) <= number < 2**63 else None


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    """Yield (kind, literal): kind is `id`, `end`, `error` or the symbol itself."""
    position = 0
    while position < len(text):
        char = text[position]
        if char in _WHITESPACE:
            position += 1
            continue
        if char in _SYMBOLS:
            symbol = next((op for op in _OPERATORS if text.startswith(op, position)), char)
            position += len(symbol)
            yield symbol, symbol
            continue
        start = position
        while position < len(text) and text[position] not in _WHITESPACE and text[position] not in _SYMBOLS:
            position += 1
        word = text[start:position]
        yield (word if word in _KEYWORDS else "id"), word
    yield "end", ""


class _LabelParser:
    def __init__(self, text: str) -> None:
        self._items = list(_tokens(text))
        self._next = 0

    def parse(self) -> tuple[Requirement, ...]:
        requirements: list[Requirement] = []
        kind, literal = self._peek()
        if kind == "end":
            return ()
        if kind not in ("id", "!"):
            raise SelectorError(f"found '{literal}', expected: !, identifier, or 'end of string'")
        while True:
            try:
                requirements.append(self._requirement())
            except SelectorError as error:
                raise SelectorError(f"unable to parse requirement: {error}") from None
            kind, literal = self._take()
            if kind == "end":
                return tuple(requirements)
            if kind != ",":
                raise SelectorError(f"found '{literal}', expected: ',' or 'end of string'")
            kind, literal = self._peek()
            if kind not in ("id", "!"):
                raise SelectorError(f"found '{literal}', expected: identifier after ','")

    def _peek(self, *, operator: bool = False) -> tuple[str, str]:
        kind, literal = self._items[min(self._next, len(self._items) - 1)]
        # `in` and `notin` are words of the grammar only where an operator stands: a label may be called `in`.
        return ("id" if kind in _KEYWORDS and not operator else kind), literal

    def _take(self, *, operator: bool = False) -> tuple[str, str]:
        item = self._peek(operator=operator)
        self._next += 1
        return item

    def _requirement(self) -> Requirement:
        kind, key = self._take()
        negated = kind == "!"
        if negated:
            kind, key = self._take()
        if kind != "id":
            raise SelectorError(f"found '{key}', expected: identifier")
        check_label_key(key)
        if self._peek()[0] in ("end", ",") or negated:
            return Requirement(key, "absent" if negated else "exists")
        kind, literal = self._take(operator=True)
        if kind in ("in", "notin"):
            values = self._values()
            operator = kind
        elif kind in ("=", "==", "!="):
            values = [self._exact()]
            operator = "notin" if kind == "!=" else "in"
        elif kind in (">", "<"):
            return self._bound(key, "gt" if kind == ">" else "lt")
        else:
            raise SelectorError(f"found '{literal}', expected: {_BINARY_OPERATORS}")
        for position, value in enumerate(sorted(values)):
            check_label_value(value, f"values[{position}][{key}]")
        return Requirement(key, operator, frozenset(values))

    def _bound(self, key: str, operator: str) -> Requirement:
        value = self._exact()
        bound = _integer(value)
        if bound is None:
            raise SelectorError(
                f"values[0]: Invalid value: {json.dumps(value)}: for 'Gt', 'Lt' operators, the value must be an integer"
            )
        return Requirement(key, operator, frozenset((value,)), bound)

    def _exact(self) -> str:
        kind, literal = self._peek()
        if kind in ("end", ","):
            return ""
        self._next += 1
        if kind != "id":
            raise SelectorError(f"found '{literal}', expected: identifier")
        return literal

    def _values(self) -> list[str]:
        kind, literal = self._take()
        if kind != "(":
            raise SelectorError(f"found '{literal}' expected: '('")
        values: list[str] = []
        while True:
            # Between separators a value may be empty: `in (a,)`, `in (,a)` and `in ()` all name the empty value.
            kind, literal = self._take()
            if kind == "id":
                values.append(literal)
                kind, literal = self._take()
                if kind not in (",", ")"):
                    raise SelectorError(f"found '{literal}', expected: ',' or ')'")
            elif kind in (",", ")"):
                values.append("")
            else:
                raise SelectorError(f"found '{literal}', expected: ',', ')' or identifier")
            if kind == ")":
                return values


def check_label_key(key: str) -> None:
    """Raise `SelectorError` unless the text is a qualified label key."""
    prefix, slash, name = key.rpartition("/")
    problems: list[str] = []
    if "/" in prefix:
        problems.append(
            "a valid label key must consist of a name with an optional DNS subdomain prefix and '/' "
            "(e.g. 'example.com/MyName')"
        )
    else:
        if slash:
            if not prefix:
                problems.append("prefix part must be non-empty")
            elif len(prefix) > 253:
                problems.append("prefix part must be no more than 253 bytes")
            elif not _SUBDOMAIN.fullmatch(prefix):
                problems.append(f"prefix part {_SUBDOMAIN_RULE}")
        if not name:
            problems.append("name part must be non-empty")
        elif len(name) > 63:
            problems.append("name part must be no more than 63 bytes")
        if not _NAME.fullmatch(name):
            problems.append(f"name part {_NAME_RULE}")
    if problems:
        raise SelectorError(f"<nil>: Invalid value: {json.dumps(key)}: {'; '.join(problems)}")


def check_label_value(value: str, path: str) -> None:
    """Raise `SelectorError` unless the text is a label value."""
    problems: list[str] = []
    if len(value) > 63:
        problems.append("must be no more than 63 bytes")
    if not _VALUE.fullmatch(value):
        problems.append(_VALUE_RULE)
    if problems:
        raise SelectorError(f"{path}: Invalid value: {json.dumps(value)}: {'; '.join(problems)}")


@dataclass(frozen=True, slots=True)
class FieldTerm:
    """One condition on one field."""

    field: str
    negated: bool
    value: str


@dataclass(frozen=True, slots=True)
class FieldSelector:
    """A conjunction of field terms; empty matches everything."""

    terms: tuple[FieldTerm, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.terms)

    def matches(self, field_of: Callable[[str], str]) -> bool:
        """Whether an object is selected whose fields `field_of` returns."""
        return all((field_of(term.field) == term.value) is not term.negated for term in self.terms)

    def exact(self, field: str) -> str | None:
        """Return the value that the field must have, or None when the selector does not pin it."""
        return next((term.value for term in self.terms if term.field == field and not term.negated), None)


def parse_field_selector(text: str, fields: tuple[str, ...]) -> FieldSelector:
    """Compile a field selector over the fields that a resource knows; raise `SelectorError` otherwise."""
    if len(text) > MAX_SELECTOR_LENGTH:
        raise SelectorError(f"the selector is longer than {MAX_SELECTOR_LENGTH} characters")
    terms: list[FieldTerm] = []
    for part in _split_terms(text):
        if not part:
            continue
        found = re.search(r"!=|==|=", part)
        if found is None:
            raise SelectorError(f"invalid selector: '{text}'; can't understand '{part}'")
        field = part[: found.start()]
        if field not in fields:
            known = ", ".join(json.dumps(name) for name in fields)
            raise SelectorError(f"{json.dumps(field)} is not a known field selector: only {known}")
        terms.append(FieldTerm(field, found.group() == "!=", _unescape(part[found.end() :])))
    return FieldSelector(tuple(terms))


def _split_terms(text: str) -> list[str]:
    parts, start, escaped = [], 0, False
    for position, char in enumerate(text):
        if escaped:
            escaped = False
        elif char == "\\":
            escaped = True
        elif char == ",":
            parts.append(text[start:position])
            start = position + 1
    parts.append(text[start:])
    return parts


def _unescape(text: str) -> str:
    if not any(char in text for char in "\\,="):
        return text
    result: list[str] = []
    chars = iter(text)
    for char in chars:
        if char == "\\":
            following = next(chars, "")
            if following not in ("\\", ",", "=") or not following:
                raise SelectorError(f"invalid field selector: invalid escape sequence: \\{following}")
            result.append(following)
        elif char in ",=":
            raise SelectorError(f"invalid field selector: unescaped character in value: {char}")
        else:
            result.append(char)
    return "".join(result)
