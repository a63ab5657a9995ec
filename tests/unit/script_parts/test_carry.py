"""Source is carried with everything it uses, and names that meet are told apart."""

from __future__ import annotations

from typing import Any

import pytest

from opensloth.script_parts.carry import Carried
from tests.support.scripts import run_source


def run(carried: Carried) -> dict[str, Any]:
    return run_source(carried.source, carried.imports)


def test_what_a_function_uses_comes_along_and_nothing_else() -> None:
    carried = Carried([("opensloth.datasets.pack", "pack")])
    assert run(carried)["pack"]([3, 4, 5], 8) == [[2, 0], [1]]
    assert "from bisect import insort" in carried.imports
    assert not any("opensloth" in statement for statement in carried.imports)
    assert "WINDOW_TOKENS" in carried.source
    assert "def alpaca" not in Carried([("opensloth.datasets.convert", "sharegpt")]).source


def test_names_that_meet_are_told_apart() -> None:
    roots = [
        (f"opensloth.rewards.{module}", name) for module, name in (("length", "score_length"), ("http", "score_http"))
    ]
    carried = Carried([*roots, ("opensloth.rewards.json_schema", "score_json_schema")], reserved={"score_text"})
    assert carried.source.count("def _score(") == 1
    assert "def _score_json_schema(" in carried.source
    names = run(carried)
    length = names["LengthParams"](unit="characters", max=2) if "LengthParams" in names else None
    assert length is not None
    assert names["score_length"](length, ["ab", "abc"], [{}, {}]) == [1.0, 0.0]
    schema = names["JsonSchemaParams"](schema={"type": "object"})
    assert names["score_json_schema"](schema, ["{}", "["], [{}, {}]) == [1.0, 0.0]


def test_the_same_in_two_modules_is_there_once() -> None:
    carried = Carried([("opensloth.datasets.collate", "PackedCollator"), ("opensloth.datasets.encode", "encode_sft")])
    assert carried.source.count("IGNORE = -100") == 1


def test_a_name_of_the_script_itself_is_left_to_it() -> None:
    carried = Carried([("opensloth.datasets.encode", "encode_dpo")], reserved={"render"})
    assert "def render_row_text(" in carried.source
    assert " render(" not in carried.source


def test_what_is_not_there_is_named() -> None:
    with pytest.raises(ValueError, match=r"opensloth\.datasets\.pack defines no unpack"):
        Carried([("opensloth.datasets.pack", "unpack")])
