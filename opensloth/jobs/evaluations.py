"""Evaluations: jobs that compare the result of another job with the model that it was made from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel
from sqlalchemy import select
from sqlalchemy.orm import Session

from opensloth.accounts.callers import Caller, require_visible, visible_to
from opensloth.database import Database
from opensloth.datasets.serving import columns_of, first_served, require_for_training
from opensloth.errors import Conflict, FieldError, InvalidInput, NotAllowed, NotFound
from opensloth.jobs.evaluation_spec import SCHEMA_VERSION, EvaluationSpec, parse_evaluation_spec
from opensloth.jobs.inputs import hold_parents
from opensloth.jobs.retry import Retry
from opensloth.jobs.rows import JobRow
from opensloth.jobs.service import JobService, body_digest
from opensloth.jobs.spec import PRIORITIES, JobSpec, load_job_spec
from opensloth.jobs.states import TERMINAL, State
from opensloth.jobs.views import JobView
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


class EvaluationService:
    """Accepts evaluations and gives what they found; everything else about them is what it is for any job."""

    def __init__(
        self,
        database: Database,
        storage: Storage,
        jobs: JobService,
        models: ModelRegistry,
        rewards: RewardPolicy,
    ) -> None:
        self._db = database
        self._storage = storage
        self._jobs = jobs
        self._models = models
        self._rewards = rewards

    def submit(
        self,
        source_id: str,
        body: Any,
        caller: Caller,
        idempotency_key: str | None = None,
        *,
        retry: Retry | None = None,
    ) -> tuple[JobView, bool]:
        """Accept an evaluation of the job `source_id`; the second value is False where the idempotency key had made it.

        A job that has not ended is waited for. Raises NotFound, Conflict where there will be no result, InvalidInput.
        """
        asked = {"evaluation_of": source_id, "body": body}
        digest = body_digest(asked if retry is None else retry.identify(asked))
        if idempotency_key is not None and (earlier := self._jobs.earlier(caller, idempotency_key, digest)):
            return earlier, False
        spec = parse_evaluation_spec(body)
        if spec.priority == "urgent" and not caller.is_admin:
            raise NotAllowed("only an admin may submit urgent jobs", hint="use priority high, normal or low")

        def insert(session: Session, job_id: str) -> JobRow:
            source = self._source(session, source_id, caller)
            trained = load_job_spec(source.spec)
            chosen = judge_of(spec, trained)
            rewards = bind_graders(spec, trained, self._rewards) if chosen == "graders" else []
            depends_on = [] if source.state == State.SUCCEEDED else [source_id]
            row = JobRow(
                id=job_id,
                kind="evaluation",
                export_of=source_id,
                name=spec.name.strip() or f"{source.name[:110]} evaluation",
                owner=caller.owner,
                team=caller.team,
                spec=dict(body),
                schema_version=SCHEMA_VERSION,
                user_metadata=dict(spec.metadata),
                priority=PRIORITIES[spec.priority],
                device_count=1,
                time_limit_s=spec.time_limit,
                max_retries=spec.max_retries,
                dataset_id=self._dataset(session, spec, trained, source, chosen, rewards, caller),
                model_id=source_id,
            )
            choice = None if depends_on else self._models.choices.of(session, source_id, "job", caller)
            self._jobs.assessor.fill_export(
                session, row, form=f"evaluation-{chosen}", precision="16bit", choice=choice, time_limit=spec.time_limit
            )
            self._jobs.add(session, row, depends_on, caller)
            if retry is not None:
                retry.apply(session, job_id)
            return row

        return self._jobs.accept(insert, digest, caller, idempotency_key)

    def list(self, source_id: str, caller: Caller) -> list[EvaluationView]:
        """The evaluations of a job, newest first, without their summaries' rows; raises NotFound."""
        self._jobs.state(source_id, caller)
        with self._db.read() as session:
            mine = (JobRow.export_of == source_id, JobRow.kind == "evaluation", visible_to(caller, JobRow.team))
            query = select(JobRow).where(*mine).order_by(JobRow.created_at.desc(), JobRow.id.desc()).limit(100)
            views = self._jobs.views(session, session.scalars(query).all())
        return [self._view(view) for view in views]

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

    def _source(self, session: Session, source_id: str, caller: Caller) -> JobRow:
        hold_parents(session, [source_id])
        found = session.get(JobRow, source_id)
        source = require_visible(found, caller, f"job {source_id!r}", "`opensloth jobs` lists them")
        if source.kind != "training":
            message = f"{source_id} is of kind {source.kind}, and only what was trained is evaluated"
            raise Conflict(message, code="no_result", hint="name the training job")
        if source.state in TERMINAL and (source.state != State.SUCCEEDED or not (source.result or {}).get("model")):
            raise Conflict(
                f"the job {source_id} left no model that could be evaluated",
                code="no_result",
                hint="only a job that succeeded has one",
            )
        return source

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
