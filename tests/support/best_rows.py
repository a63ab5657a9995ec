"""A training type from outside the package: fine-tuning on the rows whose `score` is high enough."""

from pydantic import BaseModel

from opensloth.datasets import forms
from opensloth.methods import Method, register_method
from opensloth.trainer_factory import trainer_factory_map


class BestRowsArgs(BaseModel):
    least: float = 0.5


register_method(
    Method("best_rows", "fine-tuning on the best rows", args_field="method_args", args_class=BestRowsArgs, packs=True)
)
forms.METHODS["best_rows"] = forms.METHODS["sft"]


def create_best_rows_trainer(model, tokenizer, dataset, resolved):
    from opensloth.training.methods.sft import create_sft_trainer

    least = resolved.opensloth_config.method_args["least"]
    best = {split: [row for row in rows if row["score"] >= least] for split, rows in dataset.items()}
    return create_sft_trainer(model, tokenizer, best, resolved)


trainer_factory_map["best_rows"] = create_best_rows_trainer
