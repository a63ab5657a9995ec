"""The bodies of `/v1/chat/completions` and `/v1/completions`, read strictly: what is not done is refused by name."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from opensloth.chat.prompts import messages_of, prompts_of, wrong
from opensloth.chat.wire import Ask, SamplingAsk
from opensloth.errors import FieldError, InvalidInput
from opensloth.jobs.spec_shape import describe_errors, readable

_CLOSED = ConfigDict(extra="ignore", strict=True, allow_inf_nan=False, defer_build=True, use_attribute_docstrings=True)

WITHOUT_EFFECT = (
    "user",
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "prediction",
)
"""Taken and left aside: by OpenAI's own definition none of them changes an answer."""
REFUSED = {
    "tools": "tools are not supported",
    "tool_choice": "tools are not supported",
    "functions": "functions are not supported",
    "function_call": "functions are not supported",
    "parallel_tool_calls": "tools are not supported",
    "response_format": 'only {"type": "text"} is supported',
    "modalities": 'only ["text"] is supported',
    "audio": "audio is not supported",
    "reasoning_effort": "the models here have no such setting",
    "verbosity": "the models here have no such setting",
    "web_search_options": "there is no web search",
    "moderation": "there is no moderation",
    "suffix": "inserting text is not supported",
    "best_of": "only 1, or the same as n, is supported; ask for n answers and choose among them",
}
MOST_ANSWERS = 128
"""To one request, to all of its prompts together."""
_HARMLESS: dict[str, tuple[Any, ...]] = {
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "reasoning_effort": ("none",),
    "verbosity": ("medium",),
}
"""Values that say what holds anyway."""


def _number(value: Any) -> Any:
    # JSON has one kind of number: 1 is a temperature too.
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


Number = Annotated[float, BeforeValidator(_number)]


def _stops(value: Any) -> Any:
    stops = [value] if isinstance(value, str) else value
    texts = isinstance(stops, list) and all(isinstance(text, str) and 1 <= len(text) <= 1024 for text in stops)
    if value is not None and not (texts and len(stops) <= 4):
        raise ValueError("should be a text of 1 to 1024 characters, or a list of up to 4 such texts")
    return stops


class StreamOptions(BaseModel):
    """What a stream tells beside the answer."""

    model_config = _CLOSED

    include_usage: bool | None = None
    """A last chunk with the tokens that were used."""
    include_obfuscation: bool | None = None
    """Taken and left aside."""


class Generation(BaseModel):
    """What both routes take."""

    model_config = _CLOSED

    model: str = Field(min_length=1, max_length=256)
    """A registered model, a result (`ft:...`, or its job's id), a checkpoint (`ft:...:ckpt-step-N`), or an alias."""
    stream: bool | None = None
    """Send the answer as it comes, as server-sent events."""
    stream_options: StreamOptions | None = None
    n: int | None = Field(default=None, ge=1, le=MOST_ANSWERS)
    """How many answers."""
    temperature: Number | None = Field(default=None, ge=0, le=2)
    """0: always the likeliest token."""
    top_p: Number | None = Field(default=None, gt=0, le=1)
    """Only the likeliest tokens that together have this probability."""
    top_k: int | None = Field(default=None, ge=0, le=1_000_000)
    """Only so many of the likeliest tokens; 0: all. Not one of OpenAI's."""
    presence_penalty: Number | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: Number | None = Field(default=None, ge=-2, le=2)
    logit_bias: dict[str, Annotated[Number, Field(ge=-100, le=100)]] | None = Field(default=None, max_length=1024)
    """Added to the score of a token, by its number."""
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    """The same seed, request and `system_fingerprint` give the same answer, up to rounding."""
    stop: Annotated[list[str] | None, BeforeValidator(_stops)] = Field(
        default=None,
        json_schema_extra={"anyOf": [{"type": "string"}, {"type": "array", "maxItems": 4}, {"type": "null"}]},
    )
    """Up to 4 texts before which the answer ends."""

    @field_validator("logit_bias", mode="after")
    @classmethod
    def _tokens(cls, bias: dict[str, float] | None) -> dict[str, float] | None:
        if any(not name.isdecimal() or len(name) > 9 for name in bias or ()):
            raise ValueError("its keys are numbers of tokens")
        return bias

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with the tokens that were used."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def sampling(self, logprobs: int | None) -> SamplingAsk:
        """How tokens are chosen, with OpenAI's defaults."""
        return SamplingAsk(
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            top_k=self.top_k or 0,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            logit_bias={int(token): value for token, value in (self.logit_bias or {}).items()},
            seed=self.seed,
            logprobs=logprobs,
        )


class ChatCompletion(Generation):
    """The body of `POST /v1/chat/completions`."""

    messages: list[dict[str, Any]] = Field(min_length=1, max_length=4096)
    """The conversation so far: `{"role": "system"|"developer"|"user"|"assistant", "content": "..."}`."""
    max_completion_tokens: int | None = Field(default=None, ge=1, le=10_000_000)
    """The longest answer; as long as the context has room when not set."""
    max_tokens: int | None = Field(default=None, ge=1, le=10_000_000)
    """The older name of `max_completion_tokens`."""
    logprobs: bool | None = None
    """Tell the log probability of each token."""
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    """And those of so many of the likeliest at its place."""

    def ask(self, adapter: str | None) -> Ask:
        """What the engine is asked."""
        return Ask(
            messages=messages_of(self.messages),
            adapter=adapter,
            n=self.n or 1,
            max_tokens=self.max_completion_tokens or self.max_tokens,
            stop=self.stop or [],
            sampling=self.sampling((self.top_logprobs or 0) if self.logprobs else None),
        )


class Completion(Generation):
    """The body of `POST /v1/completions`."""

    prompt: Any = None
    """Text, a list of texts, or the same as tokens, to go on from."""
    max_tokens: int | None = Field(default=None, ge=1, le=10_000_000)
    """The longest answer; 16 tokens when not set."""
    logprobs: int | None = Field(default=None, ge=0, le=5)
    """Tell the log probability of each token and of so many of the likeliest at its place."""
    echo: bool | None = None
    """Begin each answer with its prompt."""
    best_of: int | None = Field(default=None, ge=1, le=20)

    def ask(self, adapter: str | None) -> Ask:
        """What the engine is asked."""
        return Ask(
            prompts=prompts_of(self.prompt),
            adapter=adapter,
            n=self.n or 1,
            max_tokens=16 if self.max_tokens is None else self.max_tokens,
            stop=self.stop or [],
            echo=bool(self.echo),
            sampling=self.sampling(self.logprobs),
        )


def parse_chat(body: Any) -> ChatCompletion:
    """Check the body of a chat completion; raises InvalidInput with one FieldError for each problem."""
    errors = _refused(body, ChatCompletion)
    if isinstance(body, dict):
        if body.get("max_tokens") is not None and body.get("max_completion_tokens") is not None:
            errors.append(FieldError("max_tokens", "leave it out where max_completion_tokens is set"))
        if body.get("top_logprobs") is not None and body.get("logprobs") is not True:
            errors.append(FieldError("top_logprobs", "needs logprobs to be true"))
    parsed: ChatCompletion = _parsed(body, ChatCompletion, errors)
    messages_of(parsed.messages)
    return parsed


def parse_completion(body: Any) -> Completion:
    """Check the body of a completion; raises InvalidInput with one FieldError for each problem."""
    errors = _refused(body, Completion)
    if isinstance(body, dict):
        if body.get("best_of") not in (None, 1, body.get("n")):
            errors.append(FieldError("best_of", REFUSED["best_of"], "unsupported_parameter"))
        if body.get("echo") is True and body.get("logprobs") is not None:
            message = "log probabilities of a prompt are not told; leave echo or logprobs out"
            errors.append(FieldError("echo", message, "unsupported_parameter"))
        if body.get("max_tokens") == 0 and body["max_tokens"] is not False:
            message = (
                "0 asks for a prompt to be scored, and log probabilities of a prompt are not told; ask for 1 or more"
            )
            errors.append(FieldError("max_tokens", message, "unsupported_parameter"))
            body = {**body, "max_tokens": None}
    parsed: Completion = _parsed(body, Completion, errors)
    count = len(prompts_of(parsed.prompt)) * (parsed.n or 1)
    if count > MOST_ANSWERS:
        raise wrong("n", f"{count} answers in all, and one request may ask for {MOST_ANSWERS}; send several")
    return parsed


def _refused(body: Any, model: type[Generation]) -> list[FieldError]:
    """What the body has that is not done here, or that nobody knows."""
    if not isinstance(body, dict):
        raise InvalidInput("the body is not valid", fields=[FieldError("", "the body is a JSON object", "malformed")])
    known = [*model.model_fields, *WITHOUT_EFFECT]
    errors = []
    for name in sorted(body.keys() - set(known), key=str)[:10]:
        if name in REFUSED:
            if body[name] is not None and body[name] not in _HARMLESS.get(name, ()):
                errors.append(FieldError(name, REFUSED[name], "unsupported_parameter"))
            continue
        near = difflib.get_close_matches(str(name)[:64], known, n=1)
        meant = f"; did you mean `{near[0]}`?" if near else ""
        errors.append(FieldError(readable(name), f"there is no such parameter{meant}", "unknown_parameter"))
    if body.get("stream_options") is not None and body.get("stream") is not True:
        errors.append(FieldError("stream_options", "only with stream set to true"))
    return errors


def _parsed(body: Mapping[str, Any], model: type[Any], errors: list[FieldError]) -> Any:
    parsed = None
    try:
        parsed = model.model_validate(body)
    except ValidationError as invalid:
        errors = describe_errors(invalid, dict(body)) + errors
    if errors or parsed is None:
        raise InvalidInput(f"{errors[0].path}: {errors[0].message}", fields=errors)
    return parsed
