"""What a bare TRL script needs of each training method. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from opensloth.opensloth_config import OpenSlothConfig, TrainingArguments
from opensloth.script_parts.rewards import render_rewards
from opensloth.script_parts.source import body, function
from opensloth.trl_arguments import dpo_arguments, grpo_arguments, kto_arguments, orpo_arguments, sft_arguments

PACKAGE = Path(__file__).parents[1]
ENCODE = ("datasets/masks.py", "datasets/encode.py")


@dataclass(frozen=True)
class MethodScript:
    """The parts of a script that a method decides; `prepare` is the source of `prepare(rows, tokenizer, split)`.

    `carried` are modules of this package whose source the script has; `options` are further arguments of the trainer,
    `before` lines ahead of it. `adapter_by_trl`: TRL adds a new adapter itself, so that the base is the reference.
    """

    config_class: str
    trainer_class: str
    values: dict[str, Any]
    prepare: str
    imports: tuple[str, ...] = ()
    carried: tuple[str, ...] = ENCODE
    options: tuple[str, ...] = ()
    before: tuple[str, ...] = ()
    adapter_by_trl: bool = False
    after: str = field(default="")
    """Source behind `prepare`: the trainer's class, where it is not TRL's own."""


def method_script(config: OpenSlothConfig, training_args: TrainingArguments, device: str) -> MethodScript:
    """The method's parts for a resolved config; raises KeyError for a method that has no script."""
    made: Callable[[OpenSlothConfig, TrainingArguments, str], MethodScript] = METHODS[config.training_type]
    return made(config, training_args, device)


def _sft(config: OpenSlothConfig, training_args: TrainingArguments, device: str) -> MethodScript:
    longest = config.fast_model_args.max_seq_length
    if config.filter_overlength_samples:
        fit = f"samples = [s for s in samples if len(s.input_ids) <= {longest}]"
    else:
        fit = f"samples = [Encoded(s.input_ids[:{longest}], s.labels[:{longest}]) for s in samples]"
    lines = [
        'def prepare(rows: list, tokenizer: Any, split: str = "train") -> Dataset:',
        f"    samples = encode_sft(rows, tokenizer, {config.loss_on!r})",
        f"    {fit}",
        "    samples = [s for s in samples if any(label != IGNORE for label in s.labels)]",
    ]
    if config.sequence_packing:
        lines += [
            f"    groups = pack([len(s.input_ids) for s in samples], {longest})",
            "    packed = [",
            "        {",
            '            "input_ids": [token for i in group for token in samples[i].input_ids],',
            '            "labels": [label for i in group for label in samples[i].labels],',
            '            "seq_lengths": [len(samples[i].input_ids) for i in group],',
            "        }",
            "        for group in groups",
            "    ]",
            "    return Dataset.from_list(packed)",
        ]
    else:
        lines.append('    return Dataset.from_list([{"input_ids": s.input_ids, "labels": s.labels} for s in samples])')
    collator = ("data_collator=PackedCollator(tokenizer.pad_token_id, counts=False),",)
    return MethodScript(
        config_class="SFTConfig",
        trainer_class="SFTTrainer",
        values=sft_arguments(training_args, device),
        prepare="\n".join(lines),
        imports=("from trl import SFTConfig, SFTTrainer",),
        carried=(*ENCODE, "datasets/pack.py", "datasets/collate.py"),
        options=collator if config.sequence_packing else (),
    )


def _pairs(config: OpenSlothConfig, own: Any) -> str:
    prompt = "p.prompt_ids" if own.max_prompt_length is None else f"p.prompt_ids[-{own.max_prompt_length}:]"
    keep = "max(len(chosen), len(rejected)) <= room" if config.filter_overlength_samples else "room > 0"
    return f"""def prepare(rows: list, tokenizer: Any, split: str = "train") -> Dataset:
    pairs = []
    for p in encode_dpo(rows, tokenizer):
        prompt, chosen, rejected = {prompt}, p.chosen_ids, p.rejected_ids
        room = {own.max_length} - len(prompt)
        if {keep} and chosen and rejected:
            pairs.append({{"prompt_ids": prompt, "chosen_ids": chosen[:room], "rejected_ids": rejected[:room]}})
    return Dataset.from_list(pairs)"""


def _dpo(config: OpenSlothConfig, training_args: TrainingArguments, device: str) -> MethodScript:
    assert config.dpo_args is not None
    return MethodScript(
        config_class="DPOConfig",
        trainer_class="PairTrainer",
        values=dpo_arguments(training_args, device, config.dpo_args),
        prepare=_pairs(config, config.dpo_args),
        imports=("from trl import DPOConfig, DPOTrainer",),
        adapter_by_trl=True,
        after=f"""{body(PACKAGE / "training/methods/pairs.py")}


class PairTrainer(MeanOverPairs, DPOTrainer):
    def _prepare_dataset(self, dataset, *args, **kwargs):
        return dataset  # the pairs are tokenized, with their prompts cut""",
    )


def _orpo(config: OpenSlothConfig, training_args: TrainingArguments, device: str) -> MethodScript:
    assert config.orpo_args is not None
    return MethodScript(
        config_class="ORPOConfig",
        trainer_class="WholeStepTrainer",
        values=orpo_arguments(training_args, device, config.orpo_args),
        prepare=_pairs(config, config.orpo_args),
        imports=(
            "from torch.nn.functional import logsigmoid",
            "from trl.experimental.orpo import ORPOConfig, ORPOTrainer",
            "from trl.trainer.dpo_trainer import DataCollatorForPreference",
            "from trl.trainer.utils import selective_log_softmax",
        ),
        after=_whole_steps("orpo_loss.py", "class WholeStepTrainer(WholeStepORPO, ORPOTrainer):"),
    )


def _kto(config: OpenSlothConfig, training_args: TrainingArguments, device: str) -> MethodScript:
    kto = config.kto_args
    assert kto is not None
    prompt = "" if kto.max_prompt_length is None else f"[-{kto.max_prompt_length}:]"
    keep = "len(answer) <= room" if config.filter_overlength_samples else "room > 0"
    prepare = f"""def prepare(rows: list, tokenizer: Any, split: str = "train") -> Dataset:
    kept = []
    for row, (prompt, (answer,)) in zip(rows, encode_answers(rows, tokenizer, ("completion",)), strict=True):
        prompt = prompt{prompt}
        room = {kto.max_length} - len(prompt)
        if {keep} and answer:
            kept.append({{"prompt_ids": prompt, "completion_ids": answer[:room], "label": bool(row["label"])}})
    if split != "train":
        others = [row["completion_ids"] for row in kept]
        for row, other in zip(kept, [others[-1], *others[:-1]], strict=True):
            row["KL_completion_ids"] = other[: {kto.max_length} - len(row["prompt_ids"])]
    return Dataset.from_list(kept)


{function(PACKAGE / "datasets/unpaired.py", "balanced_weights")}"""
    given = f"{kto.desirable_weight!r}, {kto.undesirable_weight!r}"
    return MethodScript(
        config_class="KTOConfig",
        trainer_class="WholeStepTrainer",
        values=kto_arguments(training_args, device, kto, (1.0, 1.0)),
        prepare=prepare,
        imports=(
            "import contextlib",
            "from collections.abc import Iterator",
            "from accelerate.utils import gather_object",
            "from torch.nn.functional import sigmoid",
            "from torch.nn.utils.rnn import pad_sequence",
            "from trl import KTOConfig, KTOTrainer",
            "from trl.trainer.kto_trainer import DataCollatorForUnpairedPreference",
            "from trl.trainer.utils import selective_log_softmax, use_adapter",
        ),
        options=("data_collator=UnpairedCollator(tokenizer.pad_token_id),",),
        before=(
            f'weights = balanced_weights(train_dataset["label"], {given})',
            "arguments.desirable_weight, arguments.undesirable_weight = weights",
        ),
        adapter_by_trl=True,
        after=_whole_steps("kto_loss.py", "class WholeStepTrainer(WholeStepKTO, KTOTrainer):"),
    )


def _whole_steps(loss: str, trainer: str) -> str:
    folder = PACKAGE / "training/methods"
    return "\n\n\n".join(
        [
            body(folder / "whole_steps.py"),
            body(folder / loss),
            f'{trainer}\n    """TRL\'s trainer, with a loss that is a mean over the whole step."""',
        ]
    )


def _grpo(config: OpenSlothConfig, training_args: TrainingArguments, device: str) -> MethodScript:
    grpo = config.grpo_args
    assert grpo is not None
    rewards = render_rewards(grpo.reward_functions)
    keep = ""
    if grpo.max_prompt_length is not None and config.filter_overlength_samples:
        lengths = "[len(ids) for ids, _ in encode_answers(rows, tokenizer, ())]"
        keep = f"    rows = [row for row, n in zip(rows, {lengths}, strict=True) if n <= {grpo.max_prompt_length}]\n"
    prepare = f"""def prepare(rows: list, tokenizer: Any, split: str = "train") -> Dataset:
{keep}    return Dataset.from_dict({{"row": [json.dumps(row) for row in rows]}})


{rewards.source}"""
    values = grpo_arguments(training_args, device, grpo, [spec.weight for spec in grpo.reward_functions])
    longest = grpo.max_prompt_length
    return MethodScript(
        config_class="GRPOConfig",
        trainer_class="RowTrainer",
        values=values,
        prepare=prepare,
        imports=(
            "from collections.abc import Iterator",
            "from trl import GRPOConfig, GRPOTrainer",
            "from trl.trainer.utils import RepeatSampler",
            *rewards.imports,
        ),
        options=("reward_funcs=REWARDS,",),
        adapter_by_trl=True,
        after=f"""{function(PACKAGE / "training/methods/rollouts.py", "EpochSampler")}


class RowTrainer(GRPOTrainer):
    def _get_train_sampler(self, dataset=None):
        t = super()._get_train_sampler(dataset)
        shape = (t.data_source, t.mini_repeat_count, t.batch_size, t.repeat_count, t.shuffle)
        return EpochSampler(*shape, self.args.data_seed)

    def _generate_and_score_completions(self, inputs):
        rows = [json.loads(row["row"]) for row in inputs]
        columns = dict.fromkeys(name for row in rows for name in row)
        return super()._generate_and_score_completions([{{name: row.get(name) for name in columns}} for row in rows])

    def _tokenize_prompts(self, prompts):
        ids, *others = super()._tokenize_prompts(prompts)
        return ([some[-{longest or 0}:] for some in ids], *others)""",
    )


METHODS: dict[str, Callable[[OpenSlothConfig, TrainingArguments, str], MethodScript]] = {
    "sft": _sft,
    "dpo": _dpo,
    "kto": _kto,
    "orpo": _orpo,
    "grpo": _grpo,
}
