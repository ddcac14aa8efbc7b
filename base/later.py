"""Modules that a library imports and we never use: loaded when somebody does."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any


def postpone(name: str) -> None:
    """Put a stand-in where `import name` finds it; its first attribute asked for loads the real module in its place.

    Without effect on a module that is loaded already. The stand-in is a plain module with a `__getattr__` (PEP 562):
    importlib's LazyLoader would load at the next `import` already.
    """
    if name in sys.modules:
        return
    parent, _, child = name.rpartition(".")
    stand_in = ModuleType(name, "Not loaded yet.")

    def load(attribute: str) -> Any:  # noqa: ANN401  # whatever the module holds
        if sys.modules.get(name) is stand_in:
            del sys.modules[name]
        return getattr(importlib.import_module(name), attribute)

    stand_in.__getattr__ = load  # type: ignore[method-assign]  # of a module, not of a class
    sys.modules[name] = stand_in
    if parent:
        setattr(importlib.import_module(parent), child, stand_in)
