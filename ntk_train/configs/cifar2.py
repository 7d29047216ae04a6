"""CIFAR-2: two classes of CIFAR-10, aeroplanes and automobiles unless told otherwise.

    ntk-train data prepare cifar2
    ntk-train --config=cifar2 --workdir=runs/cifar2
    ntk-train --config=cifar2:wrn-28-10 --workdir=runs/wrn \
        --config.dataset.kwargs.classes="('cat', 'dog')"
    ntk-train --config=cifar2:smoke --workdir=runs/smoke

Models and where their hyper-parameters come from:

    cnn20                        K. He et al., *Deep Residual Learning for Image Recognition*, CVPR
                                 2016, section 4.2: 64 000 steps at batch 128 on ten classes; here
                                 as many epochs
    wrn-28-10, wrn-16-4          S. Zagoruyko, N. Komodakis, *Wide Residual Networks*, BMVC 2016,
                                 section 3
    cnn, fcn                     chosen here

Hardware and run time: one GPU; not measured. The smoke run: 2 CPU cores, less than a minute.
Number to expect: not measured; a smoke run ends with "Done, 3 steps".
"""

from ml_collections import ConfigDict

from ntk_train.configs import recipes

TRAIN_SIZE = 10_000


def get_config(arg: str | None = None) -> ConfigDict:
    """The config of a model, locked; see `ntk_train.configs.recipes` for `arg`."""
    models = {
        "cnn20": _plain,
        "wrn-28-10": _wide,
        "wrn-16-4": _wide,
        "cnn": _small,
        "fcn": _small,
    }
    return recipes.get_config(arg, models, {"image_shape": (32, 32, 3), "num_classes": 2})


def _dataset(config: ConfigDict) -> None:
    recipes.set_dataset(config, "cifar2", classes=("airplane", "automobile"))
    config.ntk.every_steps = 200


def _plain(config: ConfigDict) -> None:
    _dataset(config)
    recipes.set_length(config, train_size=TRAIN_SIZE, batch_size=128, epochs=164)
    recipes.set_sgd(config, learning_rate=0.1, weight_decay=1e-4, at=(0.5, 0.75))


def _wide(config: ConfigDict) -> None:
    _dataset(config)
    recipes.set_length(config, train_size=TRAIN_SIZE, batch_size=128, epochs=200)
    recipes.set_sgd(
        config, learning_rate=0.1, weight_decay=5e-4, at=(0.3, 0.6, 0.8), factor=0.2, nesterov=True
    )


def _small(config: ConfigDict) -> None:
    _dataset(config)
    recipes.set_length(config, train_size=TRAIN_SIZE, batch_size=128, epochs=50)
    recipes.set_adamw(config, learning_rate=1e-3, weight_decay=1e-4)
