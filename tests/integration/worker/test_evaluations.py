"""Evaluations through a real worker and real evaluation processes, of a tiny model and adapters that matter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from opensloth.errors import Conflict, NotFound
from opensloth.services import Services
from opensloth.settings import Settings
from tests.support.exports import finished_job, make_adapter
from tests.support.jobs import ADMIN, add_file, wait_for_state
from tests.support.tiny_model import make_tiny_model
from tests.support.workers import running_worker

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)]

CHATS = [
    {
        "messages": [{"role": "user", "content": f"Say {n}"}, {"role": "assistant", "content": f"{n}"}],
        "even": n % 2 == 0,
    }
    for n in range(14)
]
PAIRS = [
    {
        "input": {"messages": [{"role": "user", "content": f"Say {n}"}]},
        "preferred_output": [{"role": "assistant", "content": f"{n}!"}],
        "non_preferred_output": [{"role": "assistant", "content": "no" * n + "."}],
    }
    for n in range(1, 13)
]
GRADERS = [
    {
        "type": "text_similarity",
        "name": "close",
        "input": "{{sample.output_text}}",
        "reference": "{{item.reference}}",
        "evaluation_metric": "fuzzy_match",
    },
    {"name": "regex", "params": {"pattern": "[a-m]"}},
]


def rows_of(services: Services, source: str, evaluation: str, **query: Any) -> list[dict[str, Any]]:
    found, more = services.evaluations.rows(
        source, evaluation, ADMIN, **{"after": 0, "limit": 100, "changed": None, **query}
    )
    assert not more
    return list(found)


def test_a_result_is_compared_with_its_base_row_by_row(services: Services, settings: Settings, tmp_path: Path) -> None:
    base = make_tiny_model(tmp_path / "base")
    source = finished_job(services, make_adapter(base, tmp_path / "adapter"), base)
    whole = finished_job(services, make_tiny_model(tmp_path / "whole"), None, name="whole")
    chats, pairs = add_file(services, CHATS), add_file(services, PAIRS)
    common = {"max_completion_tokens": 8, "dataset": chats}
    graded = services.evaluations.submit(source, {**common, "graders": GRADERS}, ADMIN)[0].id
    same = services.evaluations.submit(whole, {**common, "graders": GRADERS[:1], "rows": 5}, ADMIN)[0].id
    preferred = services.evaluations.submit(source, {"judge": "preferences", "dataset": pairs}, ADMIN)[0].id
    with pytest.raises(Conflict, match="has no rows"):
        services.evaluations.rows(source, graded, ADMIN, after=0, limit=1, changed=None)
    with running_worker(settings, tmp_path):
        for job_id in (graded, same, preferred):
            job = wait_for_state(services, job_id, "succeeded", "failed", timeout=300)
            assert job.state == "succeeded", job.error

    found = services.evaluations.get(source, graded, ADMIN).summary
    assert found is not None
    assert (found["rows"], set(found["measures"])) == (14, {"close", "regex"})
    lines = rows_of(services, source, graded)
    for name, measure in found["measures"].items():
        for side in ("base", "result"):
            assert measure[side] == pytest.approx(sum(line["scores"][name][side] for line in lines) / 14)
        low, high = measure["interval"]
        assert low <= measure["difference"] <= high
    assert any(line["base_answer"] != line["result_answer"] for line in lines)
    assert found["changed"] == len(rows_of(services, source, graded, changed=True)) > 0
    assert [line["row"] for line in rows_of(services, source, graded, after=10)] == [11, 12, 13, 14]
    assert lines[3]["prompt"] == CHATS[3]["messages"][:1]

    nothing = services.evaluations.get(whole, same, ADMIN).summary
    assert nothing is not None
    assert (nothing["rows"], nothing["measures"]["close"]["verdict"]) == (5, "too few rows")

    prefers = services.evaluations.get(source, preferred, ADMIN).summary
    assert prefers is not None
    margins = [line["implicit_reward_margin"] for line in rows_of(services, source, preferred)]
    assert prefers["implicit_reward"]["accuracy"] == sum(margin > 0 for margin in margins) / 12
    assert prefers["implicit_reward"]["margin"] == pytest.approx(sum(margins) / 12)
    assert margins == pytest.approx(_margins(base, tmp_path / "adapter"), abs=1e-4)
    with pytest.raises(NotFound):
        services.evaluations.get(whole, graded, ADMIN)


def _margins(base: Path, adapter: Path) -> list[float]:
    """DPO's implicit rewards by another way: each answer alone, log-probabilities token by token."""
    import peft
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(adapter)
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    adapted = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), adapter)

    def likelihood(model: Any, pair: dict[str, Any], answer: str) -> float:
        asked = tokenizer.apply_chat_template(pair["input"]["messages"], tokenize=False, add_generation_prompt=True)
        whole = tokenizer.apply_chat_template([*pair["input"]["messages"], *pair[answer]], tokenize=False)
        start = len(tokenizer(asked, add_special_tokens=False)["input_ids"])
        ids = torch.tensor([tokenizer(whole, add_special_tokens=False)["input_ids"]])
        with torch.no_grad():
            logs = model(ids).logits[0].log_softmax(-1)
        return float(sum(logs[place - 1, ids[0, place]] for place in range(start, ids.shape[1])))

    def margin(model: Any, pair: dict[str, Any]) -> float:
        return likelihood(model, pair, "preferred_output") - likelihood(model, pair, "non_preferred_output")

    pairs = [json.loads(json.dumps(pair)) for pair in PAIRS]
    return [0.1 * (margin(adapted, pair) - margin(plain, pair)) for pair in pairs]
