"""A small JSON file that is whole after any power cut: written beside, fsynced, renamed, and the folder fsynced."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, TypeVar

import msgspec

from base.durable import StorageError, explain

if TYPE_CHECKING:
    from pathlib import Path

log = logging.getLogger(__name__)

T = TypeVar("T", bound=msgspec.Struct)


def read_json(path: Path, kind: type[T]) -> T | None:
    """Read a file as `kind`; None if there is none. A damaged one is put aside and counts as none. StorageError."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise explain(path, error) from error
    except msgspec.DecodeError as error:  # ValidationError is one
        aside = path.with_name(f"{path.name}.damaged")
        log.error("%s is damaged (%s): kept as %s", path, error, aside)  # noqa: TRY400  # says it all
        try:
            path.replace(aside)
        except OSError as problem:
            raise explain(path, problem) from problem
        return None


def write_json(path: Path, value: msgspec.Struct) -> None:
    """Write it durably, for the owner's eyes alone; raise StorageError, and then the old file stands."""
    fresh = path.with_name(f".{path.name}.new")
    try:
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(msgspec.json.encode(value))
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise explain(path, error) from error


__all__ = ["StorageError", "read_json", "write_json"]
