"""Rewards in their helper process: bounded in time, named when they fail, cut off from the trainer's environment."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from opensloth.rewards import RewardFailed, RewardPolicy, RewardRunner, as_trl_reward_funcs, build_rewards
from opensloth.rewards import runner as runner_module

FILES = {
    "vowels": """
COLUMNS = ["answer"]

def reward(completions, rows, *, scale=1.0):
    "Counts vowels."
    print("a reward may print")
    return [scale * sum(c in "aeiou" for c in text) for text in completions]
""",
    "hangs": "def reward(completions, rows, **params):\n    while True:\n        pass\n",
    "hangs_on_import": "while True:\n    pass\ndef reward(completions, rows):\n    return []\n",
    "raises": "def reward(completions, rows):\n    return [1 / 0]\n",
    "nan": "def reward(completions, rows):\n    return [0.5] * (len(rows) - 1) + [float('nan')]\n",
    "infinite": "def reward(completions, rows):\n    return [float('inf')] * len(rows)\n",
    "short": "def reward(completions, rows):\n    return [1.0]\n",
    "none": "def reward(completions, rows):\n    return [None] * len(rows)\n",
    "words": "def reward(completions, rows):\n    return ['1'] * len(rows)\n",
    "no_list": "def reward(completions, rows):\n    return 1.0\n",
    "exits": "import os\ndef reward(completions, rows):\n    os._exit(3)\n",
    "environment": """
import os

def reward(completions, rows):
    return [float(len(os.environ.get(text, ""))) for text in completions]
""",
    "process": "import os\ndef reward(completions, rows):\n    return [float(os.getpid())] * len(rows)\n",
    "counts": """
calls = 0

def reward(completions, rows):
    global calls
    calls += 1
    return [float(calls)] * len(completions)
""",
    "columns": "def reward(completions, rows):\n    return [float(row['a'] + len(row['prompt'])) for row in rows]\n",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rewards")
    for name, source in FILES.items():
        (path / f"{name}.py").write_text(source)
    return path


@pytest.fixture(scope="module")
def runner(folder: Path) -> Iterator[RewardRunner]:
    with RewardRunner(RewardPolicy(folder=folder, call_timeout_s=1.5)) as made:
        yield made


def run(
    runner: RewardRunner, spec: Any, completions: list[str], rows: list[dict[str, Any]] | None = None
) -> list[float]:
    (bound,) = build_rewards([spec], runner.policy)
    return runner.score(bound, completions, rows or [{"answer": "x"} for _ in completions])


def failure(
    runner: RewardRunner, spec: Any, completions: list[str], rows: list[dict[str, Any]] | None = None
) -> RewardFailed:
    with pytest.raises(RewardFailed) as caught:
        run(runner, spec, completions, rows)
    return caught.value


def test_built_in_rewards_score_a_batch(runner):
    rows = [{"answer": "Paris"}, {"answer": "Lyon"}]
    assert run(runner, "exact_match", ["Paris", "Paris"], rows) == [1.0, 0.0]
    assert run(runner, "numeric_answer", ["#### 4", "5"], [{"answer": 4}, {"answer": 4}]) == [1.0, 0.0]


def test_text_that_no_encoding_holds_is_scored(runner):
    assert run(runner, "exact_match", ["\ud800", "\x00"], [{"answer": "\ud800"}, {"answer": "\x00"}]) == [1.0, 1.0]


def test_a_file_reward_takes_its_parameters_and_may_print(runner):
    assert run(runner, {"name": "file:vowels", "params": {"scale": 2.0}}, ["aeb", "b"]) == [4.0, 0.0]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("raises", "ZeroDivisionError"),
        ("nan", "nan"),
        ("infinite", "inf"),
        ("short", "1 scores for 2 completions"),
        ("none", "no number"),
        ("words", "no number"),
        ("no_list", "not a list"),
        ("exits", "exit status 3"),
    ],
)
def test_a_reward_that_fails_is_named_with_the_cause(runner, name, why):
    error = failure(runner, f"file:{name}", ["a", "b"])
    assert error.error_code == "reward_failed"
    assert error.name == f"file:{name}"
    assert f"'file:{name}' (reward_functions[0]" in error.message
    assert why in error.message


def test_the_row_at_fault_is_named(runner):
    assert failure(runner, "file:nan", ["a", "b"]).row == 1
    error = failure(runner, "exact_match", ["a", "b"], [{"answer": "a"}, {"answer": None}])
    assert error.row == 1
    assert "`answer` is missing" in error.message
    assert failure(runner, "exact_match", ["a", "b"], [{"answer": "a"}, {"answer": [[]]}]).row == 1
    assert failure(runner, "numeric_answer", ["1", "2"], [{"answer": "1"}, {"answer": "none"}]).row == 1


def test_a_reward_that_hangs_is_killed_and_the_next_call_works(runner):
    started = time.monotonic()
    error = failure(runner, "file:hangs", ["a"])
    assert "did not answer within 1.5 s" in error.message
    assert time.monotonic() - started < 30
    assert run(runner, "file:vowels", ["a"]) == [1.0]


def test_a_hostile_pattern_fails_by_name_and_its_process_is_gone(runner):
    spec = {"name": "regex", "params": {"pattern": r"^(a+)+$"}}
    started = time.monotonic()
    error = failure(runner, spec, ["aaa", "a" * 64 + "!"])
    assert error.row == 1
    assert "took more than 2 s" in error.message
    assert time.monotonic() - started < 30
    assert run(runner, spec, ["aaa"]) == [1.0]


def test_an_expression_that_never_ends_scores_zero_and_the_others_are_scored(runner):
    spec = {"name": "numeric_answer", "params": {"mode": "math"}}
    completions = [r"\boxed{\sqrt{8}}", r"\boxed{\sum_{k=1}^{10^{9}} k^{99^{9}} + 9^{9^{9^{9}}}}", r"\boxed{2\sqrt{2}}"]
    assert run(runner, spec, completions, [{"answer": r"2\sqrt{2}"}] * 3) == [1.0, 0.0, 1.0]


def test_the_helper_has_none_of_the_trainers_secrets(runner, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setenv("OPENSLOTH_DATABASE_URL", "secret")
    monkeypatch.setenv("OPENSLOTH_REWARD_KEY", "fine")
    names = ["HF_TOKEN", "OPENSLOTH_DATABASE_URL", "OPENSLOTH_REWARD_KEY"]
    assert run(runner, "file:environment", names) == [0.0, 0.0, 4.0]


def test_a_file_that_hangs_when_it_is_loaded_fails_by_name(folder, monkeypatch):
    monkeypatch.setattr(runner_module, "START_LIMIT_S", 4.0)
    with RewardRunner(RewardPolicy(folder=folder)) as runner:
        assert "did not load within 4 s" in failure(runner, "file:hangs_on_import", ["a"]).message


def test_a_stop_signalled_to_the_whole_group_leaves_the_helper_working(folder):
    with RewardRunner(RewardPolicy(folder=folder)) as runner:
        (pid,) = run(runner, "file:process", ["a"])
        os.kill(int(pid), signal.SIGTERM)
        assert run(runner, "file:process", ["a"]) == [pid]


def test_the_helper_is_kept_between_calls_and_ends_with_its_runner(folder):
    with RewardRunner(RewardPolicy(folder=folder)) as runner:
        (pid,) = set(run(runner, "file:process", ["a", "b"]))
        assert run(runner, "file:process", ["a"]) == [pid]
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid), 0)


def test_a_file_keeps_its_state_between_batches_until_it_is_edited(runner, folder):
    assert [run(runner, "file:counts", ["a"]) for _ in range(3)] == [[1.0], [2.0], [3.0]]
    (folder / "counts.py").write_text(FILES["counts"].replace("calls = 0", "calls = 10"))
    assert [run(runner, "file:counts", ["a"]) for _ in range(2)] == [[11.0], [12.0]]


def test_the_functions_for_trl_take_what_the_trainer_gives(runner):
    specs = ["exact_match", "file:columns", {"name": "length", "params": {"unit": "tokens", "max": 2}}]
    bound = build_rewards(specs, runner.policy)
    exact, columns, length = as_trl_reward_funcs(bound, runner)
    assert [exact.__name__, columns.__name__, length.__name__] == ["exact_match", "file_columns", "length"]
    given: dict[str, Any] = {
        "prompts": [[{"role": "user", "content": "q"}]] * 2,
        "completions": [[{"role": "assistant", "content": "Paris"}], [{"role": "assistant", "content": None}]],
        "completion_ids": [[1, 2], [1, 2, 3]],
        "answer": ["Paris", "Paris"],
        "a": [1, 2],
        "trainer_state": object(),
        "log_extra": print,
        "log_metric": print,
    }
    assert exact(**given) == [1.0, 0.0]
    assert columns(**given) == [2.0, 3.0]
    assert length(**given) == [1.0, 0.0]
    plain = given | {"prompts": ["q", "q"], "completions": ["Paris", "Lyon"], "a": [0, 0]}
    assert exact(**plain) == [1.0, 0.0]


def test_a_reward_from_another_package_is_one_entry(runner):
    from opensloth.rewards import reward_map
    from tests.support import a_reward

    try:
        assert run(runner, {"name": "starts_with", "params": {"text": "a"}}, ["ab", "b"]) == [1.0, 0.0]
    finally:
        reward_map.pop(a_reward.STARTS_WITH.name)
