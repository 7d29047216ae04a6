"""ImageNet (ILSVRC 2012) at 224 x 224.

    ntk-train data prepare imagenet2012 --manual_dir=DIR_WITH_THE_ARCHIVES
    ntk-train --config=imagenet --workdir=runs/resnet50
    ntk-train --config=imagenet:vit-s/16 --workdir=runs/vit
    ntk-train --config=imagenet:mixer-s/16,smoke --workdir=runs/smoke

Models and where their hyper-parameters come from:

    resnet-*, wide-resnet-*   P. Goyal et al., *Accurate, Large Minibatch SGD*, 2017, section 5.1:
                              0.1 for a batch of 256, by 0.1 after 30, 60 and 80 of 90 epochs, five
                              of warm-up
    vit-*, r50+vit-*, ...     L. Beyer, X. Zhai, A. Kolesnikov, *Better plain ViT baselines for
                              ImageNet-1k*, 2022: batch 1024, 90 epochs, 10 000 steps of warm-up,
                              rate 1e-3; their weight decay of 1e-4 is not multiplied with the
                              rate, ours is. Without their RandAugment and mixup
    mixer-*                   I. Tolstikhin et al., *MLP-Mixer*, NeurIPS 2021, appendix: weight
                              decay 0.1, rate 1e-3, 300 epochs; without RandAugment, mixup and
                              stochastic depth

The kernel is that of the sum of the outputs, on one image each of 64 classes.

Hardware and run time: one GPU; not measured. The smoke run: 2 CPU cores, about a minute.
Number to expect: not measured; a smoke run ends with "Done, 3 steps".
"""

from ml_collections import ConfigDict

from ntk_train.configs import recipes
from ntk_train.models import MODELS, Mixer, ResNet, ViT

TRAIN_SIZE = 1_281_167


def get_config(arg: str | None = None) -> ConfigDict:
    """The config of a model, locked; see `ntk_train.configs.recipes` for `arg`."""
    by_family = {ResNet: _residual, ViT: _transformer, Mixer: _mixer}
    models = {
        name: by_family[variant.family]
        for name, variant in MODELS.items()
        if variant.family in by_family
    }
    models = {"resnet-50": _residual, **models}  # the default first
    # Half the resolution in smoke runs: narrow models, but many pixels.
    return recipes.get_config(arg, models, {"image_shape": (64, 64, 3), "num_classes": 8})


def _dataset(config: ConfigDict) -> None:
    recipes.set_dataset(config, "imagenet2012", image_dtype="uint8")
    config.ntk.every_steps = 1000
    config.ntk.probe_size = 64
    config.ntk.outputs = "sum"


def _residual(config: ConfigDict) -> None:
    _dataset(config)
    recipes.set_length(config, train_size=TRAIN_SIZE, batch_size=256, epochs=90, warmup_epochs=5)
    recipes.set_sgd(
        config, learning_rate=0.1, weight_decay=1e-4, at=(30 / 90, 60 / 90, 80 / 90), nesterov=True
    )


def _transformer(config: ConfigDict) -> None:
    _dataset(config)
    recipes.set_length(config, train_size=TRAIN_SIZE, batch_size=1024, epochs=90)
    recipes.set_adamw(config, learning_rate=1e-3, weight_decay=0.1, clip_norm=1.0)
    config.optimizer.warmup_steps = 10_000


def _mixer(config: ConfigDict) -> None:
    _transformer(config)
    recipes.set_length(config, train_size=TRAIN_SIZE, batch_size=1024, epochs=300)
    config.optimizer.warmup_steps = 10_000
