"""Secrets are written once, encrypted at rest, and given to nobody but the process of a job."""

from __future__ import annotations

import base64
import os
import stat

import pytest
from sqlalchemy import select, update

from opensloth.accounts.keys import Caller
from opensloth.accounts.rows import SecretRow
from opensloth.accounts.secrets import SecretService, SecretUnreadable
from opensloth.errors import InvalidInput, NotFound
from opensloth.services import Services

ANN, BOB = Caller("ann", "member"), Caller("bob", "admin")
TOKEN = "hf_averysecrettoken"


def test_a_secret_is_encrypted_at_rest_with_a_key_for_its_owner_alone(services: Services) -> None:
    services.secrets.put("hf", TOKEN, ANN)
    with services.database.read() as session:
        sealed = session.scalars(select(SecretRow.sealed)).one()
    assert TOKEN not in sealed
    assert TOKEN.encode() not in base64.b64decode(sealed)
    assert stat.S_IMODE(services.settings.secret_key_file.stat().st_mode) == 0o600
    assert services.secrets.value("ann", "hf") == TOKEN


def test_everybody_has_names_of_their_own_and_an_admin_reads_no_others(services: Services) -> None:
    services.secrets.put("hf", TOKEN, ANN)
    services.secrets.put("hf", "bobs", BOB)
    assert [row.name for row in services.secrets.list(BOB)] == ["hf"]
    services.secrets.delete("hf", BOB)
    assert services.secrets.value("ann", "hf") == TOKEN
    with pytest.raises(NotFound):
        services.secrets.delete("hf", BOB)


def test_a_second_value_replaces_the_first(services: Services) -> None:
    assert services.secrets.put("hf", "old", ANN)[1]
    assert not services.secrets.put("hf", "new", ANN)[1]
    assert services.secrets.value("ann", "hf") == "new"


def test_a_row_that_was_moved_to_another_owner_cannot_be_read(services: Services) -> None:
    services.secrets.put("hf", TOKEN, ANN)
    with services.database.write() as session:
        session.execute(update(SecretRow).values(owner="bob"))
    with pytest.raises(SecretUnreadable):
        services.secrets.value("bob", "hf")


def test_another_key_reads_nothing_and_says_so(services: Services) -> None:
    services.secrets.put("hf", TOKEN, ANN)
    for key in (base64.urlsafe_b64encode(os.urandom(32)).decode(), "not a key"):
        other = SecretService(services.database, services.settings.model_copy(update={"secret_key": key}))
        with pytest.raises(SecretUnreadable, match="key"):
            other.value("ann", "hf")


@pytest.mark.parametrize(("name", "value"), [("", "x"), ("a/b", "x"), ("hf", " \n"), ("hf", "x" * 9000)])
def test_what_is_no_secret_is_refused_without_repeating_it(services: Services, name: str, value: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        services.secrets.put(name, value, ANN)
    assert value not in str([refused.value.message, refused.value.fields]) or value == "x"
