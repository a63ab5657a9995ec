"""The loss falls on what the assistant says, token by token, whatever the chat template does."""

from __future__ import annotations

import random
from typing import Any

import pytest
from tokenizers import processors

from opensloth.datasets.encode import IGNORE, _tokenize, encode_sft
from opensloth.datasets.row_text import Rendered
from tests.support.tiny_model import CHAT_TEMPLATE, make_tokenizer

CONVERSATION = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello there"},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Again: Hello there "},
]
STRIPS = CHAT_TEMPLATE.replace("message['content'] +", "message['content'] | trim +")
DROPS_EARLIER_REASONING = (
    "{% for message in messages %}<|im_start|>{{ message['role'] + '\n' }}"
    "{% if message['role'] == 'assistant' and not loop.last %}{{ message['content'].split('</think>')[-1] | trim }}"
    "{% elif message['role'] == 'assistant' and '</think>' not in message['content'] %}"
    "{{ '<think>\n\n</think>\n\n' + message['content'] }}"
    "{% else %}{{ message['content'] }}{% endif %}<|im_end|>{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
JOINS_SYSTEM = (
    "{% set offset = 1 if messages and messages[0]['role'] == 'system' else 0 %}"
    "{% for message in messages[offset:] %}"
    "{% if message['role'] == 'user' %}"
    "[INST] {% if loop.index0 == 0 and offset %}{{ messages[0]['content'] }}\n\n{% endif %}"
    "{{ message['content'] }} [/INST]"
    "{% else %}{{ ' ' + message['content'] + eos_token }}{% endif %}{% endfor %}"
)
QUICK = {"plain": CHAT_TEMPLATE, "strips": STRIPS, "drops": DROPS_EARLIER_REASONING, "joins": JOINS_SYSTEM}
NO_GENERATION_PROMPT = "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"


def trained(row: dict[str, Any], loss_on: str | None = None, template: str = CHAT_TEMPLATE) -> list[str]:
    """The stretches of text that are trained on."""
    tokenizer = make_tokenizer(template)
    (encoded,) = encode_sft([row], tokenizer, loss_on)
    assert len(encoded.labels) == len(encoded.input_ids)
    stretches: list[list[int]] = []
    open_stretch = False
    for token, label in zip(encoded.input_ids, encoded.labels, strict=True):
        assert label in (IGNORE, token)
        if label != IGNORE:
            if not open_stretch:
                stretches.append([])
            stretches[-1].append(token)
        open_stretch = label != IGNORE
    return [tokenizer.decode(stretch) for stretch in stretches]


def test_every_assistant_turn_is_trained_with_the_token_that_ends_it() -> None:
    assert trained({"messages": CONVERSATION}) == ["Hello there<|im_end|>", "Again: Hello there <|im_end|>"]


def test_completion_means_the_last_answer() -> None:
    assert trained({"messages": CONVERSATION}, "completion") == ["Again: Hello there <|im_end|>"]


def test_all_means_every_token_but_the_first() -> None:
    row = {"messages": CONVERSATION}
    tokenizer = make_tokenizer()
    text = tokenizer.apply_chat_template(CONVERSATION, tokenize=False)
    assert trained(row, "all") == [text.removeprefix("<|im_start|>")]


def test_the_tokens_are_those_of_the_chat_template() -> None:
    tokenizer = make_tokenizer()
    (encoded,) = encode_sft([{"messages": CONVERSATION}], tokenizer, None)
    assert encoded.input_ids == tokenizer.apply_chat_template(CONVERSATION, tokenize=True, return_dict=False)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (STRIPS, ["Hello there<|im_end|>", "Again: Hello there<|im_end|>"]),
        (
            DROPS_EARLIER_REASONING,
            ["Hello there<|im_end|>", "<think>\n\n</think>\n\nAgain: Hello there <|im_end|>"],
        ),
        (JOINS_SYSTEM, [" Hello there<|im_end|>", " Again: Hello there <|im_end|>"]),
    ],
)
def test_templates_that_change_earlier_turns_are_masked_right(template: str, expected: list[str]) -> None:
    assert trained({"messages": CONVERSATION}, template=template) == expected


def test_reasoning_that_the_template_drops_is_not_looked_for() -> None:
    messages = [
        {"role": "user", "content": "1+1"},
        {"role": "assistant", "content": "<think>easy</think>2"},
        {"role": "user", "content": "2+2"},
        {"role": "assistant", "content": "<think>easy</think>4"},
    ]
    got = trained({"messages": messages}, template=DROPS_EARLIER_REASONING)
    assert got == ["2<|im_end|>", "<think>easy</think>4<|im_end|>"]


def test_without_a_generation_prompt_the_model_learns_to_begin_its_turn_itself() -> None:
    got = trained({"messages": CONVERSATION}, template=NO_GENERATION_PROMPT)
    assert got == ["assistant: Hello there\n", "assistant: Again: Hello there \n"]


def test_an_answer_that_repeats_the_question_is_found_at_its_own_place() -> None:
    messages = [{"role": "user", "content": "assistant"}, {"role": "assistant", "content": "assistant"}]
    for template in (CHAT_TEMPLATE, STRIPS, DROPS_EARLIER_REASONING):
        (got,) = trained({"messages": messages}, template=template)
        assert got.removeprefix("<think>\n\n</think>\n\n") == "assistant<|im_end|>"


def test_characters_of_several_bytes_are_trained_whole() -> None:
    messages = [{"role": "user", "content": "Grüße"}, {"role": "assistant", "content": "你好 🦥  "}]
    assert trained({"messages": messages}) == ["你好 🦥  <|im_end|>"]


def test_tool_results_within_a_completion_are_not_trained() -> None:
    row = {
        "prompt": [{"role": "user", "content": "Time?"}],
        "completion": [
            {"role": "assistant", "content": "call clock"},
            {"role": "tool", "content": "12:00"},
            {"role": "assistant", "content": "Noon"},
        ],
    }
    assert trained(row) == ["call clock<|im_end|>", "Noon<|im_end|>"]


def test_of_prompt_and_completion_in_messages_the_completion_is_trained() -> None:
    row = {"prompt": CONVERSATION[:4], "completion": CONVERSATION[4:]}
    assert trained(row) == ["Again: Hello there <|im_end|>"]
    assert trained(row, "assistant") == ["Hello there<|im_end|>", "Again: Hello there <|im_end|>"]


def test_of_prompt_and_completion_in_text_the_completion_and_its_end_are_trained() -> None:
    row = {"prompt": "2+2=", "completion": "4"}
    assert trained(row) == ["4<|im_end|>"]
    assert trained(row, "all") == ["+2=4<|im_end|>"]
    assert trained({"prompt": "2+2=", "completion": "4<|im_end|>"}) == ["4<|im_end|>"]


def test_text_is_trained_whole_and_has_no_assistant() -> None:
    assert trained({"text": "abc"}) == ["bc<|im_end|>"]
    with pytest.raises(ValueError, match="no assistant"):
        trained({"text": "abc"}, "assistant")


def test_rows_that_are_tokenized_stay_as_they_are_without_their_padding() -> None:
    row = {"input_ids": [5, 6, 7, 0], "labels": [5, -100, 7, 0], "attention_mask": [1, 1, 1, 0]}
    (encoded,) = encode_sft([row], make_tokenizer(), None)
    assert (encoded.input_ids, encoded.labels) == ([5, 6, 7], [IGNORE, IGNORE, 7])
    (encoded,) = encode_sft([{"input_ids": [5, 6]}], make_tokenizer(), None)
    assert encoded.labels == [IGNORE, 6]


@pytest.mark.parametrize("row", [{"input_ids": [5, 90_000]}, {"input_ids": [5, 6], "labels": [5, 90_000]}])
def test_a_token_that_the_tokenizer_does_not_have_is_refused(row):
    with pytest.raises(ValueError, match="there is no token 90000; the last one"):
        encode_sft([row], make_tokenizer(), None)


def test_rows_of_different_forms_keep_their_order() -> None:
    rows = [{"text": "a"}, {"input_ids": [1, 2]}, {"messages": CONVERSATION}, {"prompt": "p", "completion": "c"}]
    tokenizer = make_tokenizer()
    together = encode_sft(rows, tokenizer, None)
    assert together == [encoded for row in rows for encoded in encode_sft([row], tokenizer, None)]


def test_a_tokenizer_without_offsets_masks_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = make_tokenizer()
    expected = encode_sft([{"messages": CONVERSATION}, {"text": "abc"}], tokenizer, None)
    monkeypatch.setattr(type(tokenizer), "is_fast", False)
    assert encode_sft([{"messages": CONVERSATION}, {"text": "abc"}], tokenizer, None) == expected


@pytest.mark.parametrize("trims", [False, True])
def test_a_token_is_trained_on_where_its_last_character_lies_in_a_span(trims: bool) -> None:
    tokenizer = make_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=trims)
    source = random.Random(0)
    texts = ["".join(source.choices("aQQ Z\nä你😀", k=30)) + "<|im_end|>" for _ in range(50)]
    rendered = []
    for text in texts:
        borders = sorted(source.sample(range(len(text) + 1), 4))
        rendered.append(Rendered(text, [(borders[0], borders[1]), (borders[2], borders[3])], special=False))
    for text, encoded in zip(rendered, _tokenize(rendered, tokenizer, special=False), strict=True):
        told = tokenizer(text.text, add_special_tokens=False, return_offsets_mapping=True)
        assert encoded.input_ids == told["input_ids"]
        expected = [
            token if any(start < last <= end for start, end in text.spans) else IGNORE
            for token, (_, last) in zip(told["input_ids"], told["offset_mapping"], strict=True)
        ]
        assert encoded.labels == [IGNORE, *expected[1:]]


@pytest.mark.parametrize("name", sorted(QUICK))
def test_the_quick_way_finds_the_spans_that_rendering_every_beginning_finds(name: str) -> None:
    tokenizer = make_tokenizer(QUICK[name])
    conversations = [
        [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}],
        [
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": "Say: Hello!"},
            {"role": "assistant", "content": "Hello!"},
            {"role": "user", "content": " spaces "},
            {"role": "assistant", "content": "<think>so</think> well \n"},
        ],
    ]
    for messages in conversations:
        quick = encode_sft([{"messages": messages}], tokenizer, None)
        slow = encode_sft([{"messages": [{**m, "name": None} for m in messages]}], tokenizer, None)
        assert quick == slow
        assert [label for label in quick[0].labels if label != IGNORE]


@pytest.mark.parametrize("content", [None, "", "I look."])
def test_tool_calls_that_the_template_leaves_out_are_refused_by_their_message(content: str | None) -> None:
    call = {"type": "function", "function": {"name": "find_it", "arguments": "{}"}}
    answer = {"role": "assistant", "content": content, "tool_calls": [call]}
    with pytest.raises(ValueError, match=r"leaves out the tool calls of `messages\[1\]`"):
        encode_sft([{"messages": [{"role": "user", "content": "Hi"}, answer]}], make_tokenizer(), None)
