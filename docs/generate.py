"""Write the pages that are made from the code: `python docs/generate.py`; a test compares them."""

from __future__ import annotations

import ast
import inspect
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from opensloth import settings
from opensloth.jobs import reasons, retry_policy, states

DOCS = Path(__file__).parent

MADE = "<!-- Made from {} by `python docs/generate.py`; do not edit. -->"

_DEFAULTS = {"home": "`~/.opensloth`", "host_id": "the host's name"}
"""What stands for a default that depends on the machine."""

_MEANINGS = {
    "host": "Address on which `opensloth up` listens.",
    "port": "Port on which `opensloth up` listens.",
    "max_upload_bytes": "The largest file that may be uploaded.",
    "lease_renew_s": "How often a worker renews the lease of a job that it runs.",
    "checkpoint_interval_s": "Longest time between two checkpoints of a running job.",
}
"""For settings that have no docstring of their own."""

_OTHERS = (
    ("OPENSLOTH_BASE_URL", "client", "Address of the server, before what `opensloth login` stored."),
    ("OPENSLOTH_API_KEY", "client", "The key to send, before what `opensloth login` stored."),
    ("OPENSLOTH_HOME", "client", "Where `credentials.json` is; `~/.opensloth` if not set."),
    ("OPENSLOTH_JOB_ID", "command", "The id of its job; the worker sets it for the commands of `opensloth lease`."),
    ("OPENSLOTH_LOG_LEVEL", "worker", "`DEBUG`, `INFO`, `WARNING` or `ERROR`; `INFO` if not set."),
)


def pages() -> dict[Path, str]:
    """The text of each generated page by its path."""
    return {DOCS / "job-states.md": job_states(), DOCS / "configuration.md": configuration()}


def job_states() -> str:
    """The life of a job: its states, what moves it, and the reasons for which an attempt ends."""
    intents = "\n".join(
        f"| `{intent}` | {states.STRENGTH[intent]} | `{states.ENDS_IN[intent]}` |" for intent in states.StopIntent
    )
    codes = "\n".join(
        f"| `{why.code}` | {why.message} | {_retry(why)} | {why.hint} |" for why in reasons.REASONS.values()
    )
    return f"""{MADE.format("opensloth/jobs/states.py and reasons.py")}

# The states of a job

Every transition that is allowed is here; any other is refused. `succeeded`, `failed` and `cancelled` never change. To
try such a job again, make a new one of it: `opensloth retry`.

```mermaid
{states.mermaid()}```

## Why a job is being stopped

A job in `stopping` carries a `stop_intent`. A stronger one replaces a weaker one, never the reverse. Clients ask for
`kill` (cancel without a checkpoint), `cancel` and `pause`, a time limit that is reached for `time_limit`, a job that
needs the devices for `preempt`, a worker that shuts down for `drain`.

| intent | strength | ends in |
| --- | --- | --- |
{intents}

## Reasons

`reason` on a job says why its last attempt ended. A retryable reason queues the job again, from its newest complete
checkpoint. "Free" means that the retry does not count against `max_retries`, and comes at once; a charged one waits for
`OPENSLOTH_RETRY_BACKOFF_S`, twice that the next time, and so on up to {retry_policy.MOST_WAIT_S:.0f} s. "3 in a row"
are attempts that ended so without a checkpoint between them; then the job ends as the code that is named, or a retry
counts. So one bad job does not take down host after host, and one that gets on may lose any number of them.

| code | what happened | tried again | what to do |
| --- | --- | --- | --- |
{codes}
"""


def configuration() -> str:
    """Every environment variable that the service or the client reads."""
    rows = "\n".join(
        f"| `OPENSLOTH_{name.upper()}` | {_default(name)} | {_meaning(name, text)} |"
        for name, text in _fields().items()
    )
    others = "\n".join(f"| `{name}` | {who} | {what} |" for name, who, what in _OTHERS)
    return f"""{MADE.format("opensloth/settings.py")}

# Configuration

API, worker, `opensloth up` and migrations read the same variables. Each has a default that works on one machine, so
that none has to be set there. Names that end in `_s` are seconds, those that end in `_bytes` are bytes.

| variable | default | meaning |
| --- | --- | --- |
{rows}

On a team's machines `OPENSLOTH_DATABASE_URL`, `OPENSLOTH_REDIS_URL` and `OPENSLOTH_STORAGE_URL` name what all processes
share, and must be the same for all of them. Keep `OPENSLOTH_LEASE_RENEW_S` well below `OPENSLOTH_LEASE_S`.

These are read beside them:

| variable | by | meaning |
| --- | --- | --- |
{others}

A trainer gets none of these. Its environment is an allowlist (`worker/environment.py`): paths, proxies, caches and what
CUDA, NCCL and the hub's client need. Neither API keys nor the URLs of database and Redis reach the code that trains.
"""


def _fields() -> dict[str, str]:
    """The settings in their order, each with its docstring (empty if it has none)."""
    tree = ast.parse(inspect.getsource(settings.Settings)).body[0]
    assert isinstance(tree, ast.ClassDef)
    found: dict[str, str] = {}
    last = None
    for node in tree.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            last = node.target.id
            found[last] = ""
        elif last and isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            found[last] = " ".join(str(node.value.value).split())
            last = None
        else:
            last = None
    return found


def _meaning(name: str, docstring: str) -> str:
    text = docstring or _MEANINGS.get(name)
    if not text:
        raise SystemExit(f"give {name} in opensloth/settings.py a docstring")
    return text.replace("|", "\\|")


def _default(name: str) -> str:
    value = settings.Settings.model_fields[name].default
    if name in _DEFAULTS:
        return _DEFAULTS[name]
    if value is None:
        return "-"
    if name.endswith("_bytes"):
        return f"`{value}` ({value / 2**30:g} GiB)" if value >= 2**30 else f"`{value}` ({value / 2**20:g} MiB)"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def _retry(why: reasons.Reason) -> str:
    if not why.retryable:
        return "no"
    if why.limit is None:
        return "yes" if why.charged else "yes, free"
    beyond = f"then `{why.beyond}`" if why.beyond else "then it counts"
    return f"yes, free {why.limit - 1} times, {beyond} at {why.limit} in a row"


def main() -> None:
    """Write every page."""
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
