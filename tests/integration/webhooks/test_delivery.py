"""Deliveries out of the outbox: written with the job's state, sent by one, tried again, given up for a reason."""

from __future__ import annotations

import contextlib
import datetime
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy import select, update

from opensloth.accounts.callers import HOST, Caller
from opensloth.errors import Unavailable
from opensloth.jobs.states import State
from opensloth.jobs.transitions import transition
from opensloth.services import Services
from opensloth.settings import Settings
from opensloth.webhooks import delivery, sending
from opensloth.webhooks.addresses import AddressPolicy, Target
from opensloth.webhooks.events import EVENT_TYPES
from opensloth.webhooks.rows import WebhookDeliveryRow, WebhookRow
from tests.support.jobs import ADMIN, submit, wait_for
from tests.support.receivers import Receiver, receiving
from worker.webhooks import Webhooks

ON_SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
"""For what is about the sending, not the writing."""
CANCELLED = "fine_tuning.job.cancelled"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"webhook_allow": "127.0.0.0/8"})


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as made:
        yield made


def add_webhook(services: Services, url: str, *types: str, by: Caller = ADMIN) -> str:
    return services.webhooks.create(by, name="hook", url=url, event_types=types or [CANCELLED])[0].id


def cancel_one(services: Services) -> str:
    job_id = submit(services)
    services.control.cancel(job_id, ADMIN)
    return job_id


def all_deliveries(services: Services, webhook_id: str) -> list[WebhookDeliveryRow]:
    return [*services.webhooks.deliveries(webhook_id, ADMIN, limit=100, after=None, status=None)[0]]


def send_due(services: Services) -> int:
    sent = 0
    while (claimed := services.deliveries.claim()) is not None:
        services.deliveries.send(claimed)
        sent += 1
    return sent


def make_due(services: Services) -> None:
    """What waits for its next attempt has waited."""
    with services.database.write() as session:
        waiting = update(WebhookDeliveryRow).where(WebhookDeliveryRow.next_at.is_not(None))
        session.execute(waiting.values(next_at=0.0))


def test_an_event_is_written_with_the_state_or_not_at_all(services: Services, receiver: Receiver) -> None:
    webhook_id = add_webhook(services, receiver.url())
    job_id = submit(services)
    with contextlib.suppress(RuntimeError), services.database.write() as session:
        assert transition(session, services.events, job_id, State.CANCELLED)
        assert session.scalars(select(WebhookDeliveryRow.job_id)).all() == [job_id]
        raise RuntimeError("it ends before the commit")
    assert all_deliveries(services, webhook_id) == []
    services.control.cancel(job_id, ADMIN)
    (row,) = all_deliveries(services, webhook_id)
    assert (row.job_id, row.status, row.attempts) == (job_id, "pending", 0)


@ON_SQLITE
def test_a_delivery_arrives_once_with_the_event_that_it_is_for(services: Services, receiver: Receiver) -> None:
    webhook_id = add_webhook(services, receiver.url("hook?team=a%20b"), CANCELLED, "opensloth.job.ended")
    add_webhook(services, receiver.url("other"), "fine_tuning.job.succeeded")
    job_id = cancel_one(services)
    assert send_due(services) == 2
    assert send_due(services) == 0
    bodies = {event["type"]: event for event in (json.loads(request.body) for request in receiver.requests)}
    assert bodies[CANCELLED]["data"] == {"id": job_id}
    assert bodies["opensloth.job.ended"]["data"] == {"id": job_id, "state": "cancelled"}
    assert {request.path for request in receiver.requests} == {"/hook?team=a%20b"}
    assert {row.id for row in all_deliveries(services, webhook_id)} == {request.id for request in receiver.requests}
    assert {(row.status, row.last_status, row.attempts) for row in all_deliveries(services, webhook_id)} == {
        ("delivered", 200, 1)
    }


def test_many_senders_at_once_send_each_delivery_once(services: Services, receiver: Receiver) -> None:
    for number in range(3):
        add_webhook(services, receiver.url(str(200 + number)))
    for _ in range(4):
        cancel_one(services)
    with ThreadPoolExecutor(6) as pool:
        sent = sum(pool.map(lambda _: send_due(services), range(6)))
    assert sent == 12
    assert len({request.id for request in receiver.requests}) == len(receiver.requests) == 12


def test_a_sender_that_died_is_followed_by_one_that_sends_the_same(services: Services, receiver: Receiver) -> None:
    webhook_id = add_webhook(services, receiver.url())
    cancel_one(services)
    dead = services.deliveries.claim()
    assert dead is not None
    assert services.deliveries.claim() is None, "it is under way"
    make_due(services)
    assert send_due(services) == 1
    services.deliveries.send(dead)  # it was not dead but slow: what it finds out late changes nothing
    (row,) = all_deliveries(services, webhook_id)
    assert [(request.id, request.body) for request in receiver.requests] == [(row.id, row.body)] * 2
    assert (row.status, row.attempts) == ("delivered", 2)


@ON_SQLITE
def test_a_failed_delivery_waits_longer_each_time_for_three_days_and_then_fails(
    services: Services, receiver: Receiver
) -> None:
    receiver.status = 500
    webhook_id = add_webhook(services, receiver.url())
    cancel_one(services)
    waits = []
    for attempt in range(1, 11):
        before = time.time()
        assert send_due(services) == 1
        (row,) = all_deliveries(services, webhook_id)
        assert (row.attempts, row.last_status) == (attempt, 500)
        if row.next_at is not None:
            waits.append(row.next_at - before)
            make_due(services)
    said = [5 * factor for factor in delivery.WAITS]
    assert waits == [pytest.approx(wait, rel=delivery.JITTER, abs=1) for wait in said]
    assert said == sorted(said)
    assert sum(said) == pytest.approx(75.6 * 3600, rel=0.01)
    assert (row.status, row.next_at) == ("failed", None)
    assert row.last_error == "the receiver answered with status 500"
    assert send_due(services) == 0


@ON_SQLITE
@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("elsewhere", "status 307; redirects are not followed"),
        ("404", "status 404"),
        ("drip", "no answer within 0.3 s"),
        ("slow", "no answer within 0.3 s"),
    ],
)
def test_what_is_no_success_is_told_in_words(
    services: Services, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, path: str, said: str
) -> None:
    monkeypatch.setattr(delivery, "post", lambda *about: sending.post(*about, timeout_s=0.3))
    webhook_id = add_webhook(services, receiver.url(path))
    cancel_one(services)
    claimed = services.deliveries.claim()
    assert claimed is not None
    assert not services.deliveries.send(claimed).arrived
    (row,) = all_deliveries(services, webhook_id)
    assert said in (row.last_error or "")
    assert [request.path for request in receiver.requests] == [f"/{path}"]


@ON_SQLITE
def test_an_endless_answer_is_a_delivery_and_not_read(services: Services, receiver: Receiver) -> None:
    add_webhook(services, receiver.url("large"))
    cancel_one(services)
    claimed = services.deliveries.claim()
    assert claimed is not None
    assert services.deliveries.send(claimed).status == 200


@ON_SQLITE
def test_nobody_at_the_address_is_tried_again(services: Services) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    webhook_id = add_webhook(services, f"http://127.0.0.1:{port}/")
    cancel_one(services)
    claimed = services.deliveries.claim()
    assert claimed is not None
    services.deliveries.send(claimed)
    (row,) = all_deliveries(services, webhook_id)
    assert (row.status, row.last_status) == ("pending", None)
    assert "no connection" in (row.last_error or "")


@ON_SQLITE
def test_a_receiver_may_ask_for_more_time(services: Services, receiver: Receiver) -> None:
    receiver.more_headers = {"ReTry-aFter": "3600"}
    receiver.status = 429
    webhook_id = add_webhook(services, receiver.url())
    cancel_one(services)
    before = time.time()
    send_due(services)
    (row,) = all_deliveries(services, webhook_id)
    assert row.next_at is not None
    assert row.next_at - before > 3500


@ON_SQLITE
def test_a_mistake_of_our_own_is_a_failed_attempt(
    services: Services, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "post", lambda *about: 1 / 0)
    webhook_id = add_webhook(services, receiver.url())
    cancel_one(services)
    assert send_due(services) == 1
    (row,) = all_deliveries(services, webhook_id)
    assert (row.status, row.attempts) == ("pending", 1)
    assert "in a way of its own" in (row.last_error or "")


@ON_SQLITE
def test_410_disables_the_webhook_and_says_so(services: Services, receiver: Receiver) -> None:
    webhook_id = add_webhook(services, receiver.url("410"))
    cancel_one(services)
    assert send_due(services) == 1
    webhook = services.webhooks.get(webhook_id, ADMIN)
    assert webhook.disabled_at is not None
    assert "410" in (webhook.disabled_reason or "")
    assert [row.status for row in all_deliveries(services, webhook_id)] == ["failed"]
    cancel_one(services)
    assert len(all_deliveries(services, webhook_id)) == 1, "nothing is written for one that is disabled"


@ON_SQLITE
def test_days_of_failures_disable_the_webhook_and_one_success_forgets_them(
    services: Services, receiver: Receiver
) -> None:
    webhook_id = add_webhook(services, receiver.url())
    receiver.status = 503
    cancel_one(services)
    claimed = services.deliveries.claim()
    assert claimed is not None
    services.deliveries.send(claimed)
    assert services.webhooks.get(webhook_id, ADMIN).failing_since is not None
    receiver.status = 204
    make_due(services)
    send_due(services)
    assert services.webhooks.get(webhook_id, ADMIN).failing_since is None
    receiver.status = 503
    with services.database.write() as session:
        session.execute(update(WebhookRow).values(failing_since=time.time() - 6 * 86_400))
    cancel_one(services)
    send_due(services)
    webhook = services.webhooks.get(webhook_id, ADMIN)
    assert webhook.disabled_reason is not None
    assert "for 5 days" in webhook.disabled_reason
    assert "status 503" in webhook.disabled_reason


@ON_SQLITE
def test_what_waits_while_a_webhook_is_disabled_goes_out_once_it_is_enabled(
    services: Services, receiver: Receiver
) -> None:
    webhook_id = add_webhook(services, receiver.url())
    old, new = cancel_one(services), cancel_one(services)
    services.webhooks.update(webhook_id, ADMIN, {"enabled": False})
    assert send_due(services) == 0
    with services.database.write() as session:
        is_old = update(WebhookDeliveryRow).where(WebhookDeliveryRow.job_id == old)
        session.execute(is_old.values(created_at=time.time() - 4 * 86_400))
    services.webhooks.update(webhook_id, ADMIN, {"enabled": True})
    assert send_due(services) == 1
    assert [json.loads(request.body)["data"]["id"] for request in receiver.requests] == [new]
    assert {row.job_id: row.status for row in all_deliveries(services, webhook_id)} == {old: "failed", new: "delivered"}


@ON_SQLITE
def test_who_is_locked_out_or_left_the_team_is_told_nothing_more(services: Services, receiver: Receiver) -> None:
    for team in ("red", "blue"):
        services.teams.create(team, HOST, {})
    services.users.create("mara", HOST, role="member", team="red", account=None, limits={})
    mara = Caller("mara", "member", "red")
    webhook_id = add_webhook(services, receiver.url(), by=mara)
    with services.database.write() as session:
        session.execute(update(WebhookRow).values(team="default"))  # as if she had been in the jobs' team
    cancel_one(services)
    assert all_deliveries(services, webhook_id) == []
    services.users.update("mara", HOST, {"team": "default"})
    cancel_one(services)
    assert len(all_deliveries(services, webhook_id)) == 1
    services.users.update("mara", HOST, {"disabled": True})
    assert send_due(services) == 0
    services.users.update("mara", HOST, {"disabled": False})
    assert send_due(services) == 1


@ON_SQLITE
def test_a_name_that_moves_to_a_private_address_is_not_followed(
    services: Services, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name is looked up anew for each delivery, and then nobody asks again."""
    answers = iter(["9.9.9.9", "169.254.169.254"])
    real = socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *a, **k: real(next(answers) if host == "hooks.test" else host, *a, **k)
    )
    webhook_id = add_webhook(services, "https://hooks.test/")
    cancel_one(services)
    claimed = services.deliveries.claim()
    assert claimed is not None
    services.deliveries.send(claimed)
    (row,) = all_deliveries(services, webhook_id)
    assert "hooks.test is not a public address" in (row.last_error or "")
    assert next(answers, None) is None


def test_the_connection_goes_to_the_address_that_was_checked(receiver: Receiver) -> None:
    """Though the name means nothing, and a proxy is named in the environment."""
    target = Target("http", "nobody.invalid", receiver.server_port, "/hook", ("127.0.0.1",))
    assert sending.post(target, "{}", {}).status == 200
    assert receiver.requests[0].headers["host"] == f"nobody.invalid:{receiver.server_port}"


def test_no_proxy_of_the_environment_is_asked(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert sending.post(AddressPolicy("127.0.0.1").look_up(receiver.url()), "{}", {}).status == 200


def test_tls_is_checked_against_the_name_in_the_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate, key = make_certificate(tmp_path, "hooks.test")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate, key)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    sending._certificates.cache_clear()
    try:
        with receiving(server) as receiver:
            good = Target("https", "hooks.test", receiver.server_port, "/", ("127.0.0.1",))
            assert sending.post(good, "{}", {}).status == 200
            other = Target("https", "other.test", receiver.server_port, "/", ("127.0.0.1",))
            answer = sending.post(other, "{}", {})
            assert answer.status is None
            assert "certificate" in (answer.error or "")
            assert len(receiver.requests) == 1
    finally:
        sending._certificates.cache_clear()


@ON_SQLITE
def test_a_receiver_that_hangs_keeps_no_other_waiting(
    services: Services, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More deliveries to the one that hangs than there are senders, and they come first."""
    monkeypatch.setattr(delivery, "post", lambda *about: sending.post(*about, timeout_s=600))  # it hangs throughout
    hangs = add_webhook(services, receiver.url("slow"))
    for _ in range(6):
        cancel_one(services)
    works = add_webhook(services, receiver.url())
    cancel_one(services)
    stop = threading.Event()
    sender = Webhooks(services, stop)
    sender.start()
    try:
        wait_for(lambda: [row.status for row in all_deliveries(services, works)] == ["delivered"])
        wait_for(lambda: "/slow" in [request.path for request in receiver.requests])
        assert [request.path for request in receiver.requests].count("/slow") == 1
    finally:
        stop.set()
        receiver.released.set()
        sender.join(20)
    assert {row.status for row in all_deliveries(services, hangs)} <= {"pending", "delivered"}


@ON_SQLITE
def test_receivers_that_hang_do_not_take_all_the_threads_of_the_api(services: Services, receiver: Receiver) -> None:
    webhook_id = add_webhook(services, receiver.url("slow"))
    tests = [threading.Thread(target=services.webhooks.test, args=(webhook_id, ADMIN, CANCELLED)) for _ in range(4)]
    for test in tests:
        test.start()
    wait_for(lambda: len(receiver.requests) == 4)
    with pytest.raises(Unavailable):
        services.webhooks.test(webhook_id, ADMIN, CANCELLED)
    receiver.released.set()
    for test in tests:
        test.join(20)
    assert services.webhooks.test(webhook_id, ADMIN, CANCELLED).status == 200


@ON_SQLITE
def test_old_deliveries_and_those_of_no_webhook_are_forgotten(services: Services, receiver: Receiver) -> None:
    webhook_id = add_webhook(services, receiver.url())
    old, new = cancel_one(services), cancel_one(services)
    with services.database.write() as session:
        is_old = update(WebhookDeliveryRow).where(WebhookDeliveryRow.job_id == old)
        session.execute(is_old.values(created_at=time.time() - 31 * 86_400))
    assert services.deliveries.prune() == 1
    assert [row.job_id for row in all_deliveries(services, webhook_id)] == [new]
    with services.database.write() as session:
        session.delete(session.get_one(WebhookRow, webhook_id))
    assert services.deliveries.prune() == 1


@ON_SQLITE
def test_what_signs_stands_in_no_row_and_in_no_audit_entry(services: Services, receiver: Receiver) -> None:
    row, secret = services.webhooks.create(ADMIN, name="n", url=receiver.url("t0ken"), event_types=[*EVENT_TYPES])
    stored: list[Any] = [vars(row), [vars(entry) for entry in services.audit.list(ADMIN)[0]]]
    assert secret not in str(stored)
    assert secret.removeprefix("whsec_")[:16] not in str(stored)
    assert "t0ken" not in str(stored[1])


def make_certificate(folder: Path, name: str) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    paths = folder / "certificate.pem", folder / "key.pem"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    pkcs8 = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    paths[1].write_bytes(key.private_bytes(*pkcs8))
    return paths
