"""Fine-tuning by the openai package: what is posted, listed, read and refused, without a worker."""

from __future__ import annotations

import importlib
import json
from typing import Any

import openai
import pytest
from sqlalchemy import update

from opensloth.accounts.callers import Caller
from opensloth.datasets.rows import FileRow
from opensloth.jobs.rows import JobRow
from opensloth.models.rows import ModelRow
from opensloth.services import Services
from tests.integration.openai.conftest import client_for
from tests.support.boxes import add_host
from tests.support.jobs import ADMIN, body
from tests.support.openai_strict import Checker
from worker.launch_export import secrets_of

NAMED = "gpt-4o-mini-2024-07-18"


def test_a_job_posted_here_is_the_same_job_under_v1_jobs_and_the_reverse(
    client: openai.OpenAI, services: Services, training_file: str
) -> None:
    job = client.fine_tuning.jobs.create(model="tiny", training_file=training_file)
    ours = services.jobs.get(job.id, ADMIN)
    assert (ours.state, ours.owner, ours.dataset_id) == ("queued", "bob", training_file)
    bob = services.keys.authenticate(client.api_key)
    posted, _ = services.jobs.submit(body(services, training_file, name="ours", metadata={"a": "b"}), bob)
    theirs = client.fine_tuning.jobs.retrieve(posted.id)
    assert (theirs.status, theirs.model, theirs.metadata) == ("queued", "tiny", {"a": "b"})
    assert theirs.method is not None
    assert theirs.method.type == "supervised"
    assert {found.id for found in client.fine_tuning.jobs.list()} == {job.id, posted.id}


def test_the_hyperparameters_say_how_the_job_trains(
    client: openai.OpenAI, services: Services, training_file: str
) -> None:
    values = {"n_epochs": 2, "batch_size": 24, "learning_rate_multiplier": 0.5}
    method = {"type": "supervised", "supervised": {"hyperparameters": values}}
    job = client.fine_tuning.jobs.create(
        model="tiny", training_file=training_file, validation_file=training_file, method=method, seed=7
    )
    spec = services.jobs.get(job.id, ADMIN).spec
    arguments = spec["training_args"]
    assert arguments["num_train_epochs"] == 2
    assert arguments["warmup_steps"] == 0.1
    assert spec["opensloth_config"]["sequence_packing"] is False
    assert arguments["learning_rate"] == pytest.approx(1e-4)
    assert arguments["per_device_train_batch_size"] * arguments["gradient_accumulation_steps"] == 24
    assert job.hyperparameters.to_dict() == values
    assert job.method.supervised.hyperparameters.to_dict() == values
    assert (job.seed, job.validation_file) == (7, training_file)


def test_the_seed_zero_is_a_seed(client: openai.OpenAI, training_file: str) -> None:
    assert client.fine_tuning.jobs.create(model="tiny", training_file=training_file, seed=0).seed == 0


def test_few_examples_are_a_warning_among_the_jobs_events(client: openai.OpenAI, training_file: str) -> None:
    rows = client.files.content(training_file).content.splitlines(keepends=True)
    few = client.files.create(file=("few.jsonl", b"".join(rows[:3])), purpose="fine-tune").id
    for file, told in ((few, ["the file has 3 rows; a model learns little from fewer than 10"]), (training_file, [])):
        job = client.fine_tuning.jobs.create(model="tiny", training_file=file)
        events = client.fine_tuning.jobs.list_events(job.id).data
        assert [event.message for event in events if event.level == "warn"] == told


def test_packing_and_warmup_are_as_opensloths_own_fields_say(
    client: openai.OpenAI, services: Services, training_file: str
) -> None:
    own = {"sequence_packing": True, "training_args": {"warmup_steps": 3}}
    job = client.fine_tuning.jobs.create(
        model="tiny",
        training_file=training_file,
        hyperparameters={"batch_size": 4},
        extra_body={"opensloth": own},
    )
    spec = services.jobs.get(job.id, ADMIN).spec
    assert spec["opensloth_config"]["sequence_packing"] is True
    assert spec["training_args"]["warmup_steps"] == 3


def test_auto_and_the_deprecated_hyperparameters_are_taken(client: openai.OpenAI, training_file: str) -> None:
    auto = {"n_epochs": "auto", "batch_size": "auto", "learning_rate_multiplier": "auto"}
    job = client.fine_tuning.jobs.create(model="tiny", training_file=training_file, hyperparameters=auto)
    assert job.hyperparameters.to_dict() == auto
    old = client.fine_tuning.jobs.create(model="tiny", training_file=training_file, hyperparameters={"n_epochs": 4})
    assert old.hyperparameters.n_epochs == 4


def test_dpo_and_reinforcement_are_the_methods_of_those_names(client: openai.OpenAI, services: Services) -> None:
    pair = {
        "input": {"messages": [{"role": "user", "content": "Hi"}]},
        "preferred_output": [{"role": "assistant", "content": "Hello"}],
        "non_preferred_output": [{"role": "assistant", "content": "What?"}],
    }
    pairs = (json.dumps(pair) + "\n").encode() * 10
    file = client.files.create(file=("pairs.jsonl", pairs), purpose="fine-tune").id
    values = {"beta": 0.2, "n_epochs": 1, "learning_rate_multiplier": 2.0}
    dpo = client.fine_tuning.jobs.create(
        model="tiny", training_file=file, method={"type": "dpo", "dpo": {"hyperparameters": values}}
    )
    spec = services.jobs.get(dpo.id, ADMIN).spec
    assert spec["opensloth_config"]["training_type"] == "dpo"
    assert spec["opensloth_config"]["dpo_args"]["beta"] == 0.2
    assert spec["training_args"]["learning_rate"] == pytest.approx(1e-5)
    assert dpo.method.dpo.hyperparameters.beta == 0.2

    item = {"messages": [{"role": "user", "content": "2 + 2?"}], "answer": "4"}
    items = (json.dumps(item) + "\n").encode() * 10
    file = client.files.create(file=("sums.jsonl", items), purpose="fine-tune").id
    grader = {
        "type": "string_check",
        "name": "right",
        "operation": "eq",
        "input": "{{sample.output_text}}",
        "reference": "{{item.answer}}",
    }
    values = {"batch_size": 2, "compute_multiplier": 0.5, "reasoning_effort": "default", "eval_interval": 5}
    reinforcement = {"grader": grader, "hyperparameters": values}
    job = client.fine_tuning.jobs.create(
        model="tiny",
        training_file=file,
        validation_file=file,
        method={"type": "reinforcement", "reinforcement": reinforcement},
    )
    spec = services.jobs.get(job.id, ADMIN).spec
    assert spec["opensloth_config"]["training_type"] == "grpo"
    assert spec["opensloth_config"]["grpo_args"]["num_generations"] == 4
    assert job.method.reinforcement.grader.to_dict() == grader
    assert job.method.reinforcement.hyperparameters.batch_size == 2


def test_opensloths_own_fields_come_in_and_go_out_under_its_name(
    client: openai.OpenAI, services: Services, training_file: str
) -> None:
    own = {"priority": "low", "resources": {"gpus": 1}, "lora_args": {"r": 4}, "time_limit": "2h", "name": "mine"}
    job = client.fine_tuning.jobs.create(model="tiny", training_file=training_file, extra_body={"opensloth": own})
    assert {name: job.opensloth[name] for name in own} == own
    ours = services.jobs.get(job.id, ADMIN)
    assert (ours.priority, ours.name) == ("low", "mine")
    assert ours.spec["opensloth_config"]["lora_args"] == {"r": 4}


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"opensloth": {"foo": 1}}, "opensloth.foo"),
    ({"opensloth": {"lora_args": {"rank": 1}}}, "opensloth.lora_args.rank"),
    ({"opensloth": {"lora": {"r": 1}}}, "opensloth.lora"),
    ({"opensloth": {"resources": {"gpu": 1}}}, "opensloth.resources.gpu"),
    ({"opensloth": {"dataset": "file-x"}}, "opensloth.dataset"),
    ({"opensloth": {"training_args": {"num_train_epochs": 2}}, "hyperparameters": {"n_epochs": 3}},
     "hyperparameters.n_epochs"),
    ({"opensloth": []}, "opensloth"),
    ({"suffix": "x" * 65}, "suffix"),
    ({"seed": -1}, "seed"),
    ({"seed": "seven"}, "seed"),
    ({"metadata": {"k": 1}}, "metadata.k"),
    ({"metadata": {"k": "v" * 513}}, "metadata.k"),
    ({"metadata": {str(n): "" for n in range(17)}}, "metadata"),
    ({"hyperparameters": {"n_epochs": 0}}, "hyperparameters.n_epochs"),
    ({"hyperparameters": {"batch_size": "big"}}, "hyperparameters.batch_size"),
    ({"hyperparameters": {"epochs": 1}}, "hyperparameters.epochs"),
    ({"method": {"type": "magic"}}, "method.type"),
    ({"method": {"type": "dpo", "supervised": {}}}, "method"),
    ({"method": {"type": "reinforcement"}}, "method"),
    ({"method": {"type": "reinforcement", "reinforcement": {
        "grader": {"type": "score_model", "name": "x", "input": [], "model": "gpt-4o"}}}},
     "method.reinforcement.grader.type"),
    ({"method": {"type": "reinforcement", "reinforcement": {"grader": {}, "response_format": {}}}},
     "method.reinforcement.response_format"),
    ({"training_file": "file-nothing"}, "training_file"),
    ({"validation_file": "file-nothing"}, "validation_file"),
    ({"modle": "tiny"}, "modle"),
    ({"integrations": [{"type": "wandb", "wandb": {"project": "p"}}]}, "integrations[0]"),
    ({"integrations": [{"type": "wandb", "wandb": {"project": "a/b"}}]}, "integrations[0].wandb.project"),
    ({"integrations": [{"type": "wandb", "wandb": {}}]}, "integrations[0].wandb.project"),
    ({"integrations": [{"type": "wandb", "wandb": {"project": "p"}}], "opensloth": {"secrets": {"wandb": "mine"}}},
     "opensloth.secrets.wandb"),
    ({"opensloth": {"secrets": {"wandb": "mine"}}}, "opensloth.secrets.wandb"),
    ({"opensloth": {"integrations": []}}, "opensloth.integrations"),
]  # fmt: skip


def test_what_is_wrong_is_a_bad_request_that_names_the_parameter(
    client: openai.OpenAI, services: Services, training_file: str
) -> None:
    for wrong, param in WRONG:
        with pytest.raises(openai.BadRequestError) as refused:
            client.fine_tuning.jobs.create(model="tiny", training_file=training_file, extra_body=wrong)
        assert refused.value.param == param, wrong
        assert param in refused.value.message
        assert refused.value.type == "invalid_request_error"
        assert refused.value.code
    assert services.jobs.list(ADMIN) == ([], False)


def test_a_file_for_something_else_than_training_is_refused_as_that(
    client: openai.OpenAI, services: Services, training_file: str
) -> None:
    with services.database.write() as session:
        session.execute(update(FileRow).values(purpose="fine-tune-results"))
    with pytest.raises(openai.BadRequestError, match="is `fine-tune-results`") as refused:
        client.fine_tuning.jobs.create(model="tiny", training_file=training_file)
    assert refused.value.param == "training_file"


def test_an_alias_is_a_name_for_a_model_that_an_admin_gave(
    client: openai.OpenAI, services: Services, training_file: str
) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        client.fine_tuning.jobs.create(model=NAMED, training_file=training_file)
    assert (unknown.value.code, unknown.value.param) == ("model_not_found", "model")
    assert f"opensloth models alias {NAMED}" in unknown.value.message
    services.models.alias(NAMED, "tiny", ADMIN)
    job = client.fine_tuning.jobs.create(model=NAMED, training_file=training_file)
    assert (job.model, job.opensloth["model_alias"]) == ("tiny", NAMED)
    assert client.models.retrieve(NAMED).base == "tiny"
    assert {model.id for model in client.models.list()} == {NAMED, "tiny"}


def test_a_model_that_is_not_there_yet_is_said_to_be_that_and_not_to_be_unknown(
    client: openai.OpenAI, services: Services, training_file: str
) -> None:
    with services.database.write() as session:
        session.execute(update(ModelRow).values(status="importing"))
    with pytest.raises(openai.BadRequestError, match="still being imported") as refused:
        client.fine_tuning.jobs.create(model="tiny", training_file=training_file)
    assert (refused.value.code, refused.value.param) == ("model_importing", "model")
    assert "alias" not in refused.value.message


def test_every_model_is_listed_as_the_package_asks_for_one_page_alone(
    client: openai.OpenAI, services: Services
) -> None:
    for number in range(25):
        services.models.alias(f"alias-{number}", "tiny", ADMIN)
    assert len(list(client.models.list())) == 26


def test_lists_page_by_themselves_and_filter_by_metadata(client: openai.OpenAI, training_file: str) -> None:
    create = client.fine_tuning.jobs.create
    made = [create(model="tiny", training_file=training_file, metadata={"n": str(n % 2)}).id for n in range(5)]
    assert [job.id for job in client.fine_tuning.jobs.list(limit=2)] == made[::-1]
    first = client.fine_tuning.jobs.list(limit=2)
    assert first.has_more
    second = first.get_next_page()
    assert [job.id for job in second.data] == made[2:0:-1]
    assert [job.id for job in client.fine_tuning.jobs.list(metadata={"n": "1"})] == [made[3], made[1]]
    bare = create(model="tiny", training_file=training_file).id
    assert [job.id for job in client.fine_tuning.jobs.list(extra_query={"metadata": "null"})] == [bare]
    with pytest.raises(openai.BadRequestError) as refused:
        client.fine_tuning.jobs.list(after="ftjob-nothing")
    assert refused.value.param == "after"
    with pytest.raises(openai.BadRequestError):
        client.fine_tuning.jobs.list(limit=0)


def test_an_id_that_is_unknown_another_teams_or_no_training_is_the_same_404(
    client: openai.OpenAI, base_url: str, services: Services, training_file: str, checker: Checker
) -> None:
    job = client.fine_tuning.jobs.create(model="tiny", training_file=training_file)
    services.teams.create("blue", ADMIN, {})
    services.users.create("eve", ADMIN, role="member", team="blue", account=None, limits={})
    stranger = client_for(base_url, services.keys.create("eve")[1], checker)
    jobs = stranger.fine_tuning.jobs
    calls = [jobs.retrieve, jobs.cancel, jobs.pause, jobs.resume, jobs.list_events, jobs.checkpoints.list]
    for call in calls:
        for job_id in (job.id, "ftjob-nothing"):
            with pytest.raises(openai.NotFoundError) as missing:
                call(job_id)
            error = missing.value
            assert (error.code, error.param) == ("fine_tune_not_found", "fine_tune_id")
            assert error.body["message"] == f"Could not find fine tune: {job_id}"
    assert list(jobs.list()) == []


def test_errors_are_of_the_packages_classes(
    client: openai.OpenAI, base_url: str, services: Services, training_file: str, checker: Checker
) -> None:
    job = client.fine_tuning.jobs.create(model="tiny", training_file=training_file)
    with pytest.raises(openai.AuthenticationError) as unknown:
        client_for(base_url, "sk-wrong", checker).fine_tuning.jobs.list()
    assert unknown.value.code == "invalid_api_key"
    viewer = client_for(base_url, services.keys.create("vera", "viewer")[1], checker)
    with pytest.raises(openai.PermissionDeniedError):
        viewer.fine_tuning.jobs.cancel(job.id)
    assert client.fine_tuning.jobs.cancel(job.id).status == "cancelled"
    with pytest.raises(openai.ConflictError) as over:
        client.fine_tuning.jobs.resume(job.id)
    assert "already" in over.value.message or "been cancelled" in over.value.message
    with pytest.raises(openai.NotFoundError) as refused:
        client.fine_tuning.checkpoints.permissions.retrieve("ft:tiny:default:x:1")
    assert refused.value.code == "not_supported"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nothing")
    with pytest.raises(openai.PermissionDeniedError):
        client.models.delete("tiny")


def test_the_same_idempotency_key_makes_one_job(client: openai.OpenAI, training_file: str) -> None:
    def create(suffix: str) -> str:
        headers = {"Idempotency-Key": "once"}
        jobs = client.fine_tuning.jobs
        return jobs.create(model="tiny", training_file=training_file, suffix=suffix, extra_headers=headers).id

    assert create("a") == create("a")
    with pytest.raises(openai.BadRequestError) as other:
        create("b")
    assert other.value.code == "idempotency_mismatch"
    assert len(list(client.fine_tuning.jobs.list())) == 1


def test_a_try_whose_answer_was_lost_makes_one_job_with_the_next(
    base_url: str, client: openai.OpenAI, training_file: str
) -> None:
    sent: list[str] = []

    def lose_the_first_answer(response: Any) -> None:
        sent.append(response.request.headers["x-stainless-retry-count"])
        if len(sent) == 1:
            response.read()
            transport = importlib.import_module(type(response).__module__.partition(".")[0])
            raise transport.ReadError("the answer is lost")

    http = openai.DefaultHttpxClient(event_hooks={"response": [lose_the_first_answer]})
    with openai.OpenAI(base_url=base_url, api_key=client.api_key, max_retries=1, http_client=http) as other:
        job = other.fine_tuning.jobs.create(model="tiny", training_file=training_file)
        assert sent == ["0", "1"]
        again = other.fine_tuning.jobs.create(model="tiny", training_file=training_file)
    assert [found.id for found in client.fine_tuning.jobs.list()] == [again.id, job.id]


def test_a_queued_job_is_paused_resumed_and_cancelled(client: openai.OpenAI, training_file: str) -> None:
    job = client.fine_tuning.jobs.create(model="tiny", training_file=training_file)
    assert client.fine_tuning.jobs.pause(job.id).status == "paused"
    assert client.fine_tuning.jobs.pause(job.id).status == "paused"
    assert client.fine_tuning.jobs.resume(job.id).status == "queued"
    cancelled = client.fine_tuning.jobs.cancel(job.id)
    assert cancelled.status == "cancelled"
    assert cancelled.finished_at is not None
    events = list(client.fine_tuning.jobs.list_events(job.id, limit=1))
    assert [event.created_at for event in events] == sorted((event.created_at for event in events), reverse=True)
    assert len(events) == len({event.id for event in events}) >= 4
    with pytest.raises(openai.BadRequestError) as refused:
        client.fine_tuning.jobs.list_events(job.id, after="ftevent-0-1")
    assert refused.value.param == "after"


def test_an_integration_reports_with_the_secret_called_wandb_or_the_one_that_is_named(
    client: openai.OpenAI, services: Services, training_file: str
) -> None:
    wandb: Any = {"project": "tone", "name": "third", "entity": "team", "tags": ["a"]}
    asked: Any = {"model": "tiny", "training_file": training_file, "integrations": [{"type": "wandb", "wandb": wandb}]}
    with pytest.raises(openai.BadRequestError, match="opensloth secrets set wandb") as refused:
        client.fine_tuning.jobs.create(**asked)
    assert (refused.value.param, refused.value.code) == ("integrations[0]", "secret_not_found")
    bob = Caller("bob", "member")
    services.secrets.put("wandb", "key", bob, bob.team)
    services.secrets.put("other", "another key", bob)
    first = client.fine_tuning.jobs.create(**asked)
    second = client.fine_tuning.jobs.create(**asked, extra_body={"opensloth": {"secrets": {"wandb": "other"}}})
    for job in (first, second):
        assert job.integrations is not None
        assert [each.to_dict() for each in job.integrations] == [{"type": "wandb", "wandb": wandb}]
    keys = []
    with services.database.read() as session:
        for row in (session.get_one(JobRow, first.id), session.get_one(JobRow, second.id)):
            keys.append(secrets_of(services, row, "/a/model"))
    assert keys == [{"wandb": "key"}, {"wandb": "another key"}]
    services.secrets.delete("other", bob)
    with services.database.read() as session:
        assert secrets_of(services, session.get_one(JobRow, second.id), "/a/model") == {}


CALL = {"id": "c1", "type": "function", "function": {"name": "find", "arguments": "{}"}}
TOOL = {"type": "function", "function": {"name": "find", "parameters": {"type": "object", "properties": {}}}}


@pytest.mark.parametrize(
    ("template", "refused"),
    [
        ("{% for message in messages %}{{ message.content }}{% endfor %}", True),
        ("{% for message in messages %}{{ message.content }}{{ message.tool_calls }}{% endfor %}", False),
        (None, False),
    ],
)
def test_tool_calls_are_refused_for_a_model_whose_template_leaves_them_out(
    client: openai.OpenAI, services: Services, template: str | None, refused: bool
) -> None:
    add_host(services, 1)
    folder = services.settings.home / "with-template"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    if template is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    services.storage.put_tree(folder, "models/tiny", move=True)
    asked = {"role": "user", "content": "Find it"}
    plain = {"messages": [asked, {"role": "assistant", "content": "Here"}]}
    calls = {"messages": [asked, {"role": "assistant", "tool_calls": [CALL]}], "tools": [TOOL]}
    content = "".join(json.dumps(row) + "\n" for row in (*[plain] * 9, calls, calls)).encode()
    file = client.files.create(file=("calls.jsonl", content), purpose="fine-tune").id
    if not refused:
        assert client.fine_tuning.jobs.create(model="tiny", training_file=file).status == "queued"
        return
    with pytest.raises(openai.BadRequestError, match="row 10 calls a tool, and the chat template of tiny") as wrong:
        client.fine_tuning.jobs.create(model="tiny", training_file=file)
    assert (wrong.value.param, wrong.value.code) == ("training_file.rows[10]", "tool_calls_not_supported")
