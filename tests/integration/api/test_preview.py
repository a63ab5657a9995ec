"""`GET /v1/files/{id}/preview`: rows as the model will see them, as the trainer would encode them, and statistics."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from opensloth.datasets.encode import encode_sft
from opensloth.datasets.light_tokenizer import LightTokenizer
from opensloth.models.rows import ModelRow
from opensloth.services import Services
from tests.support.tiny_model import CHAT_TEMPLATE, make_tokenizer

ROWS = [
    {"instruction": "Say hi", "input": "", "output": "Hi, möwe!"},
    {"instruction": "Count", "input": "to 3", "output": "1 2 3"},
    {"instruction": "Say hi", "input": "", "output": "Hi, möwe!"},
]
PAIR = {"prompt": "a", "chosen": "bb", "rejected": "ccc"}


def upload(client, *rows: object) -> str:
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    answer = client.post("/v1/files", data={"purpose": "fine-tune"}, files={"file": ("rows.jsonl", content)})
    return answer.raise_for_status().json()["id"]


def register(services: Services, folder: Path, template: str = CHAT_TEMPLATE) -> str:
    make_tokenizer(template).save_pretrained(folder / "tiny")
    services.storage.put_tree(folder / "tiny", "models/tiny")
    row = ModelRow(id="tiny", kind="base", status="ready", owner="a", source="/x", created_at=1.0)
    row.storage_key = "models/tiny"
    with services.database.write() as session:
        session.add(row)
    return "tiny"


def test_a_row_is_shown_as_it_is_trained_on(member, services, tmp_path):
    model = register(services, tmp_path)
    found = member.get(f"/v1/files/{upload(member, *ROWS)}/preview", params={"model": model, "rows": 2}).json()
    assert (found["training_type"], found["form"], found["total_rows"]) == ("sft", "alpaca", 3)
    tokenizer = make_tokenizer()
    turns = [{"role": "user", "content": "Say hi"}, {"role": "assistant", "content": "Hi, möwe!"}]
    (meant,) = encode_sft([{"messages": turns}], tokenizer, None)
    (part,) = found["rows"][0]["parts"]
    assert found["rows"][0]["content"] == {"messages": turns}
    assert part["token_ids"] == meant.input_ids
    assert part["trained"] == [label >= 0 for label in meant.labels]
    trained = [text for text, on in zip(part["token_strings"], part["trained"], strict=True) if on]
    assert (trained[0], trained[-1]) == ("H", "<|im_end|>")


def test_the_statistics_are_of_the_whole_file(member, services, tmp_path):
    model = register(services, tmp_path)
    rows, evaluation = upload(member, *ROWS), upload(member, ROWS[1], {**ROWS[1], "output": "other"})
    parameters = {"model": model, "rows": 0, "max_length": 60, "eval_file": evaluation}
    found = member.get(f"/v1/files/{rows}/preview", params=parameters).json()["statistics"]
    assert (found["rows"], found["complete"]) == (3, True)
    assert found["duplicates"] == {"rows": 1, "exact": True, "examples": [{"row": 3, "same_as": 1}]}
    assert found["eval_overlap"] == {"rows": 1, "exact": True, "examples": [{"row": 2, "eval_row": 1}]}
    lengths = [len(done.input_ids) for done in encode_sft(_messages(), make_tokenizer(), None)]
    assert found["tokens"]["max"] == max(lengths)
    assert found["tokens"]["total"] == sum(lengths)
    assert found["over_length"]["rows"] == sum(length > 60 for length in lengths)


def _messages():
    from opensloth.datasets.canonical import CanonicalRows

    return list(CanonicalRows(ROWS, "sft"))


def test_pairs_and_labels_are_shown_by_answer(member, services, tmp_path):
    model = register(services, tmp_path)
    found = member.get(f"/v1/files/{upload(member, PAIR)}/preview", params={"model": model}).json()
    assert found["training_type"] == "dpo"
    assert [(part["name"], part["tokens"], part["trained_tokens"]) for part in found["rows"][0]["parts"]] == [
        ("prompt", 1, 0),
        ("chosen", 3, 3),
        ("rejected", 4, 4),
    ]
    parameters = {"model": model, "training_type": "orpo"}
    found = member.get(f"/v1/files/{upload(member, PAIR | {'prompt': 'abc'})}/preview", params=parameters).json()
    parts = {part["name"]: part["trained"] for part in found["rows"][0]["parts"]}
    assert parts["prompt"] == [False, True, True]  # ORPO learns the whole chosen text
    labelled = [{"prompt": "a", "completion": "b", "label": wanted} for wanted in (True, False, True)]
    found = member.get(f"/v1/files/{upload(member, *labelled)}/preview", params={"training_type": "kto"}).json()
    assert found["statistics"]["labels"] == {"true": 2, "false": 1}
    assert found["rows"][0]["parts"] == []


@pytest.mark.parametrize(
    ("parameters", "code", "words"),
    [
        ({"training_type": "dpo"}, 400, "cannot be used for dpo"),
        ({"training_type": "nonsense"}, 400, "there are sft"),
        ({"form": "alpacca"}, 400, "no form 'alpacca'"),
        ({"model": "none"}, 400, "there is no model"),
        ({"rows": 99}, 400, "20"),
    ],
)
def test_what_cannot_be_shown_is_refused_with_the_reason(member, parameters, code, words):
    answer = member.get(f"/v1/files/{upload(member, ROWS[0])}/preview", params=parameters)
    assert answer.status_code == code
    assert words in answer.text


@pytest.mark.parametrize(
    ("template", "code"),
    [
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "preview_timeout"),
        ("{{ messages.__class__.__mro__ }}", "invalid_dataset"),
        ("{{ raise_exception('no system') }}", "invalid_dataset"),
    ],
)
def test_a_hostile_template_is_stopped_and_the_api_lives(services, tmp_path, template, code):
    from opensloth.datasets.previews import PreviewService
    from opensloth.errors import InvalidInput

    model = register(services, tmp_path, template)
    caller = services.keys.authenticate(services.keys.create("bob")[1])
    file = services.files.create("rows.jsonl", [json.dumps(ROWS[0]).encode()], caller)
    previews = PreviewService(services.database, services.storage, services.files, services.models, 8)
    with pytest.raises(InvalidInput) as caught:
        previews.preview(file.id, caller, model=model)
    assert caught.value.error_code == code


@pytest.mark.parametrize("template", [CHAT_TEMPLATE, "{% generation %}{{ messages | tojson }}{% endgeneration %}"])
def test_the_light_tokenizer_encodes_as_transformers_does(tmp_path, template):
    theirs = make_tokenizer(template)
    theirs.save_pretrained(tmp_path)
    ours = LightTokenizer(tmp_path)
    messages = [{"role": "user", "content": "<b> ä 你"}, {"role": "assistant", "content": "ok\n"}]
    for generation_prompt in (False, True):
        options = {"tokenize": False, "add_generation_prompt": generation_prompt}
        assert ours.apply_chat_template(messages, **options) == theirs.apply_chat_template(messages, **options)
    texts = ["<|im_start|>a ü\n", "", "你好<|im_end|>"]
    found = ours.backend_tokenizer.encode_batch(texts)
    assert [encoding.ids for encoding in found] == theirs(texts)["input_ids"]
    assert (ours.eos_token, ours.eos_token_id) == (theirs.eos_token, theirs.eos_token_id)
    assert set(ours.all_special_tokens) == set(theirs.all_special_tokens)
