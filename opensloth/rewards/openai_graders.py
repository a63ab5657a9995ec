"""OpenAI's graders as rewards: the translation of `method.reinforcement.grader` and of an evaluation's graders."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Any

from opensloth.errors import FieldError, InvalidInput
from opensloth.rewards.build import BoundReward, build_rewards
from opensloth.rewards.spec import RewardPolicy, RewardSpec

MAX_NAME = 256
_SAME = {
    "string_check": ("input", "reference", "operation"),
    "text_similarity": ("input", "reference", "evaluation_metric"),
}
_FIELDS = {kind: ("type", "name", *fields) for kind, fields in _SAME.items()} | {
    "python": ("type", "name", "source", "image_tag"),
    "multi": ("type", "name", "graders", "calculate_output"),
}
_REFUSED = {
    "score_model": "asks another model for a score, and this server grades without one; use string_check, "
    "text_similarity or python, or a reward of this server (GET /v1/rewards)",
    "label_model": "asks another model for a label, and this server grades without one; use string_check, "
    "text_similarity or python",
}


def is_grader(value: Any) -> bool:
    """Whether `value` is written as OpenAI writes a grader, and not as a reward of this server."""
    return isinstance(value, Mapping) and "type" in value


def reward_of(grader: Any, path: str = "grader") -> RewardSpec:
    """The reward that a grader means; raises InvalidInput with every field at fault, under `path`.

    Its parameters are checked by `build_rewards`, which also knows what the administrator allows.
    """
    errors: list[FieldError] = []
    params = _params(grader, path, errors)
    if errors:
        raise InvalidInput(f"{errors[0].path}: {errors[0].message}", fields=errors)
    return RewardSpec(name=grader["type"], params=params)


def bind_grader(grader: Any, policy: RewardPolicy, path: str = "grader") -> BoundReward:
    """The grader as a reward that can be computed; raises InvalidInput with every mistake under `path`."""
    spec = reward_of(grader, path)
    try:
        return build_rewards([spec], policy, path="grader")[0]
    except InvalidInput as error:
        # What the reward calls its place is not where the grader has it.
        fields = [FieldError(path + _renamed(wrong), wrong.message, wrong.code) for wrong in error.fields]
        raise InvalidInput(f"{fields[0].path}: {fields[0].message}", fields=fields) from None


def _renamed(wrong: FieldError) -> str:
    inside = wrong.path.removeprefix("grader[0]")
    return ".type" if inside == ".name" else inside.removeprefix(".params")


def _params(grader: Any, path: str, errors: list[FieldError], *, inner: bool = False) -> dict[str, Any]:
    """The parameters of the reward; what is wrong goes to `errors`."""
    if not isinstance(grader, Mapping):
        errors.append(FieldError(path, "a grader is an object with `type`, `name` and its own fields", "malformed"))
        return {}
    kind = grader.get("type")
    if isinstance(kind, str) and kind in _REFUSED:
        errors.append(FieldError(f"{path}.type", f"`{kind}` {_REFUSED[kind]}", "grader_not_supported"))
        return {}
    kinds = [name for name in _FIELDS if not (inner and name == "multi")]
    if not isinstance(kind, str) or kind not in kinds:
        wrong = "is missing" if kind is None else f"{str(kind)[:64]!r} is not known"
        errors.append(FieldError(f"{path}.type", f"{wrong}; graders are of type {', '.join(kinds)}", "unknown_grader"))
        return {}
    errors += _wrong_fields(grader, kind, path)
    readers: dict[str, Callable[[], dict[str, Any]]] = {
        "python": lambda: {"source": grader["source"]} if "source" in grader else {},
        "multi": lambda: _multi(grader, path, errors),
    }
    return readers.get(kind, lambda: {name: grader[name] for name in _SAME[kind] if name in grader})()


def _multi(grader: Mapping[str, Any], path: str, errors: list[FieldError]) -> dict[str, Any]:
    graders = grader.get("graders")
    # The SDK's type has one grader here; OpenAI's guide has them by name.
    if is_grader(graders) and isinstance(graders, Mapping):
        graders = {str(graders.get("name", "grader")): graders}
    if not isinstance(graders, Mapping):
        errors.append(FieldError(f"{path}.graders", "must be an object of graders by name", "malformed"))
        return {}
    made = {}
    for name, inner in graders.items():
        params = _params(inner, f"{path}.graders.{str(name)[:64]}", errors, inner=True)
        kind = inner.get("type") if isinstance(inner, Mapping) else None
        made[str(name)] = {"name": str(kind or "unknown")[:64], "params": params}
    return {
        "graders": made,
        **({"calculate_output": grader["calculate_output"]} if "calculate_output" in grader else {}),
    }


def _wrong_fields(grader: Mapping[str, Any], kind: str, path: str) -> list[FieldError]:
    known = _FIELDS[kind]
    found = []
    for name in sorted(map(str, grader.keys() - set(known)))[:10]:
        near = difflib.get_close_matches(name[:64], known, n=1)
        meant = f"did you mean `{near[0]}`?" if near else f"a {kind} grader has {', '.join(known)}"
        found.append(FieldError(f"{path}.{name[:64]}", f"there is no such field; {meant}", "unknown_field"))
    needed = [name for name in known if name not in grader and name != "image_tag"]
    found += [FieldError(f"{path}.{name}", f"is missing; a {kind} grader needs it", "missing") for name in needed]
    called = grader.get("name")
    if "name" in grader and (not isinstance(called, str) or not 1 <= len(called) <= MAX_NAME):
        found.append(FieldError(f"{path}.name", f"must be text of 1 to {MAX_NAME} characters", "invalid"))
    return found
