"""The work of an evaluation: both models on the held-out rows, the scores, and what follows from them."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opensloth.rewards import RewardPolicy, RewardRunner, build_rewards
from opensloth.training.evaluations.held_out import HeldOut, held_out_rows
from opensloth.training.evaluations.models import Pair
from opensloth.training.evaluations.spec import EvaluationRun
from opensloth.training.evaluations.statistics import WILSON, bootstrap, compare, wilson

if TYPE_CHECKING:
    from opensloth.training.records import Records

ROWS_NAME, SUMMARY_NAME = "rows.jsonl", "summary.json"
SIDES = ("base", "result")
Scores = dict[str, dict[str, list[float]]]
"""By measure, then by `base` and `result`: a score for each row."""


class EvaluationWork:
    """Makes one evaluation in the scratch folder of its attempt."""

    def __init__(self, spec: EvaluationRun, records: Records, token: str | None) -> None:
        self._spec = spec
        self._records = records
        self._token = token

    def make(self) -> tuple[Path, dict[str, float]]:
        """The folder with summary and rows, and the numbers of the summary by name."""
        spec, records = self._spec, self._records
        records.phase("preparing_data", f"reading {spec.dataset.name}")
        rows = held_out_rows(spec)
        records.phase("loading_model", f"loading {spec.base_name}")
        pair = Pair(spec, self._token)
        if spec.judge == "preferences":
            scores, shown, more = self._prefer(pair, rows)
        else:
            scores, shown, more = self._answer(pair, rows)
        measures = {name: compare(sides["base"], sides["result"]) for name, sides in scores.items()}
        lines = [_line(row, i, scores, shown[i]) for i, row in enumerate(rows)]
        summary = {
            "object": "evaluation.summary",
            "judge": spec.judge,
            "base": spec.base_name,
            "result": spec.source_job_id,
            "dataset": spec.dataset.name,
            "rows": len(rows),
            "changed": sum(line["changed"] for line in lines),
            "measures": {name: found.to_json() for name, found in measures.items()},
            **more,
        }
        metrics = {f"{name}/{side}": getattr(found, side) for name, found in measures.items() for side in SIDES}
        metrics |= {f"{name}/difference": found.difference for name, found in measures.items()}
        said = ", ".join(
            f"{name} {found.base:.3g} -> {found.result:.3g}: {found.verdict}" for name, found in measures.items()
        )
        records.write("metrics", said, step=100, max_steps=100, metrics=metrics)
        return self._written(summary, lines), metrics

    def _answer(self, pair: Pair, rows: Sequence[HeldOut]) -> tuple[Scores, list[dict[str, Any]], dict[str, Any]]:
        spec = self._spec
        folder = Path(spec.rewards_dir) if spec.rewards_dir else None
        policy = RewardPolicy(tuple(spec.reward_urls), folder, spec.reward_timeout_s, spec.reward_python)
        rewards = build_rewards([grader.reward for grader in spec.graders], policy, path="graders")
        asked = [row.asked for row in rows]
        answers = {side: pair.ask(side, asked, self._telling(place, len(rows))) for place, side in enumerate(SIDES)}
        self._records.phase("checking", "grading the answers")
        items = [row.item for row in rows]
        with RewardRunner(policy) as runner:
            scores = {
                grader.label: {side: runner.score(reward, answers[side], items) for side in SIDES}
                for grader, reward in zip(spec.graders, rewards, strict=True)
            }
        shown = [{f"{side}_answer": answers[side][i] for side in SIDES} for i in range(len(rows))]
        return scores, shown, {"max_completion_tokens": spec.max_completion_tokens, "temperature": spec.temperature}

    def _prefer(self, pair: Pair, rows: Sequence[HeldOut]) -> tuple[Scores, list[dict[str, Any]], dict[str, Any]]:
        """Which answer each model finds likelier, and DPO's implicit reward of the result over the base."""
        asked = [row.asked for row in rows]
        found = {
            side: pair.log_probabilities(side, asked, self._telling(place, 2 * len(rows)))
            for place, side in enumerate(SIDES)
        }
        _must_be_numbers(found)
        margins = {side: [chosen - rejected for chosen, rejected, _, _ in found[side]] for side in SIDES}
        rewards = [self._spec.beta * (b - a) for a, b in zip(margins["base"], margins["result"], strict=True)]
        right = sum(reward > 0 for reward in rewards)
        scores: Scores = {
            "prefers_chosen": {side: [float(margin > 0) for margin in margins[side]] for side in SIDES},
            "chosen_log_probability_per_token": {
                side: [chosen / max(1, tokens) for chosen, _, tokens, _ in found[side]] for side in SIDES
            },
            "log_probability_margin": margins,
        }
        implicit = {
            "beta": self._spec.beta,
            "accuracy": right / len(rewards),
            "accuracy_interval": wilson(right, len(rewards)),
            "method": WILSON,
            "margin": math.fsum(rewards) / len(rewards),
            "margin_interval": bootstrap(rewards),
        }
        shown = [{"implicit_reward_margin": reward} for reward in rewards]
        return scores, shown, {"implicit_reward": implicit}

    def _telling(self, before: int, total: int) -> Any:
        """Hears of rows done by one of the two models, the `before`th, and tells per cent of both."""
        said: list[int] = []

        def told(done: int) -> None:
            step = int(50 * before + 50 * done / total)
            if not before and not said:
                self._records.write("started", "the models answer", step=0, max_steps=100, resumed_step=0)
                self._records.phase(
                    "evaluating", f"{self._spec.base_name} and {self._spec.source_name} on the same rows"
                )
            if not said or step > said[-1]:
                said.append(step)
                self._records.write("metrics", f"{step}%", step=step, max_steps=100, metrics={})

        return told

    def _written(self, summary: dict[str, Any], lines: Sequence[dict[str, Any]]) -> Path:
        folder = Path(self._spec.run_dir) / "result"
        folder.mkdir(exist_ok=True)
        (folder / SUMMARY_NAME).write_text(json.dumps(summary, indent=1, ensure_ascii=False) + "\n", "utf-8")
        with (folder / ROWS_NAME).open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(line, ensure_ascii=False, default=str) + "\n" for line in lines)
        return folder


def _line(row: HeldOut, place: int, scores: Scores, shown: dict[str, Any]) -> dict[str, Any]:
    """One row of the result: what was asked, what both said, and their scores."""
    own = {name: {side: sides[side][place] for side in SIDES} for name, sides in scores.items()}
    counted = [own["prefers_chosen"]] if "prefers_chosen" in own else list(own.values())
    return {
        "object": "evaluation.row",
        "row": row.number,
        "prompt": row.asked["prompt"],
        **shown,
        "scores": own,
        "changed": any(score["base"] != score["result"] for score in counted),
    }


def _must_be_numbers(found: dict[str, list[tuple[float, float, int, int]]]) -> None:
    from opensloth.training.exports.failures import ExportFailed

    for side, rows in found.items():
        for place, (chosen, rejected, _, _) in enumerate(rows):
            if not math.isfinite(chosen - rejected):
                raise ExportFailed(f"the {side} computes NaN or infinity on row {place + 1}", code="nan_loss")
