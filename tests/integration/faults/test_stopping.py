"""The API is told to stop while clients watch: their streams end, and they take them up again at the next one."""

from __future__ import annotations

from pathlib import Path

import pytest

from opensloth.services import Services
from opensloth.settings import Settings
from tests.support.faults import Watcher, api_process, saw_all
from tests.support.jobs import ADMIN, submit, wait_for


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_an_api_that_is_told_to_stop_ends_its_streams_and_goes(
    services: Services, settings: Settings, tmp_path: Path
) -> None:
    settings = settings.model_copy(update={"auth": "off"})
    job_id = submit(services)
    # It would wait a minute for streams that do not end; `api_process` gives it 30 s.
    with api_process(settings, tmp_path) as url:
        watchers = [Watcher(url, job_id) for _ in range(5)]
        wait_for(lambda: all(watcher.seqs for watcher in watchers), timeout=60)
    port = int(url.rpartition(":")[2])
    with api_process(settings, tmp_path, port):
        wait_for(lambda: all(watcher.streams > 1 for watcher in watchers), timeout=60)
        services.control.cancel(job_id, ADMIN)
        for watcher in watchers:
            saw_all(watcher, services, job_id)
    assert "Cancel 5 running task" not in (tmp_path / "api.log").read_text()
