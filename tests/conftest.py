"""Fixtures that every test may use."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from migrations.__main__ import upgrade
from opensloth.services import Services
from opensloth.settings import Settings
from tests.support import servers

# The quick tests try the same examples each time, so that a change fails by what it changes; `make test-all` looks for
# new ones, and what it finds becomes an `@example`.
hypothesis.settings.register_profile("same", derandomize=True)
hypothesis.settings.load_profile("same")


class _Loggers(dict[str, logging.Logger]):
    """All loggers; pytest goes through them before each phase of a test.

    Meanwhile a thread of an API under test may import a library, which adds loggers: "dictionary changed size".
    """

    def values(self) -> list[logging.Logger]:
        return list(super().values())


logging.root.manager.loggerDict = _Loggers(logging.root.manager.loggerDict)

_PROCESSES = {"worker", "faults", "chat", "openai", "webhooks"}
"""Folders of tests/integration whose tests start whole workers."""
_LONG = {"test_authorization.py"}
"""Files that take long, and whose subject is not the database."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave to `make test-all` the second database where whole workers run; what differs is tested below them.

    A slow test has a quarter of an hour, as it may run beside others on a busy machine.
    """
    for item in items:
        place = item.path.relative_to(item.config.rootpath).parts
        database = getattr(item, "callspec", None) and item.callspec.params.get("database_url")
        runs_workers = place[1] == "integration" and place[2] in _PROCESSES and item.path.name != "test_model.py"
        if (runs_workers or item.path.name in _LONG) and database == "postgresql":
            item.add_marker(pytest.mark.slow)
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(900))


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the developer's own home."""
    monkeypatch.setenv("OPENSLOTH_HOME", str(tmp_path / "home"))
    for name in ("OPENSLOTH_API_KEY", "OPENSLOTH_BASE_URL", "OPENSLOTH_DATABASE_URL", "OPENSLOTH_REDIS_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def valkey_url() -> Iterator[str]:
    """A real Valkey."""
    with servers.valkey() as url:
        yield url


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """A real PostgreSQL."""
    with servers.postgres() as url:
        yield url


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite database to copy."""
    path = tmp_path_factory.mktemp("migrated") / "opensloth.db"
    upgrade(f"sqlite:///{path}")
    return path


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A migrated database of each kind."""
    if request.param == "sqlite":
        path = tmp_path / "opensloth.db"
        shutil.copyfile(request.getfixturevalue("migrated_file"), path)
        yield f"sqlite:///{path}"
    else:
        with servers.fresh_postgres_database(request.getfixturevalue("postgres_server")) as url:
            yield url


@pytest.fixture
def settings(database_url: str, valkey_url: str, tmp_path: Path) -> Settings:
    """Settings with short leases over real servers."""
    return Settings(
        home=tmp_path / "home",
        database_url=database_url,
        redis_url=valkey_url,
        storage_url=str(tmp_path / "storage"),
        host_id="box",
        devices="cpu:2",
        lease_s=2.0,
        lease_renew_s=0.4,
        heartbeat_s=0.3,
        poll_s=0.3,
        host_timeout_s=3.0,
        stop_grace_s=5.0,
        retry_backoff_s=0.1,
        min_run_s=0.5,
        trainer_module="tests.support.fake_trainer",
    )


@pytest.fixture
def services(settings: Settings) -> Iterator[Services]:
    """The services over those settings."""
    made = Services.make(settings)
    yield made
    made.database.engine.dispose()
