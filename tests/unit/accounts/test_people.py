"""Users, teams, scopes and the audit log: who may do what, and that somebody always may."""

from __future__ import annotations

import threading

import pytest

from opensloth.accounts.callers import HOST, Caller
from opensloth.accounts.scopes import SCOPES, allows, within
from opensloth.errors import Conflict, InvalidInput, NotAllowed, NotAuthenticated, NotFound, OpenSlothError
from opensloth.services import Services
from tests.support.jobs import submit

ADMIN = Caller("root", "admin")


def user(services: Services, name: str, team: str = "default", role: str = "member", **limits: float) -> None:
    services.users.create(name, ADMIN, role=role, team=team, account=None, limits=limits)  # type: ignore[arg-type]


def test_a_key_for_somebody_unknown_makes_a_user_of_the_default_team(services: Services) -> None:
    services.keys.create("ada", "viewer")
    row = services.users.get("ada", ADMIN)
    assert (row.team, row.role) == ("default", "viewer")
    assert [entry.action for entry in services.audit.list(ADMIN)[0]] == ["key.create", "user.create"]


def test_a_key_is_never_more_than_its_user(services: Services) -> None:
    _, key = services.keys.create("ada", "admin")
    services.keys.create("root", "admin")
    services.users.update("ada", ADMIN, {"role": "member", "team": "default"})
    assert services.keys.authenticate(key).role == "member"
    with pytest.raises(Conflict, match="ada is a member"):
        services.keys.create("ada", "admin")
    _, less = services.keys.create("ada", "viewer")
    assert services.keys.authenticate(less).role == "viewer"


def test_a_caller_carries_team_and_scopes(services: Services) -> None:
    services.teams.create("red", ADMIN, {})
    user(services, "ada", "red")
    _, key = services.keys.create("ada", scopes=["jobs:write", "files:read", "files:read"])
    caller = services.keys.authenticate(key)
    assert (caller.team, caller.scopes) == ("red", {"jobs:write", "files:read"})
    with pytest.raises(InvalidInput, match="scopes"):
        services.keys.create("ada", scopes=["jobs:all"])
    with pytest.raises(InvalidInput, match="scopes"):
        services.keys.create("ada", scopes=[])


def test_writing_holds_reading_and_nothing_beside() -> None:
    assert allows({"jobs:write"}, "jobs", "read")
    assert not allows({"jobs:read"}, "jobs", "write")
    assert not allows({"jobs:write"}, "files", "read")
    assert all(within([scope], None) and within([scope], [scope]) for scope in SCOPES)
    assert within(["jobs:read"], ["jobs:write"])
    assert not within(None, ["jobs:write"])
    assert not within(["keys:write"], ["keys:read"])


def test_nobody_gets_more_from_a_key_than_it_has(services: Services) -> None:
    user(services, "ada")
    row, key = services.keys.create("ada", scopes=["keys:write"], expires_in_s=600)
    wide = services.keys.create("ada")[0]
    me = services.keys.authenticate(key)
    keys = services.keys
    for refused in (
        lambda: keys.create("ada", scopes=["jobs:write"], expires_in_s=60, by=me),
        lambda: keys.create("ada", expires_in_s=60, by=me),
        lambda: keys.create("ada", scopes=["keys:write"], by=me),
        lambda: keys.create("ada", scopes=["keys:write"], expires_in_s=1200, by=me),
        lambda: keys.create("bob", scopes=["keys:write"], expires_in_s=60, by=me),
        lambda: keys.create("ada", "admin", scopes=["keys:write"], expires_in_s=60, by=me),
        lambda: keys.rotate(wide.id, me),
        lambda: keys.rotate(row.id, me, expires_in_s=6000),
    ):
        with pytest.raises(NotAllowed):
            refused()
    assert {one.id for one in keys.list()} == {row.id, wide.id}
    scoped_admin = Caller("root", "admin", scopes=frozenset({"keys:write"}))
    with pytest.raises(NotAllowed):
        keys.create("mallory", "admin", by=scoped_admin)
    assert keys.create("ada", scopes=["keys:read"], expires_in_s=60, by=me)[0].owner == "ada"


def test_a_rotated_key_is_the_same_for_the_same_and_ends_when_the_old_one_would_have(services: Services) -> None:
    old, key = services.keys.create("ada", scopes=["jobs:read"], expires_in_s=600)
    new, other = services.keys.rotate(old.id, services.keys.authenticate(key))
    assert (new.owner, new.role, new.scopes) == (old.owner, old.role, old.scopes)
    assert new.expires_at == pytest.approx(old.expires_at, abs=5)
    assert services.keys.authenticate(other).owner == "ada"
    with pytest.raises(NotAuthenticated):
        services.keys.authenticate(key)
    with pytest.raises(Conflict):
        services.keys.rotate(old.id)
    third, _ = services.keys.rotate(new.id, overlap_s=300)
    assert services.keys.authenticate(other).key_id == new.id
    assert third.expires_at == pytest.approx(new.expires_at, abs=5)
    with pytest.raises(NotFound):
        services.keys.rotate(third.id, Caller("bob", "member"))


def test_a_disabled_user_is_refused_and_comes_back_with_the_same_keys(services: Services) -> None:
    _, key = services.keys.create("ada")
    caller = services.keys.authenticate(key)
    services.users.update("ada", ADMIN, {"disabled": True})
    for refused in (lambda: services.keys.authenticate(key), lambda: services.keys.renewed(caller)):
        with pytest.raises(NotAuthenticated):
            refused()
    services.users.update("ada", ADMIN, {"disabled": False})
    assert services.keys.authenticate(key) == services.keys.renewed(caller) == caller


def test_the_last_use_of_a_key_is_noted_once_an_hour(services: Services) -> None:
    row, key = services.keys.create("ada")
    assert row.last_used_at is None
    services.keys.authenticate(key)
    first = services.keys.get(row.id)
    services.keys.authenticate(key)
    again = services.keys.get(row.id)
    assert first is not None
    assert again is not None
    assert first.last_used_at == again.last_used_at is not None


def test_the_last_admin_stays(services: Services) -> None:
    row, _ = services.keys.create("root", "admin")
    services.keys.create("ada")
    for refused in (
        lambda: services.users.update("root", ADMIN, {"role": "member"}),
        lambda: services.users.update("root", ADMIN, {"disabled": True}),
        lambda: services.users.delete("root", ADMIN),
        lambda: services.keys.revoke(row.id),
    ):
        with pytest.raises(Conflict, match="admin"):
            refused()
    # An admin who has no key, a scoped one or an ended one cannot help.
    user(services, "keyless", role="admin")
    services.keys.create("scoped", "admin", scopes=["jobs:write"])
    services.keys.create("ended", "admin", expires_in_s=-1)
    with pytest.raises(Conflict):
        services.users.update("root", ADMIN, {"role": "viewer"})
    services.keys.create("keyless", "admin")
    assert services.users.update("root", ADMIN, {"role": "viewer"}).role == "viewer"


def test_two_admins_who_shut_each_other_out_at_once_leave_one(services: Services) -> None:
    for name in ("ada", "bob"):
        services.keys.create(name, "admin")
    refused: list[OpenSlothError] = []

    def shut_out(name: str) -> None:
        try:
            services.users.update(name, ADMIN, {"disabled": True})
        except Conflict as error:
            refused.append(error)

    threads = [threading.Thread(target=shut_out, args=(name,)) for name in ("ada", "bob")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 1
    assert [row.name for row in services.users.list(ADMIN) if row.disabled_at is None] != []


def test_the_first_admin_comes_back_through_the_host_alone(services: Services) -> None:
    key = services.keys.bootstrap()
    assert key is not None
    services.keys.create("bob", "admin")
    services.users.update("admin", ADMIN, {"disabled": True})
    assert services.keys.bootstrap() is None
    renewed = services.keys.further_admin_key()
    assert services.keys.authenticate(renewed).is_admin


def test_members_see_their_team_and_change_nobody(services: Services) -> None:
    for team in ("red", "blue"):
        services.teams.create(team, ADMIN, {})
    user(services, "ada", "red")
    user(services, "bob", "blue")
    ada = Caller("ada", "member", "red")
    assert [row.name for row in services.users.list(ada)] == ["ada"]
    assert [row.name for row in services.teams.list(ada)] == ["red"]
    for hidden in (lambda: services.users.get("bob", ada), lambda: services.teams.get("blue", ada)):
        with pytest.raises(NotFound):
            hidden()
    with pytest.raises(NotAllowed):
        services.users.update("ada", ada, {"role": "admin"})
    with pytest.raises(InvalidInput, match="team"):
        services.users.update("ada", ADMIN, {"team": "green"})
    with pytest.raises(Conflict):
        user(services, "ada")


def test_what_is_in_use_is_not_deleted_and_a_name_that_comes_again_has_no_old_keys(services: Services) -> None:
    services.keys.create("root", "admin")
    services.teams.create("red", ADMIN, {})
    user(services, "ada", "red")
    _, key = services.keys.create("ada")
    submit(services)  # by the user `admin`, who is not known here
    services.keys.create("admin", "member")
    for refused in (
        lambda: services.teams.delete("red", ADMIN),
        lambda: services.teams.delete("default", ADMIN),
        lambda: services.users.delete("admin", ADMIN),
    ):
        with pytest.raises(Conflict):
            refused()
    services.users.delete("ada", ADMIN)
    services.teams.delete("red", ADMIN)
    services.keys.create("ada")
    with pytest.raises(NotAuthenticated):
        services.keys.authenticate(key)


def test_a_secret_of_the_team_serves_who_has_none_of_that_name(services: Services) -> None:
    services.teams.create("red", ADMIN, {})
    user(services, "ada", "red")
    user(services, "bob")
    ada, bob = Caller("ada", "member", "red"), Caller("bob", "member")
    services.secrets.put("hf", "of the team", ada, "red")
    assert services.secrets.value("ada", "hf") == "of the team"
    services.secrets.put("hf", "of ada", ada)
    assert services.secrets.value("ada", "hf") == "of ada"
    assert len(services.secrets.list(ada)) == 2
    assert services.secrets.list(bob) == []
    for team in ("red", "no-such-team"):
        with pytest.raises(NotAllowed):
            services.secrets.put("hf", "x", bob, team)
        with pytest.raises(NotAllowed):
            services.secrets.delete("hf", bob, team)
    with pytest.raises(NotFound):
        services.secrets.value("bob", "hf")
    with pytest.raises(InvalidInput):
        services.secrets.put("hf", "x", ADMIN, "no-such-team")
    with services.database.read() as session, pytest.raises(InvalidInput):
        services.secrets.require(session, "bob", "hf", "secret")
    services.secrets.delete("hf", ada)
    services.secrets.delete("hf", ada, "red")
    assert services.secrets.list(ada) == []


def test_the_audit_log_shows_others_only_to_admins_and_no_secret_to_anybody(services: Services) -> None:
    user(services, "ada")
    ada = Caller("ada", "member", key_id="key-1")
    services.secrets.put("hf", "hf_averysecrettoken", ada)
    (entry,), more = services.audit.list(ada)
    assert (entry.actor, entry.action, entry.object_id, entry.key_id, more) == (
        "ada",
        "secret.set",
        "hf",
        "key-1",
        False,
    )
    assert "token" not in str(entry.data)
    assert services.audit.list(ada, actor="root") == ([], False)
    everything, more = services.audit.list(ADMIN, limit=1)
    assert (len(everything), more) == (1, True)
    assert [row.action for row in services.audit.list(ADMIN, after=everything[0].id)[0]] == ["user.create"]
    assert [row.object_id for row in services.audit.list(ADMIN, action="user")[0]] == ["ada"]
    assert services.audit.list(ADMIN, action="use")[0] == []
    assert services.audit.list(HOST, object_id="hf")[0][0].id == entry.id
