"""Modules from outside the package that add training types: `OPENSLOTH_PLUGINS` names them.

A plugin is imported by the API, the worker and every trainer, so it imports torch and TRL inside of its functions:

    from opensloth.datasets import forms
    from opensloth.methods import Method, register_method
    from opensloth.trainer_factory import trainer_factory_map

    register_method(Method(name="mine", title="my method"))
    forms.METHODS["mine"] = (forms.TEXT,)
    trainer_factory_map["mine"] = create_my_trainer
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable


def load_plugins(modules: Iterable[str]) -> None:
    """Import each; raises ModuleNotFoundError, or what a module raises: a process without its methods is no use."""
    for name in modules:
        importlib.import_module(name)
