"""Trees of frozen dataclasses to plain data and back, with errors that name the field."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from difflib import get_close_matches
from pathlib import PurePath
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from .errors import UsageError


def to_plain(tree: Any) -> Any:
    """Return dictionaries, lists and scalars that JSON and YAML can hold."""
    if is_dataclass(tree) and not isinstance(tree, type):
        return {f.name: to_plain(getattr(tree, f.name)) for f in fields(tree)}
    if isinstance(tree, Mapping):
        return {str(key): to_plain(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [to_plain(value) for value in tree]
    return tree


def from_plain(kind: Any, data: Any, where: str = "recipe") -> Any:
    """Build a value of type `kind` from plain data.

    Handles nested dataclasses, tuples, lists, mappings, literals, optional values and unions of
    dataclasses that are told apart by a literal field `name`, which one of them may lack.

    Args:
        kind: a type or type annotation.
        data: plain data as `to_plain` returns it.
        where: path of the value, for messages.

    Raises:
        UsageError: for an unknown or missing key or a value of the wrong type.
    """
    origin = get_origin(kind)
    if kind is Any:
        return data
    if origin in (Union, types.UnionType):
        return _from_union(get_args(kind), data, where)
    if origin is Literal:
        return _from_literal(get_args(kind), data, where)
    if is_dataclass(kind):
        return _from_mapping(kind, data, where)
    if origin in (tuple, list):
        return _from_sequence(kind, origin, data, where)
    if origin is dict or kind is dict:
        if not isinstance(data, Mapping):
            raise _wrong(where, data, "a mapping")
        return dict(data)
    return _scalar(kind, data, where)


def _from_union(kinds: tuple[Any, ...], data: Any, where: str) -> Any:
    if data is None and type(None) in kinds:
        return None
    kinds = tuple(k for k in kinds if k is not type(None))
    trees = [k for k in kinds if is_dataclass(k)]
    if len(trees) > 1 and isinstance(data, Mapping):
        known = {name: k for k in trees for name in get_args(get_type_hints(k).get("name"))}
        nameless = next((k for k in trees if "name" not in get_type_hints(k)), None)
        name = data.get("name")
        if name is None and nameless is not None:
            return from_plain(nameless, data, where)
        if name not in known:
            raise UsageError(f"{where}.name", f"is {name!r}", f"use one of {', '.join(known)}")
        return from_plain(known[name], data, where)
    problems = []
    for kind in kinds:
        try:
            return from_plain(kind, data, where)
        except UsageError as error:
            problems.append(error)
    raise problems[0]


def _from_literal(choices: tuple[Any, ...], data: Any, where: str) -> Any:
    if data not in choices:
        raise UsageError(where, f"is {data!r}", f"use one of {', '.join(map(str, choices))}")
    return data


def _from_mapping(kind: Any, data: Any, where: str) -> Any:
    if not isinstance(data, Mapping):
        raise _wrong(where, data, "a mapping")
    known = {f.name: f for f in fields(kind)}
    for key in data:
        if key not in known:
            near = get_close_matches(str(key), known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
            raise UsageError(f"{where}.{key}", "is not a known field", hint)
    hints = get_type_hints(kind)
    for name, f in known.items():
        if name not in data and f.default is MISSING and f.default_factory is MISSING:
            raise UsageError(f"{where}.{name}", "is missing", "add it")
    values = {k: from_plain(hints[k], v, f"{where}.{k}") for k, v in data.items()}
    return kind(**values)


def _from_sequence(kind: Any, origin: Any, data: Any, where: str) -> Any:
    if not isinstance(data, list | tuple):
        raise _wrong(where, data, "a list")
    args = get_args(kind)
    if origin is list or (len(args) == 2 and args[1] is Ellipsis):
        inner = (args[0] if args else Any,) * len(data)
    elif len(args) != len(data):
        raise _wrong(where, data, f"a list of {len(args)} values")
    else:
        inner = args
    pairs = enumerate(zip(inner, data, strict=True))
    return origin([from_plain(k, v, f"{where}[{i}]") for i, (k, v) in pairs])


def _scalar(kind: Any, data: Any, where: str) -> Any:
    if kind is float and isinstance(data, int) and not isinstance(data, bool):
        return float(data)
    if kind is float and isinstance(data, str):
        # YAML 1.1 reads 1e-4 as text.
        try:
            return float(data)
        except ValueError:
            raise _wrong(where, data, "a number") from None
    if isinstance(kind, type) and issubclass(kind, PurePath):
        if not isinstance(data, str | PurePath):
            raise _wrong(where, data, "a path")
        return kind(data)
    if not isinstance(data, kind) or (kind is int and isinstance(data, bool)):
        raise _wrong(where, data, getattr(kind, "__name__", str(kind)))
    return data


def _wrong(where: str, data: Any, wanted: str) -> UsageError:
    return UsageError(where, f"is {data!r}, which is not {wanted}", f"write {wanted}")
