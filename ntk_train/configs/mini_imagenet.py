"""MiniImageNet: 100 classes of ImageNet at 84 x 84, with a hold-out within each class.

    ntk-train data prepare mini_imagenet --manual_dir=DIR_WITH_ILSVRC2012_img_train.tar
    ntk-train --config=mini_imagenet --workdir=runs/mini
    ntk-train --config=mini_imagenet:resnet-18 --workdir=runs/resnet
    ntk-train --config=mini_imagenet:smoke --workdir=runs/smoke

Models and where their hyper-parameters come from:

    conv-4                  Adam at 1e-3, as in J. Snell, K. Swersky, R. Zemel, *Prototypical
                            Networks for Few-shot Learning*, NeurIPS 2017, section 3; epochs and
                            weight decay chosen here
    resnet-18, wrn-28-10    as on CIFAR in S. Zagoruyko, N. Komodakis, *Wide Residual Networks*,
                            BMVC 2016, section 3, with 100 epochs

Hardware and run time: one GPU; not measured. The smoke run: 2 CPU cores, less than a minute.
Number to expect: not measured; a smoke run ends with "Done, 3 steps".
"""

from ml_collections import ConfigDict

from ntk_train.configs import recipes

TRAIN_SIZE = 50_000


def get_config(arg: str | None = None) -> ConfigDict:
    """The config of a model, locked; see `ntk_train.configs.recipes` for `arg`."""
    models = {"conv-4": _conv, "resnet-18": _residual, "wrn-28-10": _residual}
    return recipes.get_config(arg, models, {"image_shape": (84, 84, 3), "num_classes": 4})


def _dataset(config: ConfigDict) -> None:
    recipes.set_dataset(config, "mini_imagenet", split="holdout", image_dtype="uint8")
    config.ntk.every_steps = 1000
    config.ntk.probe_size = 100
    config.ntk.outputs = "sum"


def _conv(config: ConfigDict) -> None:
    _dataset(config)
    recipes.set_length(config, train_size=TRAIN_SIZE, batch_size=128, epochs=60)
    recipes.set_adamw(config, learning_rate=1e-3, weight_decay=1e-4)


def _residual(config: ConfigDict) -> None:
    _dataset(config)
    recipes.set_length(config, train_size=TRAIN_SIZE, batch_size=128, epochs=100)
    recipes.set_sgd(
        config, learning_rate=0.1, weight_decay=5e-4, at=(0.3, 0.6, 0.8), factor=0.2, nesterov=True
    )
