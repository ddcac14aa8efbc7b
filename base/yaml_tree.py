"""Text into a plain tree of YAML, with the line of every key. Loaded only while a configuration is read."""

from __future__ import annotations

from typing import Any, Final

import yaml

MAX_DEPTH: Final = 20


class Unusable(Exception):
    """The document is no plain YAML tree; args: line, complaint."""


class _Loader(yaml.SafeLoader):
    """Safe YAML, minus what a configuration never needs and an attacker loves: aliases, depth, repeated keys."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:  # noqa: ANN401
        event = self.peek_event()  # type: ignore[no-untyped-call]  # PyYAML's parser half has no stubs
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent):
            raise Unusable(line, "aliases (*name) are not used here: write the value out")
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise Unusable(line, f"nested more than {MAX_DEPTH} levels deep")
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node


def parse(text: bytes) -> tuple[Any, dict[str, int]]:
    """Return the document and the line of every key path; raise Unusable."""
    lines: dict[str, int] = {}
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None, lines
            _note_lines(node, "", lines)
            return loader.construct_document(node), lines
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise Unusable(mark.line + 1 if mark else 1, f"not YAML: {error.problem or error.context}") from error
    except (yaml.YAMLError, UnicodeDecodeError, ValueError) as error:
        raise Unusable(1, f"not YAML: {str(error).splitlines()[0]}") from error


def _note_lines(node: yaml.Node, path: str, lines: dict[str, int]) -> None:
    lines[path] = node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            name = str(key.value)
            if name in seen:
                raise Unusable(key.start_mark.line + 1, f"key '{name}' stands twice")
            seen.add(name)
            inner = f"{path}.{name}" if path else name
            _note_lines(value, inner, lines)
            lines[inner] = key.start_mark.line + 1
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            _note_lines(value, f"{path}[{index}]", lines)
