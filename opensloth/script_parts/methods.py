"""What a bare TRL script needs of each training method. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from opensloth.opensloth_config import OpenSlothConfig, TrainingArguments
from opensloth.script_parts.carry import Name
from opensloth.script_parts.rewards import render_rewards
from opensloth.trl_arguments import dpo_arguments, grpo_arguments, kto_arguments, orpo_arguments, sft_arguments

ENCODE = "opensloth.datasets.encode"
LOSSES = "opensloth.training.methods"


@dataclass(frozen=True)
class MethodScript:
    """The parts of a script that a method decides; `prepare` is the source of `prepare(rows, tokenizer, split)`.

    `roots` are what it uses of this package, whose source the script has, and `replaced` and `also` go with them as
    `Carried` takes them. `options` are further arguments of the trainer, `before` lines ahead of it, `flags` further
    ones of the command line. `adapter_by_trl`: TRL adds a new adapter itself, so that the base is the reference.
    """

    config_class: str
    trainer_class: str
    values: dict[str, Any]
    prepare: str
    imports: tuple[str, ...] = ()
    roots: tuple[Name, ...] = ()
    replaced: dict[Name, str] = field(default_factory=dict)
    also: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    first: tuple[str, ...] = ()
    """Lines ahead of the data."""
    before: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    adapter_by_trl: bool = False
    after: str = ""
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
            "    if PACKS:",
            f"        return Dataset.from_list(packed(samples, {longest}))",
        ]
    lines.append('    return Dataset.from_list([{"input_ids": s.input_ids, "labels": s.labels} for s in samples])')
    roots: list[Name] = [(ENCODE, name) for name in ("encode_sft", "IGNORE", "Encoded")]
    if config.sequence_packing:
        roots += [("opensloth.datasets.pack", "pack"), ("opensloth.datasets.collate", "PackedCollator")]
        roots.append(("opensloth.training.packing_check", "keeps_samples_apart"))
    return MethodScript(
        config_class="SFTConfig",
        trainer_class="SFTTrainer",
        values=sft_arguments(training_args, device),
        prepare="\n".join(lines) + (PACKED if config.sequence_packing else ""),
        imports=("from trl import SFTConfig", "from trl import SFTTrainer"),
        roots=tuple(roots),
        options=("data_collator=collator,",) if config.sequence_packing else (),
        first=PACKS if config.sequence_packing else (),
    )


PACKS = (
    "global PACKS",
    "PACKS = keeps_samples_apart(model)  # else the job's rows were not packed either",
    "collator = PackedCollator(tokenizer.pad_token_id, counts=False) if PACKS else None",
)
PACKED = """


PACKS = True


def packed(samples: list, capacity: int) -> list:
    return [
        {
            "input_ids": [token for i in group for token in samples[i].input_ids],
            "labels": [label for i in group for label in samples[i].labels],
            "seq_lengths": [len(samples[i].input_ids) for i in group],
        }
        for group in pack([len(s.input_ids) for s in samples], capacity)
    ]"""


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
        imports=("from trl import DPOConfig", "from trl import DPOTrainer"),
        roots=((ENCODE, "encode_dpo"), (f"{LOSSES}.pairs", "MeanOverPairs")),
        adapter_by_trl=True,
        after="""class PairTrainer(MeanOverPairs, DPOTrainer):
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
        imports=("from trl.experimental.orpo import ORPOConfig", "from trl.experimental.orpo import ORPOTrainer"),
        roots=((ENCODE, "encode_dpo"), (f"{LOSSES}.orpo_loss", "WholeStepORPO")),
        after=_whole_steps("WholeStepORPO, ORPOTrainer"),
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
    return Dataset.from_list(kept)"""
    given = f"{kto.desirable_weight!r}, {kto.undesirable_weight!r}"
    return MethodScript(
        config_class="KTOConfig",
        trainer_class="WholeStepTrainer",
        values=kto_arguments(training_args, device, kto, (1.0, 1.0)),
        prepare=prepare,
        imports=("from trl import KTOConfig", "from trl import KTOTrainer"),
        roots=(
            (ENCODE, "encode_answers"),
            ("opensloth.datasets.unpaired", "balanced_weights"),
            (f"{LOSSES}.kto_loss", "WholeStepKTO"),
            (f"{LOSSES}.kto_loss", "UnpairedCollator"),
        ),
        options=("data_collator=UnpairedCollator(tokenizer.pad_token_id),",),
        before=(
            f'weights = balanced_weights(train_dataset["label"], {given})',
            "arguments.desirable_weight, arguments.undesirable_weight = weights",
        ),
        adapter_by_trl=True,
        after=_whole_steps("WholeStepKTO, KTOTrainer"),
    )


def _whole_steps(bases: str) -> str:
    return f'''class WholeStepTrainer({bases}):
    """TRL's trainer, with a loss that is a mean over the whole step."""'''


def _grpo(config: OpenSlothConfig, training_args: TrainingArguments, device: str) -> MethodScript:
    grpo = config.grpo_args
    assert grpo is not None
    rewards = render_rewards(grpo.reward_functions)
    longest = grpo.max_prompt_length
    keep, roots = "", list(rewards.roots)
    if longest is not None and config.filter_overlength_samples:
        lengths = "[len(ids) for ids, _ in encode_answers(rows, tokenizer, ())]"
        keep = f"    rows = [row for row, n in zip(rows, {lengths}, strict=True) if n <= {longest}]\n"
        roots.append((ENCODE, "encode_answers"))
    prepare = f"""def prepare(rows: list, tokenizer: Any, split: str = "train") -> Dataset:
{keep}    return Dataset.from_dict({{"row": [json.dumps(row, ensure_ascii=False, default=str) for row in rows]}})


{rewards.source}"""
    cut = "" if longest is None else CUT_PROMPTS.format(longest=longest)
    flag = """parser.add_argument("--rewards-dir", default="rewards", help="folder with the server's rewards files")"""
    roots += [
        (f"{LOSSES}.rollouts", "EpochSampler"),
        ("opensloth.rewards.length", "TOKEN_COUNT"),
        ("opensloth.rewards.trl_adapter", "text_of"),
    ]
    return MethodScript(
        config_class="GRPOConfig",
        trainer_class="RowTrainer",
        values=grpo_arguments(training_args, device, grpo, [spec.weight for spec in grpo.reward_functions]),
        prepare=prepare,
        imports=("from trl import GRPOConfig", "from trl import GRPOTrainer"),
        roots=tuple(roots),
        replaced=rewards.replaced,
        also=rewards.also,
        first=(f"judges = rewards({'options.rewards_dir' if rewards.uses_files else repr('')})",),
        options=("reward_funcs=judges,",),
        flags=(flag,) if rewards.uses_files else (),
        adapter_by_trl=True,
        after=ROW_TRAINER + cut,
    )


ROW_TRAINER = '''class RowTrainer(GRPOTrainer):
    """TRL's trainer, whose rewards see each row as it is in the file."""

    def _get_train_sampler(self, dataset=None):
        t = super()._get_train_sampler(dataset)
        shape = (t.data_source, t.mini_repeat_count, t.batch_size, t.repeat_count, t.shuffle)
        return EpochSampler(*shape, self.args.data_seed)

    def _generate_and_score_completions(self, inputs):
        self._rows = [json.loads(row["row"]) for row in inputs]
        return super()._generate_and_score_completions([{"prompt": row["prompt"]} for row in self._rows])

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
        answers = [text_of(completion) for completion in completions]
        rows = [row | {TOKEN_COUNT: len(ids)} for row, ids in zip(self._rows, completion_ids_list, strict=True)]
        scores = [judge(answers, rows) for judge in self.reward_funcs]
        return torch.tensor(scores, dtype=torch.float32, device=self.accelerator.device).T.contiguous()'''
CUT_PROMPTS = """

    def _tokenize_prompts(self, prompts):
        ids, *others = super()._tokenize_prompts(prompts)
        return ([some[-{longest}:] for some in ids], *others)"""


METHODS: dict[str, Callable[[OpenSlothConfig, TrainingArguments, str], MethodScript]] = {
    "sft": _sft,
    "dpo": _dpo,
    "kto": _kto,
    "orpo": _orpo,
    "grpo": _grpo,
}
