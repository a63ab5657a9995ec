"""What is refused is refused by name, before anything is started."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from opensloth.devices.rows import DeviceRow, HostRow
from opensloth.services import Services
from opensloth.settings import Settings
from tests.integration.chat.conftest import HI
from tests.support.jobs import ADMIN


def test_a_wrong_parameter_is_named_in_openais_words(client: openai.OpenAI) -> None:
    tools: Any = [{"type": "function", "function": {"name": "f"}}]
    with pytest.raises(openai.BadRequestError, match="tools are not supported") as refused:
        client.chat.completions.create(model="tiny", messages=HI, tools=tools)
    assert (refused.value.param, refused.value.code) == ("tools", "unsupported_parameter")
    with pytest.raises(openai.BadRequestError) as text:
        client.completions.create(model="tiny", prompt="x", suffix="y")
    assert text.value.param == "suffix"


def test_an_unknown_model_is_not_found_after_all_that_changes_no_answer_was_taken(
    client: openai.OpenAI, services: Services
) -> None:
    for name in ("no-such", "ftjob-0123", "ft:tiny:default:x:y", "org/name", "ft:tiny:x:y:z:ckpt-step-3"):
        with pytest.raises(openai.NotFoundError) as missing:
            client.chat.completions.create(
                model=name,
                messages=[{"role": "developer", "content": [{"type": "text", "text": "x"}], "name": "ann"}],
                user="u",
                metadata={"a": "b"},
                store=True,
                service_tier="auto",
                tools=[],
                response_format={"type": "text"},
                modalities=["text"],
                extra_body={"top_k": 5},
            )
        assert (missing.value.param, missing.value.code) == ("model", "model_not_found")
    assert services.jobs.list(ADMIN)[0] == []


def test_a_model_that_no_device_can_hold_is_refused_with_the_numbers(client: openai.OpenAI, services: Services) -> None:
    import json

    config = {
        "model_type": "llama",
        "hidden_size": 16384,
        "num_hidden_layers": 126,
        "num_attention_heads": 128,
        "num_key_value_heads": 8,
        "intermediate_size": 53248,
        "vocab_size": 128256,
    }
    folder = services.settings.home / "huge"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    services.storage.put_tree(folder, "models/tiny", move=True)
    with services.database.write() as session:
        session.add(HostRow(id="h", seen_at=0.0, facts={}))
        session.flush()
        session.add(DeviceRow(id="gpu", host_id="h", kind="cuda", index=0, name="H100", memory_bytes=80 << 30))
    with pytest.raises(openai.BadRequestError, match=r"needs 7\d\d\.\d GiB .* can give 75\.2 GiB") as refused:
        client.chat.completions.create(model="tiny", messages=HI)
    assert (refused.value.param, refused.value.code) == ("model", "model_too_large")


def test_without_any_device_the_client_is_told_to_come_again(
    settings: Settings, services: Services, tmp_path: Any
) -> None:
    from tests.support.http_server import serve
    from tests.support.jobs import add_model

    add_model(services)
    key = services.keys.create("bob")[1]
    with (
        serve(settings.model_copy(update={"chat_wait_s": 0.3})) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as client,
        pytest.raises(openai.InternalServerError) as away,
    ):
        client.chat.completions.create(model="tiny", messages=HI)
    assert (away.value.status_code, away.value.code) == (503, "no_device")
    assert int(away.value.response.headers["retry-after"]) > 0
    # The SDK would wait as long again, twice.
    assert away.value.response.headers["x-should-retry"] == "false"
    assert "none is in service" in away.value.message
    assert services.jobs.list(ADMIN)[0] == []


def test_how_long_a_device_is_taken_is_not_guessed(settings: Settings, services: Services) -> None:
    from tests.support.boxes import add_host, add_job, plan_now
    from tests.support.http_server import serve
    from tests.support.jobs import add_model

    add_model(services)
    add_host(services, 1, kind="cpu")
    add_job(services, memory_bytes=None)
    plan_now(services)
    key = services.keys.create("bob")[1]
    with (
        serve(settings.model_copy(update={"chat_wait_s": 1.0})) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as client,
        pytest.raises(openai.InternalServerError, match="0 free; when one will be is not known") as away,
    ):
        client.chat.completions.create(model="tiny", messages=HI)
    assert away.value.code == "no_device"
    assert int(away.value.response.headers["retry-after"]) == 15
