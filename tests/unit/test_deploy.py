"""Dockerfile and compose: well formed, with the commands that `opensloth up` runs, and locks that agree."""

from __future__ import annotations

import http.server
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from opensloth.cli import parts
from opensloth.settings import Settings

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES = COMPOSE["services"]
WORKERS = ["worker", "worker-cpu"]


def command_of(part: tuple[str, ...]) -> list[str]:
    """A command of `opensloth up` as an image runs it."""
    return ["python", *part[1:]]


def stage(name: str) -> str:
    """The lines of one target of the Dockerfile."""
    return re.split(r"^FROM ", DOCKERFILE.split(f" AS {name}\n", 1)[1], flags=re.M)[0]


def exec_form(text: str, instruction: str) -> list[str]:
    found = re.search(rf"^\s*{instruction} (\[.*\])$", text, re.M)
    assert found is not None
    return [str(word) for word in json.loads(found[1])]


def locked(name: str) -> dict[str, str]:
    """Version by package of a lock file; one that depends on the Python version stands there several times."""
    text = (ROOT / name).read_text(encoding="utf-8")
    return dict(re.findall(r"^([a-z0-9._-]+)==([^\s;]+)", text, re.M))


def test_hadolint_has_nothing_to_say():
    binary = shutil.which("hadolint", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert binary is not None, "hadolint comes with the dev packages: make install"
    done = subprocess.run([binary, "--no-color", "Dockerfile"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_compose_is_valid_by_its_schema():
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*command, "docker-compose.yml"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_compose_runs_the_commands_of_opensloth_up():
    assert SERVICES["migrate"]["command"] == command_of(parts.MIGRATE)
    assert SERVICES["api"]["command"] == [*command_of(parts.API), "--host", "0.0.0.0", "--port", "8400"]
    for name in WORKERS:
        assert SERVICES[name]["command"] == command_of(parts.WORKER)


def test_a_worker_may_make_the_namespaces_of_the_sandbox_and_has_no_other_privilege():
    from opensloth.rewards.sandbox import HINT

    (needed,) = re.findall(r"security_opt: \[(.*?)\]", HINT)
    for name in WORKERS:
        assert set(needed.split(", ")) | {"no-new-privileges:true"} == set(SERVICES[name]["security_opt"])
        assert SERVICES[name]["cap_drop"] == ["ALL"]
        assert "privileged" not in SERVICES[name]


def test_an_image_runs_without_compose_what_it_runs_with_it():
    assert exec_form(stage("api"), "CMD") != SERVICES["api"]["command"]  # its first CMD is the health check's
    assert json.loads(re.findall(r"^CMD (\[.*\])$", stage("api"), re.M)[0]) == SERVICES["api"]["command"]
    assert json.loads(re.findall(r"^CMD (\[.*\])$", stage("worker"), re.M)[0]) == SERVICES["worker"]["command"]


def test_the_first_key_is_made_by_the_command_of_opensloth_up():
    for page in ("README.md", "docs/deploy.md", "docker-compose.yml"):
        (command,) = re.findall(r"docker compose exec api (python [^\n]*?)(?:\s{2,}|\n)", (ROOT / page).read_text())
        assert shlex.split(command) == command_of(parts.BOOTSTRAP)


def test_redis_keeps_nothing_on_disk_as_the_embedded_one(tmp_path):
    wanted = parts.valkey_part(tmp_path, tmp_path / "valkey.sock").command
    given = SERVICES["redis"]["command"]
    for option in ("--save", "--appendonly"):
        assert given[given.index(option) + 1] == wanted[wanted.index(option) + 1]


def test_api_and_workers_share_database_redis_and_storage():
    shared = ("OPENSLOTH_DATABASE_URL", "OPENSLOTH_REDIS_URL", "OPENSLOTH_STORAGE_URL")
    for name in shared:
        assert len({SERVICES[service]["environment"][name] for service in ("api", *WORKERS)}) == 1
    mounts = {
        volume for service in ("api", *WORKERS) for volume in SERVICES[service]["volumes"] if "/storage" in volume
    }
    assert len(mounts) == 1
    assert SERVICES["migrate"]["environment"] == SERVICES["api"]["environment"]


def test_api_and_workers_wait_for_the_migrations():
    for name in ("api", *WORKERS):
        assert SERVICES[name]["depends_on"]["migrate"] == {"condition": "service_completed_successfully"}
    assert SERVICES["migrate"]["depends_on"]["postgres"] == {"condition": "service_healthy"}
    assert SERVICES["migrate"]["restart"] == "no"


@pytest.mark.parametrize("name", WORKERS)
def test_a_worker_has_time_for_checkpoints_and_a_host_name_that_stays(name):
    worker = SERVICES[name]
    minutes = int(worker["stop_grace_period"].removesuffix("m"))
    assert minutes * 60 > 2 * Settings.model_fields["stop_grace_s"].default
    assert worker["init"] is True
    assert worker["shm_size"] == "8gb"
    assert "OPENSLOTH_HOST_ID" in worker["environment"]


def test_only_the_gpu_worker_reserves_gpus():
    (device,) = SERVICES["worker"]["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
    assert [name for name, service in SERVICES.items() if "deploy" in service] == ["worker"]


def test_every_variable_of_compose_is_in_the_guide_and_none_else():
    text = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    of_services = [service.get("environment", {}).items() for service in SERVICES.values()]
    only_if_set = {name for variables in of_services for name, value in variables if value is None}
    used = set(re.findall(r"\$\{([A-Z_]+)", text)) | {"COMPOSE_PROFILES"} | only_if_set
    guide = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `([A-Z_]+)` \|", guide, re.M)) == used
    lines = (ROOT / ".env.example").read_text().splitlines()
    example = dict(line.split("=", 1) for line in lines if line and line[0] != "#")
    shown = set(re.findall(r"^# ([A-Z_]+)=", "\n".join(lines), re.M))
    assert shown == only_if_set | {"OPENSLOTH_STORAGE_URL"}, "an empty value is not none for the drivers of stores"
    assert set(example) == used - shown - {"OPENSLOTH_DATABASE_URL", "OPENSLOTH_REDIS_URL"}
    assert example["POSTGRES_PASSWORD"] == ""


def test_images_run_without_root_and_hold_no_secret():
    for target in ("api", "worker"):
        assert "USER 10001:10001" in stage(target)
    assert not re.search(r"(?i)password|secret|api_key|token", DOCKERFILE)


def test_the_build_context_is_what_the_dockerfile_copies():
    copied = set(re.findall(r"^COPY (\S+)", DOCKERFILE, re.M))
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert copied == allowed
    assert all((ROOT / name).exists() for name in copied)


@pytest.mark.parametrize("target", ["api", "worker"])
def test_an_images_lock_has_every_package_in_the_tested_version(target):
    image, tested = locked(f"requirements-{target}.lock"), locked("requirements.lock")
    several = {"networkx", "numpy"}  # the tested version depends on Python's
    differ = {name: (image[name], tested[name]) for name in image.keys() & tested.keys() - several}
    assert {name: both for name, both in differ.items() if both[0] != both[1]} == {}, "run make lock"
    assert required(target) - image.keys() == set(), "run make lock"
    assert ("torch" in image) == (target == "worker")


def required(target: str) -> set[str]:
    """The names of what pyproject.toml asks for an image."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras: dict[str, list[str]] = project["optional-dependencies"]
    open_extras, wanted = {"api": ["api"], "worker": ["worker", "gpu"]}[target], list(project["dependencies"])
    while open_extras:
        wanted += extras[open_extras.pop()]
        open_extras += [name for text in wanted for name in re.findall(r"^opensloth\[(\w+)\]", text)]
        wanted = [text for text in wanted if not text.startswith("opensloth[")]
    return {re.split(r"[^A-Za-z0-9._-]", text)[0].lower().replace("_", "-") for text in wanted}


AS_IN_THE_IMAGE = """
import importlib.abc, importlib.metadata as metadata, json, sys
locked, copied = map(json.loads, sys.argv[1:])

class OnlyTheImage(importlib.abc.MetaPathFinder):
    owners = metadata.packages_distributions()

    def find_spec(self, name, path, target=None):
        top = name.partition(".")[0]
        dists = {dist.lower().replace("_", "-") for dist in self.owners.get(top, [])} - {"opensloth", "setuptools"}
        ours = top in {"api", "benchmarks", "examples", "migrations", "opensloth", "tests", "worker"}
        if (ours and top not in copied) or (dists and not dists & set(locked)):
            raise ModuleNotFoundError(f"{name} is not in the image", name=name)

sys.meta_path.insert(0, OnlyTheImage())
import api.main, migrations.__main__, opensloth.accounts.bootstrap
print("torch" in sys.modules)
"""


def test_the_api_starts_with_what_its_image_has():
    packages = json.dumps([*locked("requirements-api.lock")])
    folders = json.dumps(re.findall(r"^COPY (\w+) \w+$", stage("api"), re.M))
    command = [sys.executable, "-P", "-c", AS_IN_THE_IMAGE, packages, folders]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "False"), done.stderr


class Answer(http.server.BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status if self.path == "/readyz" else 404)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


def test_the_health_check_follows_readyz():
    command = exec_form(stage("api"), "CMD")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        environment = {**os.environ, "OPENSLOTH_PORT": str(server.server_port), "http_proxy": "http://127.0.0.1:9"}
        answers = []
        for Answer.status in (200, 503):
            answers.append(subprocess.run([sys.executable, *command[1:]], env=environment).returncode)
        server.shutdown()
    assert answers == [0, 1]
    gone = subprocess.run([sys.executable, *command[1:]], env=environment, capture_output=True)
    assert gone.returncode != 0
