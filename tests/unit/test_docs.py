"""What README and docs say is what the code does: maps, diagrams, settings, links, examples."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import json
import os
import re
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer
from starlette.routing import Match

from opensloth.jobs.spec import parse_job_spec

ROOT = Path(__file__).parents[2]
NOT_SETTINGS = {
    "OPENSLOTH_HEARTBEAT_FD",
    "OPENSLOTH_RUN_DIR",
    "OPENSLOTH_SECRETS_FD",
    "OPENSLOTH_REWARD",
    "OPENSLOTH_REWARD_URLS",
}
"""What a worker tells its own trainers, and what rewards will read once a training type uses them."""


def tracked() -> list[str]:
    """The project's files; what git does not know is not a part of it."""
    listed = subprocess.run(["git", "ls-files", "--cached"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode == 0 and listed.stdout:
        return listed.stdout.splitlines()
    found = []
    for folder, names, files in os.walk(ROOT):
        names[:] = [name for name in names if not name.startswith(".") and name != "__pycache__"]
        found += [(Path(folder) / file).relative_to(ROOT).as_posix() for file in files]
    return found


PAGES = [ROOT / path for path in sorted(tracked()) if path.endswith(".md") and path.count("/") < 3]
IDS = [page.relative_to(ROOT).as_posix() for page in PAGES]


def blocks(page: Path, language: str) -> list[str]:
    """What stands between the fences of this language; with "" those that name none."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.S | re.M)
    return [text for name, text in fenced if name == language]


def folder_map() -> set[str]:
    """The entries of the README's map as paths, folders with a slash at their end."""
    (drawn,) = blocks(ROOT / "README.md", "")
    paths, parent = set(), ""
    for line in drawn.splitlines():
        name = line.split()[0]
        if line.startswith(" "):
            paths.add(parent + name)
        else:
            parent = name
            paths.add(name)
    return paths


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_map_in_the_readme_is_the_tree():
    folders = {path.rsplit("/", 1)[0] for path in tracked() if "/" in path and not path.startswith(".")}
    tree = {f"{folder.split('/')[0]}/" for folder in folders}
    for package in ("opensloth", "api"):
        tree |= {f"{package}/{folder.split('/')[1]}/" for folder in folders if folder.startswith(f"{package}/")}
    tree |= {path for path in tracked() if re.fullmatch(r"opensloth/[a-z]\w*\.py", path)}
    assert folder_map() == tree


@pytest.mark.parametrize("name", ["job-states.md", "configuration.md"])
def test_a_page_made_from_the_code_is_up_to_date(name):
    made = {path.name: text for path, text in generator().pages().items()}
    assert (ROOT / "docs" / name).read_text(encoding="utf-8") == made[name], "run python docs/generate.py"


def test_every_variable_that_the_code_reads_is_documented():
    documented = set(re.findall(r"OPENSLOTH_[A-Z_]+", (ROOT / "docs" / "configuration.md").read_text()))
    sources = [ROOT / path for path in tracked() if re.match(r"(opensloth|api|worker|migrations)/.*\.py$", path)]
    used = {
        name for path in sources for name in re.findall(r"OPENSLOTH_[A-Z_]*[A-Z]", path.read_text(encoding="utf-8"))
    }
    assert used - documented - NOT_SETTINGS == set()


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_relative_link_leads_somewhere(page):
    targets = re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
    gone = [target for target in targets if "://" not in target and not (page.parent / target).exists()]
    assert gone == []


def job_bodies(page: Path) -> list[dict[str, Any]]:
    """Each body that a curl example posts to /v1/jobs, with the shell's variables filled in."""
    found = []
    for block in blocks(page, "bash"):
        for command in re.findall(r'curl [^\n]*/v1/jobs".*?-d @- <<JSON[^\n]*\n(.*?)\nJSON', block, re.S):
            body = re.sub(r"\$\w*JOB", "ftjob-0123456789abcdef01234567", command)
            found.append(json.loads(body.replace("$FILE", "file-0123456789abcdef01234567")))
    return found


def test_every_job_in_a_curl_example_is_accepted():
    readme, guide = job_bodies(ROOT / "README.md"), job_bodies(ROOT / "docs" / "api.md")
    assert (len(readme), len(guide)) == (1, 2)
    for body in readme + guide:
        parse_job_spec(body)


def test_every_json_in_a_curl_example_is_json():
    bodies = [body for page in PAGES for block in blocks(page, "bash") for body in re.findall(r"-d '([^']*)'", block)]
    assert len(bodies) >= 2
    for body in bodies:
        json.loads(body)


def test_every_address_in_a_curl_example_is_a_route():
    from api.main import app

    urls = {url for page in PAGES for block in blocks(page, "bash") for url in re.findall(r'"\$URL(/[^"?]*)', block)}
    assert len(urls) >= 8
    for url in urls:
        scope = {"type": "http", "path": url, "method": "GET", "headers": []}
        assert any(route.matches(scope)[0] is not Match.NONE for route in app.routes), url


def test_the_error_in_the_guide_is_the_answer_of_the_api():
    from api.errors import from_domain
    from opensloth.errors import InvalidInput

    (shown,) = (json.loads(block) for block in blocks(ROOT / "docs" / "api.md", "json"))
    body = job_bodies(ROOT / "docs" / "api.md")[0]
    body["opensloth_config"]["dpo_args"] = {"betta": 0.1}
    with pytest.raises(InvalidInput) as refused:
        parse_job_spec(body)
    assert json.loads(bytes(from_domain(refused.value).body)) == shown


def test_the_python_examples_import_what_there_is():
    sources = blocks(ROOT / "README.md", "python")
    assert len(sources) == 2
    for source in sources:
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(str(node.module))
                assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []


def test_the_job_of_the_python_example_is_accepted():
    tree = ast.parse(blocks(ROOT / "README.md", "python")[0])
    call = next(n for n in ast.walk(tree) if isinstance(n, ast.Call) and getattr(n.func, "attr", "") == "submit")

    class FileId(ast.NodeTransformer):
        def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
            return ast.Constant("file-0123456789abcdef01234567")

    spec = parse_job_spec(ast.literal_eval(FileId().visit(call.args[0])))
    assert spec.opensloth_config.training_type == "dpo"


def test_the_config_of_the_script_example_can_be_made():
    source = blocks(ROOT / "README.md", "python")[1]
    tree = ast.parse(source).body
    imports = [node for node in tree if isinstance(node, ast.ImportFrom)]
    made = [node for node in tree if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "config"]
    names: dict[str, Any] = {}
    exec(compile(ast.Module([*imports], []), "README.md", "exec"), names)
    names["local_model"] = str  # the real one fetches the model
    exec(compile(ast.Module([*made], []), "README.md", "exec"), names)
    assert names["config"].dpo_args.max_prompt_length == 512


def test_every_make_target_that_is_named_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    named = {name for page in PAGES for name in re.findall(r"(?:`|^)make ([a-z-]+)", page.read_text(), re.M)}
    assert {"demo", "test", "lock"} <= named
    assert named - targets == set()


def test_every_opensloth_command_that_is_named_exists():
    from opensloth.cli.app import app

    groups = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for command in re.findall(r"(?:^|`|\$\()opensloth ((?:[a-z]+ ?)+)", text, re.M):
            first, *rest = command.split()
            assert first in groups, f"{page.name}: opensloth {command}"
            inner = getattr(groups[first], "commands", None)
            assert not (inner and rest) or rest[0] in inner, f"{page.name}: opensloth {command}"
