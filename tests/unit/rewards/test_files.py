"""Which files of the rewards folder are taken, and what is known of them without running them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from opensloth.errors import InvalidInput
from opensloth.rewards import RewardPolicy, build_rewards, describe_rewards

SOURCE = '''
"""A module."""
COLUMNS = ("answer", "topic")
raise SystemExit("a listing must not run this")

def reward(completions, rows, *, scale=2.0, mode):
    """Scores by topic.

    More of it.
    """
    return [scale] * len(completions)
'''


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "rewards"
    path.mkdir(mode=0o755)
    (path / "topic.py").write_text(SOURCE)
    return path


def refusal(folder: Path, name: str = "topic") -> str:
    with pytest.raises(InvalidInput) as caught:
        build_rewards([{"name": f"file:{name}", "params": {"mode": "x"}}], RewardPolicy(folder=folder))
    return caught.value.fields[0].message


def test_a_file_is_described_without_being_run(folder):
    described = describe_rewards(RewardPolicy(folder=folder))["data"][-1]
    assert described["name"] == "file:topic"
    assert described["description"] == "Scores by topic."
    assert described["columns"] == ["answer", "topic"]
    assert described["parameters"]["properties"] == {"scale": {"default": 2.0}, "mode": {}}
    assert described["parameters"]["required"] == ["mode"]


def test_its_parameters_are_checked_by_its_signature(folder):
    with pytest.raises(InvalidInput) as caught:
        build_rewards([{"name": "file:topic", "params": {"scal": 1}}], RewardPolicy(folder=folder))
    assert {error.path for error in caught.value.fields} == {
        "reward_functions[0].params.mode",
        "reward_functions[0].params.scal",
    }
    assert "did you mean 'scale'" in caught.value.fields[1].message


def test_what_everybody_can_write_is_refused(folder):
    (folder / "topic.py").chmod(0o666)
    assert "chmod o-w" in refusal(folder)
    assert [entry for entry in describe_rewards(RewardPolicy(folder=folder))["data"] if entry["source"] == "file"] == []
    (folder / "topic.py").chmod(0o644)
    folder.chmod(0o777)
    assert "chmod o-w" in refusal(folder)


def test_links_pipes_and_folders_are_refused(folder, tmp_path):
    (tmp_path / "outside.py").write_text(SOURCE)
    (folder / "link.py").symlink_to(tmp_path / "outside.py")
    os.mkfifo(folder / "pipe.py")
    (folder / "folder.py").mkdir()
    assert "cannot be read" in refusal(folder, "link")
    assert "no plain file" in refusal(folder, "pipe")
    assert "no plain file" in refusal(folder, "folder")


@pytest.mark.parametrize("name", ["../topic", "topic.py", "", "a" * 65, "/etc/passwd", "topic\x00"])
def test_a_name_never_becomes_another_path(folder, name):
    assert refusal(folder, name)


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("def other(): pass", "defines no"),
        ("def reward(x): pass", "must take"),
        ("def (", "no Python"),
        ("\x00", "no Python"),
    ],
)
def test_a_file_that_is_no_reward_says_why(folder, source, why):
    (folder / "topic.py").write_text(source)
    assert why in refusal(folder)


def test_without_a_folder_there_are_no_file_rewards():
    with pytest.raises(InvalidInput, match="no rewards folder"):
        build_rewards(["file:topic"], RewardPolicy())
