"""Handwritten digits, ten classes, of 8 x 8 pixels.

    ntk-train --config=digits --workdir=runs/digits
    ntk-train --config=digits:fcn --workdir=runs/fcn

Models: cnn, fcn. The hyper-parameters are chosen here; any do.

Hardware and run time: 2 CPU cores, 20 seconds.
Number to expect: 98 % test accuracy (cnn, 539 images).
"""

from ml_collections import ConfigDict

from ntk_train.configs import recipes

TRAIN_SIZE = 1258


def get_config(arg: str | None = None) -> ConfigDict:
    """The config of a model, locked; see `ntk_train.configs.recipes` for `arg`."""
    models = {"cnn": _any, "fcn": _any}
    return recipes.get_config(arg, models, {"image_shape": (8, 8, 1), "num_classes": 4})


def _any(config: ConfigDict) -> None:
    config.dataset.kwargs.classes = None
    recipes.set_length(config, train_size=TRAIN_SIZE, batch_size=64, epochs=30)
    recipes.set_adamw(config, learning_rate=1e-2, weight_decay=1e-4)
    config.eval_every_steps = config.ntk.every_steps = 50
    config.ntk.probe_size = 60
