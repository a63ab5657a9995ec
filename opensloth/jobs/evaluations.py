"""Evaluations: jobs that compare the result of another job with the model that it was made from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel
from sqlalchemy.orm import Session

from opensloth.accounts.callers import Caller
from opensloth.database import Database
from opensloth.datasets.serving import columns_of, first_served, require_for_training
from opensloth.errors import Conflict, FieldError, InvalidInput, NotFound
from opensloth.jobs.derived import DerivedJobs, Own
from opensloth.jobs.evaluation_spec import SCHEMA_VERSION, EvaluationSpec, parse_evaluation_spec
from opensloth.jobs.rows import JobRow
from opensloth.jobs.service import JobService
from opensloth.jobs.spec import JobSpec, load_job_spec
from opensloth.jobs.states import State
from opensloth.jobs.views import JobView
from opensloth.models.choices import ModelChoice
from opensloth.models.registry import ModelRegistry
from opensloth.rewards import BoundReward, RewardPolicy, build_rewards
from opensloth.rewards.build import unique_label
from opensloth.rewards.openai_graders import bind_grader, is_grader
from opensloth.storage import Storage

READ_AS = {"graders": ("sft", "grpo", "dpo", "kto"), "preferences": ("dpo",)}
"""By judge: the training types whose rows it can ask, the first that the file serves."""
SUMMARY, ROWS = "summary.json", "rows.jsonl"


class EvaluationView(BaseModel):
    """An evaluation: the job that makes it and, once that has succeeded, what came of it."""

    id: str
    object: Literal["evaluation"] = "evaluation"
    job: JobView
    summary: dict[str, Any] | None = None


class EvaluationService(DerivedJobs[EvaluationSpec]):
    """Accepts evaluations and gives what they found."""

    kind = "evaluation"
    done = "evaluated"
    schema_version = SCHEMA_VERSION

    def __init__(
        self, database: Database, storage: Storage, jobs: JobService, models: ModelRegistry, rewards: RewardPolicy
    ) -> None:
        super().__init__(database, jobs, models)
        self._storage = storage
        self._rewards = rewards

    def parse(self, body: Any) -> EvaluationSpec:
        """The spec that a client posted; raises InvalidInput."""
        return parse_evaluation_spec(body)

    def own(
        self, session: Session, source: JobRow, choice: ModelChoice | None, spec: EvaluationSpec, caller: Caller
    ) -> Own:
        """Its name, needs and rows; raises Conflict and InvalidInput where the source cannot be evaluated so."""
        if source.kind != "training":
            message = f"{source.id} is of kind {source.kind}, and only what was trained is evaluated"
            raise Conflict(message, code="no_result", hint="name the training job")
        trained = load_job_spec(source.spec)
        judge = judge_of(spec, trained)
        rewards = bind_graders(spec, trained, self._rewards) if judge == "graders" else []
        dataset_id = self._dataset(session, spec, trained, source, judge, rewards, caller)
        return Own(f"{source.name[:110]} evaluation", f"evaluation-{judge}", dataset_id=dataset_id)

    def list(self, source_id: str, caller: Caller) -> list[EvaluationView]:
        """The newest 100 evaluations of a job, newest first; raises NotFound."""
        return [self._view(view) for view in self.jobs_of(source_id, caller)]

    def get(self, source_id: str, evaluation_id: str, caller: Caller) -> EvaluationView:
        """One evaluation; raises NotFound."""
        return self._view(self._job(source_id, evaluation_id, caller))

    def rows(
        self, source_id: str, evaluation_id: str, caller: Caller, *, after: int, limit: int, changed: bool | None
    ) -> tuple[Sequence[dict[str, Any]], bool]:
        """Rows with a number above `after`, in order, and whether more follow; `changed` picks those that are (not).

        Raises NotFound, and Conflict while there is no result.
        """
        view = self._job(source_id, evaluation_id, caller)
        if view.result is None:
            raise Conflict(f"the evaluation {view.id} is {view.state} and has no rows", code="no_result")
        found: list[dict[str, Any]] = []
        try:
            with self._storage.open(_key(view.id, ROWS)) as file:
                for line in file:
                    row = json.loads(line)
                    if row["row"] <= after or (changed is not None and row["changed"] is not changed):
                        continue
                    if len(found) == limit:
                        return found, True
                    found.append(row)
        except FileNotFoundError:
            raise NotFound(f"the result of {view.id} is not in storage any more", code="content_missing") from None
        return found, False

    def _job(self, source_id: str, evaluation_id: str, caller: Caller) -> JobView:
        view = self._jobs.get(evaluation_id, caller)
        if view.kind != "evaluation" or view.export_of != source_id:
            raise NotFound(f"the job {source_id} has no evaluation {evaluation_id!r}")
        return view

    def _view(self, job: JobView) -> EvaluationView:
        summary = None
        if job.state == State.SUCCEEDED:
            try:
                with self._storage.open(_key(job.id, SUMMARY)) as file:
                    summary = json.load(file)
            except FileNotFoundError:
                summary = None  # results have been cleaned up; the job says when
        return EvaluationView(id=job.id, job=job, summary=summary)

    def _dataset(
        self,
        session: Session,
        spec: EvaluationSpec,
        trained: JobSpec,
        source: JobRow,
        judge: str,
        rewards: Sequence[BoundReward],
        caller: Caller,
    ) -> str:
        """The file with the rows, checked; raises InvalidInput."""
        split = spec.dataset is None and source.eval_dataset_id is None
        if split and trained.opensloth_config.eval_split is None:
            message = "the job kept no rows for evaluation (`eval_dataset` or `eval_split`); name a file that has some"
            raise InvalidInput(f"dataset: {message}", fields=[FieldError("dataset", message, "required")])
        file_id = spec.dataset or source.eval_dataset_id or source.dataset_id
        if file_id is None:
            message = "the job's dataset is still fetched from the hub; wait for it, or name a file"
            raise InvalidInput(f"dataset: {message}", fields=[FieldError("dataset", message)])
        wanted = (trained.opensloth_config.training_type,) if split else READ_AS[judge]
        method = first_served(session, file_id, wanted, caller) or wanted[0]
        form = trained.opensloth_config.dataset_form if split else spec.dataset_form
        row = require_for_training(session, file_id, method, "dataset", caller, form)
        columns = columns_of(session, row)
        if columns is not None:
            made = {*columns, "prompt", "reference"}
            missing = [error for reward in rewards for error in reward.missing_columns(made, "graders")]
            if missing:
                raise InvalidInput(f"{missing[0].path}: {missing[0].message}", fields=missing)
        return file_id


def judge_of(spec: EvaluationSpec, trained: JobSpec) -> Literal["graders", "preferences"]:
    """Who judges, where the evaluation does not say."""
    if spec.judge is not None:
        return spec.judge
    prefers = trained.opensloth_config.training_type in ("dpo", "orpo")
    return "preferences" if prefers and not spec.graders else "graders"


def bind_graders(spec: EvaluationSpec, trained: JobSpec, policy: RewardPolicy) -> list[BoundReward]:
    """The graders in order, each under its own label; raises InvalidInput for every mistake and for none at all."""
    given: list[Any] = list(spec.graders)
    grpo = trained.opensloth_config.grpo_args
    if not given and grpo is not None:
        given = [reward.model_dump() for reward in grpo.reward_functions]
    if not given:
        message = "name at least one: a reward of GET /v1/rewards, or a grader as OpenAI writes it"
        raise InvalidInput(f"graders: {message}", fields=[FieldError("graders", message, "required")])
    specs: list[Any] = []
    errors: list[FieldError] = []
    for place, grader in enumerate(given):
        try:
            if is_grader(grader):
                specs.append(bind_grader(grader, policy, f"graders[{place}]").spec)
            else:
                specs.append(grader)
                build_rewards([grader], policy, path="graders")
        except InvalidInput as error:
            here = [(wrong.path.replace("graders[0]", f"graders[{place}]", 1), wrong) for wrong in error.fields]
            errors += [FieldError(path, wrong.message, wrong.code) for path, wrong in here]
    if errors:
        raise InvalidInput(f"{errors[0].path}: {errors[0].message}", fields=errors)
    return build_rewards(specs, policy, path="graders")


def labels_of(spec: EvaluationSpec, bound: Sequence[BoundReward]) -> list[str]:
    """What each grader is called in the summary: the name that OpenAI's has, else its reward's."""
    labels: list[str] = []
    for place, reward in enumerate(bound):
        grader = spec.graders[place] if place < len(spec.graders) else None
        named = isinstance(grader, dict) and is_grader(grader)
        labels.append(unique_label(str(grader["name"]) if named and grader else reward.spec.name, labels))
    return labels


def _key(job_id: str, name: str) -> str:
    return f"jobs/{job_id}/artifacts/{name}"
