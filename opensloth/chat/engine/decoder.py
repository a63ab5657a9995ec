"""Continuous batching: rows join between two steps and leave as soon as they are done, whatever adapter they use."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from typing import Any

import torch

from opensloth.chat.engine import rows as kv
from opensloth.chat.engine.answers import Piece, Row
from opensloth.chat.engine.lora import Adapters
from opensloth.chat.engine.sampling import Chooser, Sampling, choose
from opensloth.chat.engine.text import Silent

PROMPT_TOKENS = 256
"""Of prompts, in a step that others wait for; a long prompt comes in over several steps."""
PROMPT_TOKENS_ALONE = 512


class Decoder:
    """The model and the rows; `step` is for one thread, `add` and `cancel` for any."""

    def __init__(self, model: Any, *, kv_tokens: int, max_rows: int) -> None:
        self.model = model
        self.adapters = Adapters(model)
        self.store = kv.RowStore(kv_tokens)
        self._max_rows = max_rows
        self._waiting: deque[Row] = deque()
        self._active: list[Row] = []
        """In the order in which they came in."""
        self._arrived: deque[Row] = deque()
        self._wake = threading.Condition()
        self.steps = 0
        self.failure: BaseException | None = None

    @property
    def load(self) -> int:
        """Rows that decode or wait."""
        return len(self._active) + len(self._waiting) + len(self._arrived)

    def knows(self, key: str) -> bool:
        """Whether the adapter is loaded; for any thread, and true for the moment."""
        return self.adapters.knows(key)

    def add(self, rows: Sequence[Row]) -> None:
        """Take new rows; they join before the next step."""
        with self._wake:
            self._arrived.extend(rows)
            self._wake.notify()

    def cancel(self, rows: Sequence[Row]) -> None:
        """Nobody wants these any more; their places are free before the next step."""
        for row in rows:
            row.cancelled = True
        with self._wake:
            self._wake.notify()

    async def begin(self) -> None:
        """Say two tokens, and then step in a thread of its own.

        A model whose attention cannot be batched fails here, with ValueError, and not at somebody's request.
        """
        first = Row([0, 0, 0], 2, Chooser(Sampling(temperature=0.0), 0), Silent(), lambda _: None)
        self.add([first])
        with torch.inference_mode():
            while self.load:
                self.step()
        threading.Thread(target=self._run, name="decoder", daemon=True).start()

    def _run(self) -> None:
        """Step for ever; an error of a step ends that and is kept as `failure`."""
        try:
            with torch.inference_mode():
                while True:
                    with self._wake:
                        while not self.load:
                            self._wake.wait()
                    self.step()
        except BaseException as error:
            self.failure = error
            self.fail("engine_lost", "the engine failed")

    def step(self) -> None:
        """One pass of the model over what there is to do."""
        self._take_in()
        plan, rows = self._plan()
        if rows:
            self._pass(plan, rows)
            self.steps += 1

    # Joining and leaving

    def _take_in(self) -> None:
        with self._wake:
            while self._arrived:
                self._waiting.append(self._arrived.popleft())
        for row in [row for row in self._active if row.cancelled]:
            self._leave(row)
        self._waiting = deque(row for row in self._waiting if not row.cancelled)
        while self._waiting and len(self._active) < self._max_rows:
            row = self._waiting[0]
            try:
                row.place = self.store.add(len(row.tokens))
            except kv.Full:
                if self._active:
                    return  # it is first in line when somebody leaves
                self._waiting.popleft()
                row.tell(Piece(error=("context_length_exceeded", "the engine has no memory for so long a prompt")))
                continue
            self._waiting.popleft()
            row.place.owner = row
            self._active.append(row)
            self._adapt(row)

    def _adapt(self, row: Row) -> None:
        """Have the row's adapter in a slot."""
        if row.adapter is None:
            return
        row.slot = self.adapters.slot(row.adapter.key)
        if row.slot is not None:
            return
        busy = {other.slot for other in self._active if other.slot is not None}
        try:
            row.slot = self.adapters.put(row.adapter.key, row.adapter.read(), busy)
        except FileNotFoundError:
            self._leave(row, Piece(error=("model_not_found", "the adapter's files are not there any more")))
        except (OSError, ValueError) as error:
            self._leave(row, Piece(error=("model_error", f"the adapter cannot be used: {error}")))
        row.adapter.weights = None

    def _leave(self, row: Row, last: Piece | None = None) -> None:
        if row.place is not None:
            self.store.remove(row.place)
            row.place = None
        self._active.remove(row)
        if last is not None:
            row.tell(last)

    def _make_room(self, row: Row) -> bool:
        """Room for the row's next token, if need be in place of the youngest rows, which begin again later."""
        assert row.place is not None
        while True:
            try:
                self.store.grow(row.place)
                return True
            except kv.Full:
                if len(self._active) == 1:
                    self._leave(row, row.end("length"))
                    return False
                youngest = self._active[-1]
                self._leave(youngest)
                self._waiting.appendleft(youngest)
                if youngest is row:
                    return False

    # One pass

    def _plan(self) -> tuple[kv.Step, list[tuple[Row, int]]]:
        """What goes through the model now: rows in the order of their tokens, with how many of each."""
        for row in list(self._active):
            if row.place is not None and row.place.stored == row.place.bucket.length:
                self._make_room(row)
        step, rows, first = kv.Step([], []), [], 0
        device = self.model.device
        for bucket in self.store.buckets.values():
            ready = [place for place in bucket.places if place.stored and _left(place) == 1]
            if ready:
                step.decoding.append(kv.Decoding(ready, first, device))
                rows += [(place.owner, 1) for place in ready]
                first += len(ready)
        budget = PROMPT_TOKENS if rows else PROMPT_TOKENS_ALONE
        decoding = {id(row) for row, _ in rows}
        for row in self._active:
            if id(row) in decoding or row.place is None or budget <= 0:
                continue
            count = min(budget, _left(row.place))
            step.filling.append(kv.Filling(row.place, first, count))
            rows.append((row, count))
            first += count
            budget -= count
        return step, rows

    def _pass(self, plan: kv.Step, rows: list[tuple[Row, int]]) -> None:
        tokens: list[int] = []
        positions: list[int] = []
        slots: list[int | None] = []
        last: list[int] = []
        ready: list[Row] = []
        for row, count in rows:
            assert row.place is not None
            start = row.place.stored
            tokens += row.tokens[start : start + count]
            positions += range(start, start + count)
            slots += [row.slot] * count
            if start + count == len(row.tokens):
                ready.append(row)
                last.append(len(tokens) - 1)
        device = self.model.device
        self.adapters.use(slots)
        output = kv.run(
            plan,
            self.model,
            input_ids=torch.tensor([tokens], device=device),
            position_ids=torch.tensor([positions], device=device),
            use_cache=False,
            logits_to_keep=torch.tensor(last, dtype=torch.long, device=device),
        )
        for row, count in rows:
            assert row.place is not None
            row.place.stored += count
        if not ready:
            return
        chosen = choose(output.logits[0], [row.chooser for row in ready])
        broken = output.logits[0].isnan().any(-1).tolist()
        for row, token, is_broken in zip(ready, chosen, broken, strict=True):
            if is_broken:
                self._leave(row, Piece(error=("model_error", "the model computes NaN: its weights are damaged")))
                continue
            piece = row.say(token)
            if piece is not None and piece.finish is not None:
                self._leave(row, piece)
            elif piece is not None:
                row.tell(piece)

    def fail(self, code: str, message: str) -> None:
        """Tell every row that there will be no more."""
        with self._wake:
            rows = [*self._active, *self._waiting, *self._arrived]
            self._active, self._waiting, self._arrived = [], deque(), deque()
        for row in rows:
            row.tell(Piece(error=(code, message)))


def _left(place: kv.Place) -> int:
    """Tokens of the row that are not stored yet."""
    return len(place.owner.tokens) - place.stored
