"""YAML configuration into frozen structs: closed, typed, bounded; every mistake is named in one go, with its line."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec

MAX_FILE_BYTES: Final = 256 * 1024

T = TypeVar("T", bound=msgspec.Struct)
CrossCheck = Callable[[Mapping[str, Any]], Iterable[tuple[str, str]]]
"""Looks at the raw document; yields (path of the key, complaint) for what no single type can say."""


class ConfigError(Exception):
    """A configuration that cannot be used; its text is one line per mistake, each with file, line, key and remedy."""

    def __init__(self, path: Path, mistakes: list[str]) -> None:
        self.path = path
        self.mistakes = [_visible(mistake) for mistake in mistakes]
        super().__init__("\n".join(f"{path}{mistake}" for mistake in self.mistakes))


def load(path: Path, kind: type[T], cross_check: CrossCheck | None = None, *, option: str = "--config") -> T:
    """Read `path` as a `kind`; raise ConfigError naming every mistake at once. `option` is what names the file."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise unreadable(path, error, option=option) from error
    if len(text) > MAX_FILE_BYTES:
        raise ConfigError(path, [f": larger than {MAX_FILE_BYTES // 1024} KiB; this is no configuration of ours"])
    from base import yaml_tree  # noqa: PLC0415  # a program that has its settings needs no YAML

    try:
        document, lines = yaml_tree.parse(text)
    except yaml_tree.Unusable as error:
        line, complaint = error.args
        raise ConfigError(path, [f":{line}: {complaint}"]) from error
    if not isinstance(document, dict):
        found = "nothing" if document is None else f"a {type(document).__name__}"
        raise ConfigError(path, [f": expected keys and values at the top, found {found}; see the commented example"])
    mistakes: list[tuple[str, str]] = []
    settings = _check(document, kind, "", mistakes)
    if cross_check is not None:
        mistakes += cross_check(document)
    if mistakes or not isinstance(settings, kind):
        raise ConfigError(path, [f":{_line(lines, where)}: {where or 'top'}: {what}" for where, what in mistakes])
    return settings


def _visible(text: str) -> str:
    """Show what does not print, such as a line break or an escape in a key, as Python would write it."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def unreadable(path: Path, error: OSError, *, option: str = "--config") -> ConfigError:
    """Say that there is no such file, or none that may be read."""
    return ConfigError(path, [f": {error.strerror or error}; name the file with {option}"])


def _line(lines: dict[str, int], path: str) -> int:
    """Find the line of a key, or of the nearest thing around it."""
    while path and path not in lines:
        path = path[: max(path.rfind("."), path.rfind("["), 0)]
    return lines.get(path, 1)


def _check(value: object, kind: Any, path: str, mistakes: list[tuple[str, str]]) -> object:  # noqa: ANN401
    """Convert `value`; descend where that fails, so that every mistake below is found, not only the first."""
    struct = _struct_of(kind, value)
    if struct is not None and isinstance(value, dict):
        return _check_struct(value, struct, path, mistakes)
    tag_field, tags = _tags_of(kind)
    if tag_field is not None and isinstance(value, dict):
        inner = f"{path}.{tag_field}".lstrip(".")
        found = f"found {value[tag_field]!r}" if tag_field in value else "missing"
        mistakes.append((inner, f"expected one of {', '.join(tags)}, {found}"))
        return None
    item = _item_of(kind)
    if item is not None and isinstance(value, list):
        before = len(mistakes)
        for index, entry in enumerate(value):
            _check(entry, item, f"{path}[{index}]", mistakes)
        if len(mistakes) > before:
            return None
    try:
        return msgspec.convert(value, kind, strict=True, dec_hook=file_name)
    except msgspec.ValidationError as error:
        mistakes.append((path, _explain(error, value)))
        return None


def _check_struct(
    value: dict[Any, Any], struct: type[msgspec.Struct], path: str, mistakes: list[tuple[str, str]]
) -> object:
    before = len(mistakes)
    hints = get_type_hints(struct, include_extras=True)
    fields = {field.encode_name: hints[field.name] for field in msgspec.structs.fields(struct)}
    tag_field = struct.__struct_config__.tag_field
    for key in value:
        if key not in fields and key != tag_field:
            import difflib  # noqa: PLC0415  # for a mistake only

            close = difflib.get_close_matches(str(key), fields, n=1)
            hint = f"did you mean '{close[0]}'?" if close else f"known keys: {', '.join(fields)}"
            mistakes.append((f"{path}.{key}".lstrip("."), f"unknown key; {hint}"))
    for field in msgspec.structs.fields(struct):
        inner = f"{path}.{field.encode_name}".lstrip(".")
        if field.encode_name in value:
            _check(value[field.encode_name], fields[field.encode_name], inner, mistakes)
        elif field.required:
            mistakes.append((inner, "missing, and it has no default"))
    if len(mistakes) > before:
        return None
    try:
        return msgspec.convert(value, struct, strict=True, dec_hook=file_name)
    except msgspec.ValidationError as error:
        mistakes.append((path, _explain(error, value)))
        return None


def file_name(kind: type, value: object) -> object:
    """Read file names, as a msgspec `dec_hook`: it knows no Path of its own. Raise ValueError."""
    if kind is Path and isinstance(value, str) and value:
        return Path(value)
    raise ValueError("Expected `str`, the name of a file" if kind is Path else f"Expected `{kind.__name__}`")


def _explain(error: msgspec.ValidationError, value: object) -> str:
    text = str(error).split(" - at `")[0]
    text = text[0].lower() + text[1:]
    if isinstance(value, bool | int | float) and "expected `str" in text.lower():
        return f"{text}; put it in quotes"
    shown = repr(value)
    return f"{text}, found {shown}" if len(shown) <= 60 and not isinstance(value, dict | list) else text  # noqa: PLR2004


def _strip(kind: Any) -> Any:  # noqa: ANN401
    """Remove Annotated and `| None` around a type."""
    while True:
        origin = get_origin(kind)
        if origin is Annotated:
            kind = get_args(kind)[0]
        elif origin in {Union, types.UnionType}:
            inner = [arg for arg in get_args(kind) if arg is not type(None)]
            if len(inner) != 1:
                return kind
            kind = inner[0]
        else:
            return kind


def _struct_of(kind: Any, value: object) -> type[msgspec.Struct] | None:  # noqa: ANN401
    """Find the struct that `value` should become; of a tagged union, the one that the tag in `value` names."""
    kind = _strip(kind)
    for member in get_args(kind) if get_origin(kind) in {Union, types.UnionType} else (kind,):
        if isinstance(member, type) and issubclass(member, msgspec.Struct):
            config = member.__struct_config__
            if config.tag_field is None or (isinstance(value, dict) and value.get(config.tag_field) == config.tag):
                return member
    return None


def _tags_of(kind: Any) -> tuple[str | None, list[str]]:  # noqa: ANN401
    """Return the tag field of a union of structs, and the tags it may hold."""
    configs = [getattr(member, "__struct_config__", None) for member in get_args(_strip(kind))]
    tagged = [config for config in configs if config is not None and config.tag_field is not None]
    return (tagged[0].tag_field, [str(config.tag) for config in tagged]) if tagged else (None, [])


def _item_of(kind: Any) -> Any:  # noqa: ANN401
    kind = _strip(kind)
    args = get_args(kind)
    return args[0] if get_origin(kind) in {list, tuple, frozenset, set} and args else None
