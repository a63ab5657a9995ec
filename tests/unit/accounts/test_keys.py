"""Keys are shown once, kept as hashes, and end when they are revoked or expire."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from sqlalchemy import select

from opensloth.accounts import bootstrap
from opensloth.accounts.rows import ApiKeyRow
from opensloth.errors import InvalidInput, NotAuthenticated, NotFound
from opensloth.services import Services
from opensloth.settings import Settings


def test_a_new_key_stands_for_its_owner(services: Services) -> None:
    row, key = services.keys.create("ada", "member")
    caller = services.keys.authenticate(key)
    assert (caller.owner, caller.role) == ("ada", "member")
    assert key.startswith(row.prefix)
    with services.database.read() as session:
        stored = session.scalars(select(ApiKeyRow)).one()
    assert key not in {stored.sha256, stored.prefix}


@pytest.mark.parametrize("key", [None, "", "sk-sloth-wrong", "x" * 10_000])
def test_anything_else_is_refused(services: Services, key: str | None) -> None:
    with pytest.raises(NotAuthenticated):
        services.keys.authenticate(key)


def test_a_revoked_or_expired_key_is_refused(services: Services) -> None:
    row, revoked = services.keys.create("ada")
    services.keys.revoke(row.id)
    assert services.keys.revoke(row.id).revoked_at is not None
    _, expired = services.keys.create("ada", expires_in_s=-1)
    for key in (revoked, expired):
        with pytest.raises(NotAuthenticated):
            services.keys.authenticate(key)
    with pytest.raises(NotFound):
        services.keys.revoke("key-unknown")


@pytest.mark.parametrize("owner", ["", "a b", "../x", "é", "x" * 65])
def test_an_owner_that_cannot_be_a_name_is_refused(services: Services, owner: str) -> None:
    with pytest.raises(InvalidInput):
        services.keys.create(owner)


def test_the_first_admin_key_is_made_once_even_by_two_at_once(services: Services) -> None:
    made: list[str | None] = []
    threads = [threading.Thread(target=lambda: made.append(services.keys.bootstrap())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([key for key in made if key]) == 1
    assert services.keys.bootstrap() is None


def test_without_tables_the_program_says_in_words_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    empty = Settings(database_url=f"sqlite:///{tmp_path}/empty.db")
    monkeypatch.setattr(bootstrap, "get_settings", lambda: empty)
    monkeypatch.setattr("sys.argv", ["bootstrap"])
    with pytest.raises(
        SystemExit, match=r"^bootstrap: the database is not of this version\n  run `python -m migrations"
    ):
        bootstrap.main()
