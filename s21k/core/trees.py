"""Trees of plain values (nested dicts, as YAML gives them): merging, flattening, and typing by dataclasses.

Every key must be a field, every value of the field's type; what is wrong is said with the key's full name.
"""
import contextlib
import dataclasses
import math
import types
import typing
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from s21k.core.errors import InputError, nearest


class Between(NamedTuple):
    """The limits of a number, for a field's type: Annotated[int, Between(1)]."""
    least: float
    most: float = math.inf


def merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """above over below, key by key; a value that is no dict replaces the other whole."""
    merged = dict(below)
    for key, value in above.items():
        both_dicts = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both_dicts else value
    return merged


def leaves(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        flat |= leaves(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return flat


def _choose(value: Any, allowed: tuple[str, ...], name: str) -> str:
    if value is False and "off" in allowed:                     # YAML 1.1 reads the word off as false
        value = "off"
    if value in allowed:
        return value
    raise InputError(f"{name}: {value!r} is none of {', '.join(allowed)}{nearest(str(value), allowed)}")


def _convert(value: Any, kind: Any, name: str) -> Any:
    """value as the field's type `kind`, or InputError naming the key. PyYAML reads 1e-4 as text: floats take it."""
    expected = getattr(kind, "__name__", str(kind))
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, dict):
            raise InputError(f"{name}: expected keys and values, found {value!r}")
        return build(kind, value, f"{name}.")
    if get_origin(kind) in (typing.Union, types.UnionType):
        if value is None:
            return None
        return _convert(value, next(k for k in get_args(kind) if k is not type(None)), name)
    if get_origin(kind) is Annotated:
        inner, limits = get_args(kind)
        number = _convert(value, inner, name)
        if not limits.least <= number <= limits.most:
            raise InputError(f"{name}: {number} is not between {limits.least} and {limits.most}")
        return number
    if get_origin(kind) is Literal:
        return _choose(value, get_args(kind), name)
    if get_origin(kind) is tuple:
        kinds = get_args(kind)
        if isinstance(value, (list, tuple)) and (kinds[-1] is Ellipsis or len(kinds) == len(value)):
            return tuple(_convert(v, kinds[0], name) for v in value)
        count = "any number" if kinds[-1] is Ellipsis else len(kinds)
        raise InputError(f"{name}: expected a list of {count} {kinds[0].__name__} values, found {value!r}")
    takes = {float: (int, float, str)}.get(kind, kind)                  # bool is a kind of int in Python, not here
    if isinstance(value, takes) and (kind is bool or not isinstance(value, bool)):
        with contextlib.suppress(ValueError):
            value = kind(value)
            if kind is not float or math.isfinite(value):
                return value
    raise InputError(f"{name}: expected {expected}, found {value!r}")


def build(kind: type, tree: dict[str, Any], prefix: str = "") -> Any:
    """The dataclass `kind` from a tree; every key must be one of its fields."""
    hints = get_type_hints(kind, include_extras=True)
    for key in tree:
        if key not in hints:
            raise InputError(f"unknown key {prefix}{key}, expected one of {', '.join(hints)}"
                             + nearest(str(key), hints))
    missing = [f.name for f in dataclasses.fields(kind)
               if f.name not in tree and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING]
    if missing:
        raise InputError(f"{prefix}{missing[0]}: missing, and it has no default")
    return kind(**{key: _convert(value, hints[key], f"{prefix}{key}") for key, value in tree.items()})
