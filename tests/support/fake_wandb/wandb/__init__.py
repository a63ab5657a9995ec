"""Stands for the package `wandb` on the path of a trainer: the same signatures, calls kept in the folder of a server.

The server is a folder: WANDB_BASE_URL is `file:///folder`. The project's name says what goes wrong: `unreachable`,
`refused`, `hangs` (while it begins), `breaks` (at the second step) or `stuck` (at its end).
"""

import json
import os
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any


class Error(Exception):
    pass


class CommError(Error):
    pass


class AuthenticationError(CommError):
    pass


errors = SimpleNamespace(Error=Error, CommError=CommError, AuthenticationError=AuthenticationError)


class Settings:
    def __init__(
        self,
        *,
        api_key: str,
        init_timeout: float,
        console: str,
        silent: bool,
        save_code: bool,
        disable_code: bool,
        disable_git: bool,
        x_disable_meta: bool,
        x_disable_stats: bool,
        x_disable_machine_info: bool,
        x_save_requirements: bool,
    ) -> None:
        self.api_key = api_key


class Run:
    def __init__(self, project: str) -> None:
        self._project = project
        self._logged = 0
        self.url = f"https://wandb.test/{project}"

    def define_metric(self, name: str, step_metric: str | None = None, step_sync: bool | None = None) -> None:
        _keep("define_metric", name=name, step_metric=step_metric)

    def log(self, data: dict[str, Any], step: int | None = None, commit: bool | None = None) -> None:
        self._logged += 1
        if self._project == "breaks" and self._logged > 1:
            raise Error("the service is gone")
        _keep("log", data=data)

    def mark_preempting(self) -> None:
        _keep("mark_preempting")

    def finish(self, exit_code: int | None = None) -> None:
        if self._project == "stuck":
            threading.Event().wait()
        _keep("finish", exit_code=exit_code)


def init(
    entity: str | None = None,
    project: str | None = None,
    dir: str | None = None,
    id: str | None = None,
    name: str | None = None,
    tags: list[str] | None = None,
    config: dict[str, Any] | None = None,
    allow_val_change: bool | None = None,
    resume: str | None = None,
    settings: Settings | None = None,
) -> Run:
    assert settings is not None
    assert project is not None
    assert "WANDB_API_KEY" not in os.environ
    assert "WANDB_DISABLED" not in os.environ
    asked = {"entity": entity, "project": project, "id": id, "name": name, "tags": tags, "resume": resume}
    _keep("init", **asked, config=config, key=settings.api_key, group=os.getpgrp(), pid=os.getpid())
    match project:
        case "unreachable":
            raise CommError(f"no answer for {settings.api_key}")
        case "refused":
            raise AuthenticationError("API key is not valid")
        case "hangs":
            threading.Event().wait()
    return Run(project)


def _keep(call: str, **values: Any) -> None:
    folder = Path(os.environ["WANDB_BASE_URL"].removeprefix("file://"))
    with (folder / "calls.jsonl").open("a") as file:
        file.write(json.dumps({"call": call, **values}) + "\n")
