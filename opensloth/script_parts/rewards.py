"""The rewards of a GRPO job as functions of a bare script."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from opensloth.method_args import RewardSpec
from opensloth.rewards.build import unique_label
from opensloth.rewards.files import PREFIX
from opensloth.rewards.registry import Reward, reward_map
from opensloth.script_parts.carry import Name
from opensloth.script_parts.source import file_text

SANDBOX: Name = ("opensloth.rewards.sandbox", "program")
FAILURES = "opensloth.rewards.failures"

CALL = '''def reward(
    label: str,
    score: Callable,
    params: Any,
    each_s: float | None = None,
    late_is_zero: bool = False,
    get_ready: Callable | None = None,
) -> Callable:
    """A function of answers and their rows that gives finite scores; `each_s` seconds are for one answer."""
    if get_ready is not None:
        get_ready(params)

    def scores(answers: list, rows: list) -> list:
        found = score(params, answers, rows) if each_s is None else list(map(one, answers, rows))
        if len(found) != len(answers) or not all(math.isfinite(value) for value in found):
            raise ValueError(f"the reward {label} gave {found} for {len(answers)} answers")
        return [float(value) for value in found]

    def one(answer: str, row: dict) -> float:
        signal.signal(signal.SIGALRM, late)
        signal.setitimer(signal.ITIMER_REAL, each_s or 0)
        try:
            return score(params, [answer], [row])[0]
        except ItemHopeless:
            return 0.0
        except (MemoryError, RecursionError, Late):
            if late_is_zero:
                return 0.0
            raise
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def late(*_: Any) -> None:
        raise Late(f"the reward {label} took more than {each_s} s on one answer")

    scores.__name__ = label
    return scores


class Late(BaseException):
    """An answer took too long; no `except Exception` of a library stops it."""'''

FILE = '''def from_file(folder: str, name: str) -> Callable:
    """The reward that NAME.py in `folder` defines, a copy of the file in the server's rewards folder."""
    path = Path(folder) / f"{name}.py"
    if not path.is_file():
        raise SystemExit(f"the job was rewarded by {name}.py of its server; put a copy of it into {path.parent} "
                         "or name its folder with --rewards-dir")
    names: dict = {"__name__": f"reward_{name}", "__file__": str(path)}
    exec(compile(path.read_text(), str(path), "exec"), names)
    return lambda params, answers, rows: names["reward"](list(answers), [dict(row) for row in rows], **params)'''

MISSING = '''def missing(name: str) -> Callable:
    """Stands for a reward whose source the server does not have any more."""

    def score(answers: list, rows: list) -> list:
        raise NotImplementedError(f"write the reward {name} here: a float for each answer")

    score.__name__ = re.sub(r"\\W", "_", name)
    return score'''


@dataclass(frozen=True)
class RewardSource:
    """Source that defines `rewards(folder)`, what it needs, and whether `folder` says where rewards files are."""

    source: str
    roots: tuple[Name, ...]
    replaced: dict[Name, str]
    also: tuple[str, ...]
    uses_files: bool


def render_rewards(specs: Sequence[RewardSpec]) -> RewardSource:
    """The functions for TRL, in order; a reward that is not known any more is left to be written."""
    roots: list[Name] = [(FAILURES, "ItemHopeless")]
    parts, lines, labels = [CALL], [], set[str]()
    for spec in specs:
        label = unique_label(spec.name, labels)
        labels.add(label)
        if spec.name.startswith(PREFIX):
            parts.append(FILE)
            name = spec.name.removeprefix(PREFIX)
            lines.append(f"reward({label!r}, from_file(folder, {name!r}), {spec.params!r})")
        elif spec.name in reward_map:
            entry = reward_map[spec.name]
            roots += _roots(entry)
            lines.append(_line(label, entry, spec.params))
        else:
            parts.append(MISSING)
            lines.append(f"missing({spec.name!r})")
    replaced = {}
    if any(spec.name in ("code_tests", "python", "multi") for spec in specs):
        parts.append(f"SANDBOX = r'''{file_text('opensloth.rewards.sandbox_main')}'''")
        replaced[SANDBOX] = 'def program() -> list[str]:\n    """What Python runs."""\n    return ["-c", SANDBOX]'
    body = "".join(f"        {_wrapped(line)},\n" for line in lines)
    made = f'def rewards(folder: str) -> list:\n    """What judges the answers, in order."""\n    return [\n{body}    ]'
    also = tuple({module for module, _ in roots if module.partition(".")[0] != "opensloth"})
    uses_files = FILE in parts
    return RewardSource(
        "\n\n\n".join([*dict.fromkeys(parts), made]), tuple(dict.fromkeys(roots)), replaced, also, uses_files
    )


def _wrapped(call: str) -> str:
    """A call that is too long for a line, with its arguments on the next ones."""
    if len(call) <= 110 or not call.startswith("reward("):
        return call
    name, score, rest = call.removesuffix(")").split(", ", 2)
    return f"{name}, {score},\n               {rest})"


def _roots(entry: Reward[Any]) -> list[Name]:
    """Of a reward its function, the class of its parameters, and what gets it ready."""
    used: list[Any] = [entry.score, entry.params, *([entry.prepare] if _prepares(entry) else [])]
    return [(str(some.__module__), str(some.__name__)) for some in used]


def _line(label: str, entry: Reward[Any], params: dict[str, Any]) -> str:
    given = f"{entry.params.__name__}.model_validate({params!r})"
    each = ""
    if entry.item_timeout_s is not None:
        each = f", each_s={entry.item_timeout_s}" + (", late_is_zero=True" if entry.hopeless_is_zero else "")
    if _prepares(entry):
        each += f", get_ready={entry.prepare.__name__}"
    return f"reward({label!r}, {entry.score.__name__}, {given}{each})"


def _prepares(entry: Reward[Any]) -> bool:
    return entry.prepare.__module__ != Reward.__module__  # the registry's own does nothing
