"""A script has the job's rewards with it, and they score as in the job."""

from __future__ import annotations

import importlib
import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from opensloth.method_args import RewardSpec
from opensloth.rewards import RewardPolicy, RewardRunner, build_rewards
from opensloth.rewards.registry import reward_map
from opensloth.script import IMPORTS
from opensloth.script_parts.carry import Carried
from opensloth.script_parts.rewards import render_rewards
from opensloth.script_parts.source import defined_in
from tests.support.scripts import run_source

ANSWERS = ["#### 4", "four", "```python\ndef f(): return 4\n```", '{"a": 1}', "so it is $\\boxed{\\frac{8}{2}}$"]
ROW = {"prompt": "2+2", "answer": "4", "tests": ["assert f() == 4"], "completion_tokens": 3}
SHORT = {"name": "length", "params": {"unit": "tokens", "max": 2, "tolerance": 4}}
SPECS: list[Any] = [
    SHORT,
    "exact_match",
    {"name": "exact_match", "params": {"part": "last_line", "ignore_case": True}},
    {"name": "regex", "params": {"pattern": "[0-9]$"}},
    {"name": "numeric_answer", "params": {"mode": "math"}},
    {"name": "json_schema", "params": {"schema": {"required": ["a"]}}},
    {"name": "string_check", "params": {"reference": "{{item.answer}}", "operation": "like"}},
    {"name": "text_similarity", "params": {"reference": "four {{item.answer}}", "evaluation_metric": "rouge_l"}},
]


class Scorer(BaseHTTPRequestHandler):
    """Scores by length, and says what row it saw."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        scores = [
            len(text) + row["completion_tokens"] for text, row in zip(body["completions"], body["rows"], strict=True)
        ]
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"scores": scores}).encode())

    def log_message(self, *_: Any) -> None:
        """Nothing on the test's output."""


@pytest.fixture
def url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Scorer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


def carried_rewards(specs: list[Any], folder: Path) -> list[Any]:
    """The functions of a script's source, run where nothing of the package is."""
    rendered = render_rewards([RewardSpec.model_validate(spec) for spec in specs])
    reserved = defined_in(rendered.source)
    carried = Carried(rendered.roots, reserved, rendered.replaced, rendered.also)
    code = f"{carried.source}\n\n\n{rendered.source}"
    functions: list[Any] = run_source(code, [*IMPORTS, *carried.imports])["rewards"](str(folder))
    return functions


def test_what_is_built_in_scores_as_in_the_job(tmp_path: Path) -> None:
    given = carried_rewards(SPECS, tmp_path)
    rows = [ROW] * len(ANSWERS)
    with RewardRunner(RewardPolicy()) as runner:
        for bound, function in zip(build_rewards(SPECS, RewardPolicy()), given, strict=True):
            assert function.__name__ == bound.label
            assert function(ANSWERS, rows) == runner.score(bound, ANSWERS, rows), bound.label


def test_services_and_files_and_code_score_as_in_the_job(url: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        '"""Mine."""\n\ndef reward(completions, rows, *, scale=1.0):\n'
        '    return [scale * row["completion_tokens"] for row in rows]\n'
    )
    specs = [
        {"name": "http", "params": {"url": url, "batch_size": 2}},
        {"name": "file:mine", "params": {"scale": 0.5}},
        {"name": "code_tests", "params": {"timeout_s": 10.0}},
    ]
    rows = [ROW] * len(ANSWERS)
    functions = carried_rewards(specs, tmp_path)
    policy = RewardPolicy((url,), tmp_path)
    with RewardRunner(policy) as runner:
        for bound, function in zip(build_rewards(specs, policy), functions, strict=True):
            assert function(ANSWERS, rows) == runner.score(bound, ANSWERS, rows), bound.label
    assert functions[2](ANSWERS, rows) == [0.0, 0.0, 1.0, 0.0, 0.0]


def test_a_reward_of_another_package_is_carried_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "tests.support.a_reward", raising=False)  # another test may have unregistered it
    importlib.import_module("tests.support.a_reward")
    try:
        (function,) = carried_rewards([{"name": "starts_with", "params": {"text": "f"}}], tmp_path)
        assert function(ANSWERS, [ROW] * len(ANSWERS)) == [0.0, 1.0, 0.0, 0.0, 0.0]
    finally:
        reward_map.pop("starts_with")


def test_a_file_that_is_not_there_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"mine\.py.*--rewards-dir"):
        carried_rewards(["file:mine"], tmp_path)


def test_a_reward_that_is_gone_is_left_to_be_written(tmp_path: Path) -> None:
    (function,) = carried_rewards(["it_was_here"], tmp_path)
    with pytest.raises(NotImplementedError, match="it_was_here"):
        function(ANSWERS, [ROW] * len(ANSWERS))


def test_a_pattern_that_takes_forever_ends_by_name(tmp_path: Path) -> None:
    (function,) = carried_rewards([{"name": "regex", "params": {"pattern": "(a+)+$"}}], tmp_path)
    with pytest.raises(BaseException, match="regex took more than"):
        function(["a" * 40 + "b"], [ROW])
