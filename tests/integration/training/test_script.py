"""The bare TRL script of a job gives the job's losses, and needs nothing of OpenSloth."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from opensloth.storage import Storage
from opensloth.training.run_spec import RunSpec
from tests.support.scripts import Logged, logged, run_script, with_data, write_rows, write_script
from tests.support.training import TrainerHost, log, make_run

Rows = list[dict[str, Any]]


def turns(i: int, name: str = "content") -> list[dict[str, Any]]:
    """A conversation of two messages; the answer of every seventh is longer than a row may be."""
    role, said = ("from", "value") if name == "value" else ("role", "content")
    question = {role: "human" if role == "from" else "user", said: f"Säg {i} 🦥"}
    return [
        question,
        {role: "gpt" if role == "from" else "assistant", said: f"{i} ja " * (40 if i % 7 == 6 else i % 4 + 1)},
    ]


ALPACA: Rows = [
    {
        "instruction": f"Say {i}",
        "input": "twice" * (i % 2),
        "output": f"{i} " * (60 if i % 7 == 6 else i % 5 + 1),
        "ändrad, när": "",
    }
    for i in range(20)
]
CHAT: Rows = [
    {
        "messages": [
            {"role": "developer", "content": [{"type": "text", "text": "Be brief."}]},
            *turns(i),
            {"role": "user", "content": "More"},
            {"role": "assistant", "content": "yes " * (i % 3 + 1), "weight": i % 2},
        ]
    }
    for i in range(20)
]
CALLS = [{"zone": "UTC"}, '{"zone": "UTC"}']
TOOLS: Rows = [
    {
        "conversations": [
            {"from": "human", "value": f"When is {i}?"},
            {"from": "function_call", "value": json.dumps({"name": "clock", "arguments": CALLS[i % 2]})},
            {"from": "observation", "value": f"{i}"},
            {"from": "gpt", "value": f"At {i}. " * (i % 3 + 1)},
        ],
        "tools": json.dumps([{"type": "function", "function": {"name": "clock"}}]) if i % 2 else None,
    }
    for i in range(20)
]
OPENAI: Rows = [
    {
        "input": {"messages": turns(i)[:1], "parallel_tool_calls": True},
        "preferred_output": turns(i)[1:],
        "non_preferred_output": [{"role": "assistant", "content": f"no {i} " * (i % 3 + 1)}],
    }
    for i in range(16)
]
WHOLE: Rows = [
    {
        "chosen": [*turns(1), *turns(i)],
        "rejected": [*turns(1), turns(i)[0], {"role": "assistant", "content": f"no {i}"}],
    }
    for i in range(16)
]
LABELLED: Rows = [
    {"prompt": f"Say {i}:", "completion": " ok" * (50 if i % 7 == 6 else i % 5 + 1), "label": i % 3 != 0}
    for i in range(20)
]
PROMPTS: Rows = [
    {"prompt": turns(i)[:1], "answer": i, "prompts": "odd", "completion_ids": [i], "tests": ["assert f() == 1"]}
    for i in range(8)
]
GIVEN: Rows = [
    {
        "input_ids": [*range(i, i + 12), 5, 5],
        "labels": [-100] * (i % 5 + 1) + [7] * (13 - i % 5),
        "attention_mask": [1] * 12 + [0] * 2,
    }
    for i in range(20)
]
EACH_STEP = {"eval_strategy": "steps", "eval_steps": 1}


@dataclass(frozen=True)
class Case:
    """A job: its method, rows, file, what it sets, and how its script is told of the form of the rows."""

    method: str
    rows: Rows
    container: str = "jsonl"
    packed: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    arguments: dict[str, Any] = field(default_factory=dict)
    form: str | None = None
    eval_rows: Rows | None = None
    eval_form: str | None = None
    slow: bool = False


CASES: dict[str, Case] = {
    "sft on Alpaca, packed, evaluated on chats": Case(
        "sft",
        ALPACA,
        "csv",
        "gzip",
        {"lora_args": {"r": 4, "lora_dropout": 0.1}},
        EACH_STEP,
        "alpaca",
        CHAT,
        "messages",
    ),
    "sft on parts of chats": Case("sft", CHAT, "json", "zstd", {"loss_on": "completion"}, slow=True),
    "sft on all of chats": Case("sft", CHAT, config={"loss_on": "all", "sequence_packing": False}, slow=True),
    "sft on texts that are cut": Case(
        "sft",
        [{"text": row["output"]} for row in ALPACA],
        "parquet",
        config={"filter_overlength_samples": False},
        slow=True,
    ),
    "sft on prompts and completions": Case(
        "sft",
        [{"prompt": row["instruction"], "completion": row["output"]} for row in ALPACA],
        "csv",
        config={"loss_on": "all"},
        slow=True,
    ),
    "sft on tokens": Case("sft", GIVEN, "parquet", slow=True),
    "sft on a form chosen by hand": Case(
        "sft",
        [{**row, "text": f"{row['output']}!"} for row in ALPACA],
        config={"dataset_form": "text"},
        form="text",
        slow=True,
    ),
    "sft with tools": Case("sft", TOOLS, "jsonl", "gzip", slow=True),
    "sft in full": Case("sft", CHAT, config={"fast_model_args": {"full_finetuning": True}}, slow=True),
    "dpo on OpenAI's rows": Case(
        "dpo",
        OPENAI,
        "json",
        "zstd",
        {"dpo_args": {"max_prompt_length": 20, "max_length": 96, "beta": 0.3}, "eval_split": 0.2},
        EACH_STEP,
        "openai_preference",
    ),
    "dpo on ShareGPT": Case(
        "dpo",
        [
            {
                "conversations": turns(i, "value")[:1],
                "chosen": turns(i, "value")[1],
                "rejected": {"from": "gpt", "value": "no"},
            }
            for i in range(7)  # the last step of an epoch has 2 pairs and 1
        ],
        slow=True,
    ),
    "kto on texts that are cut": Case(
        "kto",
        LABELLED,
        "parquet",
        None,
        {"kto_args": {"max_prompt_length": 6, "max_length": 64}, "filter_overlength_samples": False, "eval_split": 0.2},
        EACH_STEP,
        "labelled",
    ),
    "kto with a weight": Case(
        "kto",
        LABELLED,
        config={"kto_args": {"undesirable_weight": 1.5}},
        eval_rows=LABELLED[:5],
        arguments=EACH_STEP,
        slow=True,
    ),
    "orpo on conversations, stopped early": Case(
        "orpo",
        WHOLE,
        "jsonl",
        "zstd",
        {"eval_split": 0.2, "early_stopping_patience": 1, "early_stopping_threshold": 100.0},
        EACH_STEP,
    ),
    "orpo on a table": Case(
        "orpo",
        [{"prompt": f"{i}", "chosen": f" yes {i}", "rejected": " no" * (i % 3 + 1)} for i in range(7)],
        "csv",
        slow=True,
    ),
}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if c.slow else []) for n, c in CASES.items()]
)
def test_the_script_gives_the_losses_of_the_job(
    name: str, tiny_model: Path, trainers: TrainerHost, tmp_path: Path
) -> None:
    case = CASES[name]
    model = with_tools(tiny_model, tmp_path / "model") if case.rows is TOOLS else tiny_model
    arguments = {"max_steps": 4, "warmup_steps": 0, **case.arguments}
    job = make_run(tmp_path, model, case.method, rows=[{}], config=case.config, arguments=arguments)
    data = write_rows(tmp_path / "data", case.rows, case.container, case.packed)
    evaluation = write_rows(tmp_path / "evaluation", case.eval_rows, "json", "zstd") if case.eval_rows else None
    metrics = assert_same(with_data(job, data, evaluation), trainers, tmp_path, case.form, case.eval_form)
    steps = [step for step in metrics if "loss" in metrics[step]]
    assert len(steps) == (2 if "early" in name else 4)
    assert any("eval_loss" in logs for logs in metrics.values()) == ("eval_strategy" in case.arguments)


@pytest.mark.slow
def test_a_script_goes_on_from_an_adapter(tiny_model: Path, trainers: TrainerHost, tmp_path: Path) -> None:
    before = make_run(tmp_path, tiny_model, name="before", arguments={"max_steps": 2})
    assert trainers.run(before) == 0, log(before)
    adapter = str(Storage(before.storage_url).local_path(before.artifact_key))
    job = make_run(tmp_path, tiny_model, "dpo", adapter=adapter, arguments={"max_steps": 4, "warmup_steps": 0})
    assert_same(job, trainers, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "rows"), [("sft", CHAT), ("kto", LABELLED)])
def test_a_script_does_alone_what_two_processes_did(
    method: str, rows: Rows, tiny_model: Path, trainers: TrainerHost, tmp_path: Path
) -> None:
    arguments = {"max_steps": 3, "warmup_steps": 0}
    job = make_run(tmp_path, tiny_model, method, rows=[{}], arguments=arguments, world_size=2)
    job = with_data(job, write_rows(tmp_path / "data", rows, "jsonl"))
    assert_same(job, trainers, tmp_path)
    assert "ran on 2 devices" in write_script(job, tmp_path).path.read_text()


@pytest.mark.slow
def test_code_and_mathematics_are_judged_as_in_the_job(tiny_model: Path, trainers: TrainerHost, tmp_path: Path) -> None:
    rewards = [
        {"name": "code_tests", "params": {"timeout_s": 10.0}},
        {"name": "numeric_answer", "params": {"mode": "math"}},
        {"name": "text_similarity", "params": {"reference": "{{item.answer}}"}},
    ]
    grpo = {"num_generations": 2, "max_completion_length": 6, "max_prompt_length": 40, "reward_functions": rewards}
    too_long = {**PROMPTS[0], "prompt": [{"role": "user", "content": "x" * 100}]}
    arguments = {"max_steps": 3, "warmup_steps": 0}
    job = make_run(tmp_path, tiny_model, "grpo", rows=[{}], config={"grpo_args": grpo}, arguments=arguments)
    assert_same(with_data(job, write_rows(tmp_path / "data", [*PROMPTS, too_long], "json")), trainers, tmp_path)


def test_the_script_of_a_job_with_rewards_gives_its_losses(
    tiny_model: Path, trainers: TrainerHost, tmp_path: Path
) -> None:
    folder = tmp_path / "rewards"
    folder.mkdir()
    (folder / "mine.py").write_text(
        "def reward(completions, rows, *, scale):\n"
        "    return [scale * len(text) + row['answer'] for text, row in zip(completions, rows)]\n"
    )
    rewards = [
        {"name": "length", "weight": 2.0, "params": {"target": 3, "unit": "characters", "tolerance": 6}},
        {"name": "file:mine", "params": {"scale": 0.5}},
        {"name": "regex", "params": {"pattern": "[a-m]"}},
    ]
    grpo = {"num_generations": 2, "max_completion_length": 6, "max_prompt_length": 30, "beta": 0.1}
    config = {
        "grpo_args": {**grpo, "reward_functions": rewards},
        "filter_overlength_samples": False,
        "eval_split": 0.25,
    }
    arguments = {"max_steps": 3, "warmup_steps": 0, "eval_strategy": "steps", "eval_steps": 2}
    job = make_run(tmp_path, tiny_model, "grpo", rows=[{}], config=config, arguments=arguments, rewards_dir=str(folder))
    job = with_data(job, write_rows(tmp_path / "data", PROMPTS, "jsonl", "gzip"))
    metrics = assert_same(job, trainers, tmp_path, "prompt")
    assert any("eval_reward" in logs for logs in metrics.values())


def assert_same(
    job: RunSpec, trainers: TrainerHost, folder: Path, form: str | None = None, eval_form: str | None = None
) -> Logged:
    """Runs both; losses, gradient norms and evaluations are the same at every step."""
    assert trainers.run(job) == 0, log(job)
    expected, got = logged(job), run_script(trainers, write_script(job, folder, form, eval_form))
    assert {step for step in got if "loss" in got[step]} == {step for step in expected if "loss" in expected[step]}
    for step, metrics in expected.items():
        for name in ("loss", "grad_norm", "eval_loss", "reward", "eval_reward"):
            if name in metrics:
                assert got[step][name] == pytest.approx(metrics[name], rel=1e-5, abs=1e-7), f"{name} at step {step}"
    return expected


def with_tools(model: Path, folder: Path) -> Path:
    """The model with a chat template that knows tools and calls of them."""
    shutil.copytree(model, folder)
    (folder / "chat_template.jinja").write_text(
        "{% if tools %}{{ '<|im_start|>system\n' + tools | tojson + '<|im_end|>\n' }}{% endif %}"
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + (m['content'] or '') }}"
        "{% for call in m.get('tool_calls', []) %}{{ call['function'] | tojson }}{% endfor %}"
        "{{ '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    return folder


@pytest.mark.slow
def test_the_script_runs_where_opensloth_is_not(tiny_model: Path, tmp_path: Path) -> None:
    job = make_run(tmp_path, tiny_model, arguments={"max_steps": 1})
    script = write_script(job, tmp_path)
    run_path = f"import runpy; runpy.run_path({str(script.path)!r}, run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.modules['opensloth'] = None; {run_path}", *script.arguments],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=800,
    )
    assert done.returncode == 0, done.stderr
    assert "'loss'" in done.stdout
    assert (tmp_path / "out" / "adapter_model.safetensors").exists()
