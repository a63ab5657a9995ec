"""The rewards as `GET /v1/rewards` lists them."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from opensloth.rewards import build  # noqa: F401 - registers the built-in rewards
from opensloth.rewards.files import PREFIX, FileReward, list_files
from opensloth.rewards.registry import Reward, reward_map
from opensloth.rewards.spec import RewardPolicy

COLUMN_PARAMETERS = ("column", "columns", "setup_column", "reference", "input")


def describe_rewards(policy: RewardPolicy) -> dict[str, Any]:
    """`{"object": "list", "data": [...]}`: name, description, parameters as JSON Schema, and the columns read.

    `columns` are those read unless parameters name others; `column_parameters` are the parameters that do so.
    `http` says which `urls` the administrator allows.
    """
    data = [_describe(reward) for _, reward in sorted(reward_map.items())]
    for entry in data:
        if entry["name"] == "http":
            entry["urls"] = list(policy.urls)
    data += [_describe_file(file) for file in list_files(policy.folder)]
    return {"object": "list", "data": data, "has_more": False}


def _describe(reward: Reward[Any]) -> dict[str, Any]:
    schema = reward.params.model_json_schema(by_alias=True)
    names = [name for name in COLUMN_PARAMETERS if name in schema["properties"]] if "properties" in schema else []
    return {
        "object": "reward",
        "name": reward.name,
        "description": reward.description,
        "parameters": schema,
        "columns": _default_columns(reward),
        "column_parameters": names,
        "reads_all_columns": reward.reads_all,
        "source": "builtin",
    }


def _default_columns(reward: Reward[Any]) -> list[str]:
    try:
        return list(reward.columns(reward.params()))
    except ValidationError:
        return []  # it needs parameters, which say what it reads


def _describe_file(file: FileReward) -> dict[str, Any]:
    properties = {name: {} if value is None else {"default": value} for name, value in file.parameters.items()}
    return {
        "object": "reward",
        "name": PREFIX + file.name,
        "description": file.description,
        "parameters": {
            "type": "object",
            "properties": properties,
            "required": list(file.required),
            "additionalProperties": file.open,
        },
        "columns": list(file.columns),
        "column_parameters": [],
        "reads_all_columns": True,
        "source": "file",
    }
