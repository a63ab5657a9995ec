"""A model's tokenizer and chat template without transformers or torch, for the preview; encodes as theirs does."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

from opensloth.errors import InvalidInput

if TYPE_CHECKING:
    from tokenizers import Tokenizer

NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class LightTokenizer:
    """What `encode.py` needs of a tokenizer, from the files in a model's folder."""

    is_fast = True

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer

        if not (folder / "tokenizer.json").exists():
            raise InvalidInput(
                "the model has no tokenizer.json, which the preview needs",
                code="no_preview",
                hint="save its tokenizer as a fast one; training works without",
            )
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        config = _read_json(folder / "tokenizer_config.json")
        named = {**_read_json(folder / "special_tokens_map.json"), **config}
        self._special = {name: _text(named[name]) for name in NAMES if named.get(name)}
        self._special.setdefault("pad_token", self._special.get("eos_token", ""))
        extra = named.get("extra_special_tokens") or named.get("additional_special_tokens") or []
        self._extra = [_text(token) for token in (extra.values() if isinstance(extra, dict) else extra)]
        template = folder / "chat_template.jinja"
        self.chat_template = template.read_text() if template.exists() else _template(config.get("chat_template"))

    @property
    def eos_token(self) -> str | None:
        """The text of the token that ends an answer."""
        return self._special.get("eos_token")

    @property
    def eos_token_id(self) -> int | None:
        """Its id."""
        return None if self.eos_token is None else self._tokenizer.token_to_id(self.eos_token)

    @property
    def all_special_tokens(self) -> list[str]:
        """The texts of all special tokens."""
        return list(dict.fromkeys([*(text for text in self._special.values() if text), *self._extra]))

    @property
    def backend_tokenizer(self) -> Tokenizer:
        """What turns text into ids, as in transformers' tokenizers."""
        return self._tokenizer

    def apply_chat_template(
        self, messages: list[dict[str, Any]], *, tokenize: bool, add_generation_prompt: bool, **options: Any
    ) -> str:
        """The text of a conversation; raises InvalidInput where the model has no template, jinja2's errors else."""
        assert not tokenize
        return self._template.render(
            **{
                **self._special,
                "messages": messages,
                "tools": None,
                "documents": None,
                "add_generation_prompt": add_generation_prompt,
                **{name: value for name, value in options.items() if name != "chat_template"},
            }
        )

    def strings(self, ids: Sequence[int]) -> list[str]:
        """Each token as text; bytes that are no character of their own appear as the tokenizer writes them."""
        texts = []
        for token in ids:
            text = self._tokenizer.decode([token], skip_special_tokens=False)
            raw = self._tokenizer.id_to_token(token) or f"<{token}>"
            texts.append(raw if not text or "\ufffd" in text else text)
        return texts

    @cached_property
    def _template(self) -> jinja2.Template:
        if not self.chat_template:
            raise InvalidInput(
                "the model has no chat template, so that it cannot take messages",
                code="no_chat_template",
                hint="use an instruct model, or rows with `text` or with `prompt` and `completion`",
            )
        return environment().from_string(self.chat_template)


def environment() -> jinja2.Environment:
    """What transformers renders chat templates in: jinja2's sandbox and a few names."""
    made = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    made.filters["tojson"] = _to_json
    made.globals["raise_exception"] = _raise
    made.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return made


class _Generation(jinja2.ext.Extension):
    """`{% generation %}` marks answers for transformers; here what is in it is only rendered."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    # jinja2's own filter writes for HTML.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


def _template(value: Any) -> str | None:
    if isinstance(value, list):
        named = {entry["name"]: entry["template"] for entry in value}
        return named.get("default")
    return str(value) if value else None


def _text(token: Any) -> str:
    return str(token["content"]) if isinstance(token, dict) else str(token)


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_bytes()) if path.exists() else {}
