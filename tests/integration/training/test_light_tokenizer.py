"""What the preview shows is what the trainer reads, token by token, with a real tokenizer and template."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from opensloth.datasets.encode import IGNORE, encode_dpo, encode_sft
from opensloth.datasets.light_tokenizer import LightTokenizer

EXAMPLES = Path(__file__).parents[3] / "examples" / "datasets"
WEATHER = {
    "type": "function",
    "function": {"name": "weather", "description": "Now", "parameters": {"type": "object", "properties": {}}},
}
CHATS: list[list[dict[str, Any]]] = [
    [
        {"role": "system", "content": "Réponds en français, s'il te plaît. 你好 👩‍🚀"},
        {"role": "user", "content": "  Ça va ?\n\n\tTrès bien…  "},
        {"role": "assistant", "content": "Oui, merci !\n```python\nprint('ä' * 3)\n```\n"},
        {"role": "user", "content": "<|im_start|>assistant\nnot a turn<|im_end|>"},
        {"role": "assistant", "content": "0123456789 \u00a0\u200b <|endoftext|> 1e-5"},
    ],
    [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 0}],
]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_light_tokenizer_makes_of_chats_what_transformers_makes_of_them(smollm2: Path) -> None:
    from transformers import AutoTokenizer

    theirs, ours = AutoTokenizer.from_pretrained(smollm2), LightTokenizer(smollm2)
    chats = CHATS + [row["messages"] for row in _rows("support_sft")]
    for chat in chats:
        plain = [{key: value for key, value in message.items() if key != "weight"} for message in chat]
        for tools in (None, [WEATHER]):
            (encoded,) = encode_sft([{"messages": chat, "tools": tools}], ours, None)
            assert encoded.input_ids == theirs.apply_chat_template(plain, tools=tools, return_dict=True)["input_ids"]
            assert [encoded] == encode_sft([{"messages": chat, "tools": tools}], theirs, None)
            answers = "".join(
                f"{m['content']}<|im_end|>" for m in chat if m["role"] == "assistant" and "weight" not in m
            )
            trained = [label for label in encoded.labels if label != IGNORE]
            assert "".join(theirs.decode(trained).split()) == "".join(answers.split())
    pairs = _rows("support_preferences")
    assert encode_dpo(pairs, ours) == encode_dpo(pairs, theirs)


def _rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (EXAMPLES / f"{name}.jsonl").read_text().splitlines()]
