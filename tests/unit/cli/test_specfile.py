"""YAML as people expect it, and `--set`."""

from __future__ import annotations

import pytest

from opensloth.cli.specfile import apply_override, read_spec
from opensloth.client import InvalidRequest


def read(tmp_path, text, *overrides):
    path = tmp_path / "job.yaml"
    path.write_text(text)
    return read_spec(path, list(overrides))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5e-6", 5e-6),
        ("1e3", 1000.0),
        ("0.1", 0.1),
        (".5", 0.5),
        ("2", 2),
        ("-1", -1),
        ("010", 10),
        ("true", True),
        ("no", "no"),
        ("on", "on"),
        ("null", None),
        ("", None),
        ("2h", "2h"),
        ("1:30", "1:30"),
        ("2026-11-22", "2026-11-22"),
        ("'5'", "5"),
    ],
)
def test_scalars_are_what_they_look_like(tmp_path, text, value):
    found = read(tmp_path, f"field: {text}\n").spec["field"]
    assert found == value
    assert type(found) is type(value)


def test_each_field_knows_its_line(tmp_path):
    source = read(tmp_path, "name: x\nopensloth_config:\n  lora_args:\n    r: 8\n")
    assert source.line_of("opensloth_config.lora_args.r") == 4
    assert source.line_of("opensloth_config.lora_args.alpha") == 3
    assert source.line_of("unknown") is None


def test_a_key_that_is_there_twice_is_refused_with_its_line(tmp_path):
    with pytest.raises(InvalidRequest, match=r"line 3.*'name' is there twice"):
        read(tmp_path, "name: x\ndataset: d\nname: y\n")


@pytest.mark.parametrize("text", ["- a\n- b\n", "just words\n", ""])
def test_what_is_no_mapping_is_no_job(tmp_path, text):
    with pytest.raises(InvalidRequest, match="is not a job"):
        read(tmp_path, text)


def test_python_objects_are_not_made(tmp_path):
    with pytest.raises(InvalidRequest, match="line 1"):
        read(tmp_path, "name: !!python/object/apply:os.getcwd []\n")


def test_overrides_make_the_objects_they_need():
    spec = {"training_args": None}
    apply_override(spec, "training_args.learning_rate=1e-5")
    apply_override(spec, "opensloth_config.fast_model_args.model_name=smollm2-135m")
    apply_override(spec, "name=a=b")
    assert spec == {
        "training_args": {"learning_rate": 1e-5},
        "opensloth_config": {"fast_model_args": {"model_name": "smollm2-135m"}},
        "name": "a=b",
    }


@pytest.mark.parametrize("override", ["name", "=1", "a..b=1", "name.first=x"])
def test_an_override_that_cannot_be_is_refused(override):
    with pytest.raises(InvalidRequest):
        apply_override({"name": "x"}, override)
