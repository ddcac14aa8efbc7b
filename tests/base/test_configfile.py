"""Configuration files: every mistake at once, and nothing that a file holds can do harm."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from base import configfile
from base.configfile import ConfigError


class Round(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="shape", tag="round"):
    radius_m: float


class Square(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="shape", tag="square"):
    side_m: float


class Room(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: str
    seats: Annotated[int, msgspec.Meta(ge=1)] = 1
    plan: Path | None = None
    form: Round | Square | None = None


class House(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    street: str
    rooms: tuple[Room, ...] = ()
    cellar: Room | None = None


def mistakes(tmp_path: Path, text: str) -> list[str]:
    path = tmp_path / "house.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as refusal:
        configfile.load(path, House)
    return refusal.value.mistakes


def test_a_good_file_becomes_the_struct(tmp_path: Path) -> None:
    path = tmp_path / "house.yaml"
    path.write_text("street: x\nrooms:\n - {name: a, plan: /tmp/p, form: {shape: square, side_m: 2}}\ncellar: null\n")
    room = Room(name="a", plan=Path("/tmp/p"), form=Square(side_m=2.0))
    assert configfile.load(path, House) == House(street="x", rooms=(room,))


def test_mistakes_at_every_depth_are_named_together(tmp_path: Path) -> None:
    text = "stret: x\nrooms:\n  - {name: 7}\n  - {name: b, seats: 0}\n  - {name: c, form: {shape: round}}\ncellar: {}\n"
    assert mistakes(tmp_path, text) == [
        ":1: stret: unknown key; did you mean 'street'?",
        ":1: street: missing, and it has no default",
        ":3: rooms[0].name: expected `str`, got `int`; put it in quotes",
        ":4: rooms[1].seats: expected `int` >= 1, found 0",
        ":5: rooms[2].form.radius_m: missing, and it has no default",
        ":6: cellar.name: missing, and it has no default",
    ]


def test_keys_of_another_shape_are_refused(tmp_path: Path) -> None:
    text = "street: x\ncellar: {name: c, form: {shape: square, radius_m: 1}}\n"
    assert mistakes(tmp_path, text) == [
        ":2: cellar.form.radius_m: unknown key; known keys: side_m",
        ":2: cellar.form.side_m: missing, and it has no default",
    ]


def test_a_key_that_does_not_print_breaks_no_line(tmp_path: Path) -> None:
    assert mistakes(tmp_path, 'street: x\n"a\\n\\e[31mb": 1\n') == [
        ":2: a\\n\\x1b[31mb: unknown key; known keys: street, rooms, cellar"
    ]


@pytest.mark.parametrize("text", ["- a", "just words", "42"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    (complaint,) = mistakes(tmp_path, text)
    assert "expected keys and values at the top" in complaint


@pytest.mark.parametrize(
    "text", ["!!python/object/apply:os.system ['true']", "street: !!python/name:os.system", "{1: 2}"]
)
def test_no_file_reaches_python(tmp_path: Path, text: str) -> None:
    assert mistakes(tmp_path, text)


documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["street", "rooms", "name", "seats", "form", "shape"]) | st.text(max_size=4),
            inner,
            max_size=4,
        )
    ),
    max_leaves=10,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(document=documents)
def test_any_document_is_loaded_or_refused_in_words(tmp_path: Path, document: object) -> None:
    path = tmp_path / "house.yaml"
    path.write_bytes(msgspec.yaml.encode(document))
    try:
        said = isinstance(configfile.load(path, House), House)
    except ConfigError as error:
        said = bool(error.mistakes) and all(mistake.startswith(":") for mistake in error.mistakes)
    assert said


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=200))
def test_any_bytes_are_refused_in_words(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "house.yaml"
    path.write_bytes(data)
    with pytest.raises(ConfigError):
        configfile.load(path, House)
