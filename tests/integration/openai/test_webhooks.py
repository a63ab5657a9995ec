"""Webhooks by the openai package: kept with `client.webhooks`, received and unwrapped, over a worker that is killed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from openai.types.webhooks import (
    DeletedWebhookEndpoint,
    FineTuningJobCancelledWebhookEvent,
    FineTuningJobFailedWebhookEvent,
    FineTuningJobSucceededWebhookEvent,
    WebhookEndpoint,
    WebhookEndpointTestResult,
    WebhookEndpointWithSecret,
)
from openai.types.webhooks.webhook_endpoint_list import WebhookEndpointList
from openai.types.webhooks.webhook_event_type_list import WebhookEventTypeList
from pydantic import BaseModel
from sqlalchemy import update

from opensloth.services import Services
from opensloth.settings import Settings
from opensloth.webhooks.rows import WebhookDeliveryRow
from tests.support.jobs import ADMIN, submit, wait_for
from tests.support.receivers import Received, Receiver, receiving
from tests.support.workers import running_worker

ENDS = ["fine_tuning.job.succeeded", "fine_tuning.job.failed", "fine_tuning.job.cancelled"]


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"webhook_allow": "127.0.0.1", "webhook_first_wait_s": 0.05})


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as made:
        yield made


@pytest.fixture
def sdk(base_url: str, services: Services) -> Iterator[openai.OpenAI]:
    """An admin's client: the jobs of these tests are an admin's."""
    with openai.OpenAI(base_url=base_url, api_key=services.keys.create("admin", "admin")[1], max_retries=0) as made:
        yield made


def strictly(answer: BaseModel, kind: type[BaseModel]) -> None:
    """The answer is of the package's type with every field of the type it says."""
    kind.model_validate_json(answer.model_dump_json(by_alias=True), strict=True)


def unwrapped(sdk: openai.OpenAI, received: Received, secret: str) -> object:
    return sdk.webhooks.unwrap(received.body, received.headers, secret=secret)


def test_webhooks_are_kept_as_the_package_keeps_them(sdk: openai.OpenAI, receiver: Receiver) -> None:
    assert set(ENDS) <= set(sdk.webhooks.event_types.list().data)
    strictly(sdk.webhooks.event_types.list(), WebhookEventTypeList)
    made = sdk.webhooks.create(name="results", url=receiver.url(), event_types=ENDS)
    strictly(made, WebhookEndpointWithSecret)
    assert made.signing_secret.startswith("whsec_")
    assert made.signing_secret_hint is not None
    assert made.signing_secret.endswith(made.signing_secret_hint[-5:])
    others = [sdk.webhooks.create(name=str(n), url=receiver.url(), event_types=ENDS[:1]).id for n in range(3)]
    listed = list(sdk.webhooks.list(limit=2))
    assert [webhook.id for webhook in listed] == [*reversed(others), made.id], "newest first, over two pages"
    assert all(made.signing_secret not in webhook.model_dump_json() for webhook in listed)
    strictly(sdk.webhooks.retrieve(made.id), WebhookEndpoint)
    page = sdk.webhooks.with_raw_response.list(limit=2)
    WebhookEndpointList.model_validate_json(page.text, strict=True)
    changed = sdk.webhooks.update(made.id, name="ends", event_types=ENDS[:2])
    assert (changed.name, changed.event_types, changed.url) == ("ends", ENDS[:2], receiver.url())
    gone = sdk.webhooks.delete(made.id)
    strictly(gone, DeletedWebhookEndpoint)
    with pytest.raises(openai.NotFoundError):
        sdk.webhooks.retrieve(made.id)


def test_a_sample_is_sent_at_once_and_its_answer_told(sdk: openai.OpenAI, receiver: Receiver) -> None:
    made = sdk.webhooks.create(name="results", url=receiver.url(), event_types=ENDS)
    result = sdk.webhooks.test(made.id, event_type="fine_tuning.job.failed")
    strictly(result, WebhookEndpointTestResult)
    event = unwrapped(sdk, receiver.requests[0], made.signing_secret)
    assert isinstance(event, FineTuningJobFailedWebhookEvent)
    receiver.status = 500
    assert sdk.webhooks.test(made.id, event_type="fine_tuning.job.failed").status_code == 500
    receiver.server_close()
    receiver.shutdown()
    with pytest.raises(openai.BadRequestError) as refused:
        sdk.webhooks.test(made.id, event_type="fine_tuning.job.failed")
    assert (refused.value.code, refused.value.param) == ("webhook_unreachable", "url")


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"url": "http://169.254.169.254/latest/meta-data"}, "url"),
        ({"url": "https://10.0.0.1/"}, "url"),
        ({"event_types": ["response.completed"]}, "event_types[0]"),
        ({"event_types": []}, "event_types"),
        ({"name": ""}, "name"),
    ],
)
def test_what_cannot_be_told_is_refused_by_name(sdk: openai.OpenAI, wrong: dict[str, object], param: str) -> None:
    good = {"name": "n", "url": "https://9.9.9.9/", "event_types": ENDS}
    with pytest.raises(openai.BadRequestError) as refused:
        sdk.webhooks.create(**{**good, **wrong})
    assert refused.value.param == param


def test_a_teammate_sees_a_webhook_and_only_its_owner_changes_it(base_url: str, services: Services) -> None:
    ann, bob = (
        openai.OpenAI(base_url=base_url, api_key=services.keys.create(n)[1], max_retries=0) for n in ("ann", "bob")
    )
    made = ann.webhooks.create(name="n", url="https://9.9.9.9/", event_types=ENDS)
    assert bob.webhooks.retrieve(made.id).id == made.id
    with pytest.raises(openai.PermissionDeniedError):
        bob.webhooks.rotate_secret(made.id)


def test_each_end_of_a_job_arrives_signed_and_typed(
    sdk: openai.OpenAI, services: Services, settings: Settings, receiver: Receiver, tmp_path: Path
) -> None:
    made = sdk.webhooks.create(name="ends", url=receiver.url(), event_types=ENDS)
    good, bad, stopped = submit(services, "steps=2"), submit(services, "steps=9 nan@3"), submit(services)
    services.control.cancel(stopped, ADMIN)
    with running_worker(settings, tmp_path):
        wait_for(lambda: len(receiver.requests) == 3, timeout=120)
    events = [unwrapped(sdk, received, made.signing_secret) for received in receiver.requests]
    assert {(type(event), event.data.id) for event in events} == {  # type: ignore[attr-defined]
        (FineTuningJobSucceededWebhookEvent, good),
        (FineTuningJobFailedWebhookEvent, bad),
        (FineTuningJobCancelledWebhookEvent, stopped),
    }
    for event in events:
        strictly(event, type(event))  # type: ignore[arg-type]
    received = receiver.requests[0]
    for secret, body in ((f"whsec_{'A' * 43}=", received.body), (made.signing_secret, received.body + " ")):
        with pytest.raises(openai.InvalidWebhookSignatureError):
            sdk.webhooks.verify_signature(body, received.headers, secret=secret)


def test_both_secrets_sign_for_a_day_after_a_rotation_that_keeps_the_old_one(
    sdk: openai.OpenAI, services: Services, receiver: Receiver
) -> None:
    old = sdk.webhooks.create(name="n", url=receiver.url(), event_types=ENDS)
    new = sdk.webhooks.rotate_secret(old.id, keep_old_secret_active_for_24_hours=True)
    assert new.signing_secret != old.signing_secret
    cancel_and_send(services)
    for secret in (old.signing_secret, new.signing_secret):
        unwrapped(sdk, receiver.requests[0], secret)
    newest = sdk.webhooks.rotate_secret(old.id)
    cancel_and_send(services)
    unwrapped(sdk, receiver.requests[1], newest.signing_secret)
    for secret in (old.signing_secret, new.signing_secret):
        with pytest.raises(openai.InvalidWebhookSignatureError):
            unwrapped(sdk, receiver.requests[1], secret)


def cancel_and_send(services: Services) -> None:
    services.control.cancel(submit(services), ADMIN)
    claimed = services.deliveries.claim()
    assert claimed is not None
    assert services.deliveries.send(claimed).arrived


@pytest.mark.slow
def test_a_worker_killed_while_it_sends_is_followed_by_one_that_sends_the_same_id(
    sdk: openai.OpenAI, services: Services, settings: Settings, receiver: Receiver, tmp_path: Path
) -> None:
    made = sdk.webhooks.create(name="n", url=receiver.url("slow"), event_types=ENDS)
    services.control.cancel(submit(services), ADMIN)
    with running_worker(settings, tmp_path) as worker:
        wait_for(lambda: receiver.requests, timeout=120)
        worker.kill()
    receiver.released.set()
    with services.database.write() as session:
        session.execute(update(WebhookDeliveryRow).values(next_at=0.0))  # its hold on the delivery has run out
    with running_worker(settings, tmp_path):
        wait_for(lambda: len(receiver.requests) == 2, timeout=120)
        deliveries = f"/webhooks/{made.id}/deliveries"
        wait_for(lambda: sdk.get(deliveries, cast_to=object)["data"][0]["status"] == "delivered")  # type: ignore[index]
    first, second = receiver.requests
    assert (first.id, first.body) == (second.id, second.body)
    (delivery,) = sdk.get(deliveries, cast_to=object)["data"]  # type: ignore[index]
    assert (delivery["id"], delivery["attempts"], delivery["last_status_code"]) == (first.id, 2, 200)
    unwrapped(sdk, second, made.signing_secret)


def test_the_asynchronous_client_does_the_same(base_url: str, services: Services, receiver: Receiver) -> None:
    async def use() -> None:
        key = services.keys.create("admin", "admin")[1]
        async with openai.AsyncOpenAI(base_url=base_url, api_key=key, max_retries=0) as client:
            made = await client.webhooks.create(name="n", url=receiver.url(), event_types=ENDS)
            assert [webhook.id async for webhook in client.webhooks.list()] == [made.id]
            await client.webhooks.test(made.id, event_type="fine_tuning.job.succeeded")
            received = receiver.requests[0]
            event = client.webhooks.unwrap(received.body, received.headers, secret=made.signing_secret)
            assert event.type == json.loads(received.body)["type"] == "fine_tuning.job.succeeded"

    asyncio.run(use())
