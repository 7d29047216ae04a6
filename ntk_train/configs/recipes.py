"""What the config files of the data sets share: their argument, epochs as steps, smoke runs.

The argument of each is `MODEL`, `MODEL,smoke` or `smoke`. A smoke run takes a narrow version of the
model through three steps on made-up images: it shows in less than a minute on any machine that a
config works, and its numbers mean nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from ntk_train._registry import unknown
from ntk_train.configs import default
from ntk_train.models import MODELS, Mixer, ResNet, ViT, WideResNet

Recipe = Callable[[ConfigDict], None]
"""Sets the hyper-parameters of a model in the default config."""


def get_config(arg: str | None, recipes: Mapping[str, Recipe], smoke: Mapping[str, Any]) -> Any:
    """The config of a model with its recipe, locked.

    Args:
      arg: `MODEL`, `MODEL,smoke`, `smoke` or None; the first of the recipes is the default model.
      recipes: for each model that the data set is trained on, what it changes.
      smoke: arguments of `load_synthetic` for smoke runs.

    Raises:
      ValueError: no recipe for this model; the text lists those that there are.
    """
    words = [word for word in (arg or "").split(",") if word]
    names = [word for word in words if word != "smoke"] or [next(iter(recipes))]
    for name in names:
        if name not in recipes:
            raise ValueError(unknown("word", name, [*recipes, "smoke"]))
    if len(names) > 1:
        msg = (
            f"the text after the config's name is {arg!r}; expected a model, one of "
            f"{', '.join(recipes)}, and ',smoke' for a try on made-up images."
        )
        raise ValueError(msg)
    config = default.get_config(names[0])
    with config.unlocked():
        recipes[names[0]](config)
        if "smoke" in words:
            _make_smoke(config, smoke)
    return config


def set_length(
    config: ConfigDict, *, train_size: int, batch_size: int, epochs: float, warmup_epochs: float = 0
) -> None:
    """Sets the batch size, the number of steps and of steps of warm-up; evaluates each epoch."""
    steps = train_size / batch_size
    config.batch_size = batch_size
    config.num_train_steps = round(epochs * steps)
    config.optimizer.warmup_steps = round(warmup_epochs * steps)
    config.eval_every_steps = config.checkpoint_every_steps = round(steps)


def set_sgd(
    config: ConfigDict,
    *,
    learning_rate: float,
    weight_decay: float,
    at: Sequence[float] = (),
    factor: float = 0.1,
    nesterov: bool = False,
) -> None:
    """Momentum 0.9, and a rate that falls by a factor at given fractions of the run."""
    config.optimizer.update(
        name="sgd",
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        schedule="step",
        step_fractions=tuple(at),
        step_factor=factor,
        nesterov=nesterov,
    )


def set_adamw(
    config: ConfigDict, *, learning_rate: float, weight_decay: float, clip_norm: float = 0.0
) -> None:
    """AdamW with a cosine schedule."""
    config.optimizer.update(
        name="adamw",
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        schedule="cosine",
        clip_norm=clip_norm,
    )


def set_dataset(config: ConfigDict, name: str, **kwargs: Any) -> None:
    """Takes another data set than the default one's."""
    config.dataset.name = name
    config.dataset.kwargs = ConfigDict(kwargs)


def _make_smoke(config: ConfigDict, images: Mapping[str, Any]) -> None:
    set_dataset(config, "synthetic", train_size=32, test_size=16, **images)
    config.num_train_steps, config.batch_size, config.eval_batch_size = 3, 8, 8
    config.optimizer.warmup_steps = min(config.optimizer.warmup_steps, 1)
    config.log_every_steps = 1
    config.eval_every_steps = config.checkpoint_every_steps = config.ntk.every_steps = 3
    config.ntk.probe_size = 4
    config.model.kwargs.update(_narrow(config.model.name, config.model.kwargs))


def _narrow(name: str, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes of a narrow, shallow model of the same family."""
    family = MODELS[name].family
    if family is ResNet:
        return {"features": 4, "stages": (1,) * len(kwargs["stages"])}
    if family is WideResNet:
        return {"features": 4, "depth": 10, "widen_factor": 1}
    if family is ViT:
        patches: dict[str, Any] = {"patch_size": 8}
        if kwargs["stem_stages"]:
            patches = {"stem_features": 4, "stem_stages": (1, 1)}
        return {"width": 16, "depth": 1, "num_heads": 2, **patches}
    if family is Mixer:
        return {"width": 16, "depth": 1, "tokens_dim": 8, "channels_dim": 16, "patch_size": 8}
    if "features" in kwargs:
        return {"features": (4,) * len(kwargs["features"])}
    return {"widths": (8, 8)}
