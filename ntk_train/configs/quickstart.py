"""The quickstart: a small CNN learns to tell two handwritten digits apart.

    ntk-train --config=quickstart --workdir=runs/quickstart

Real images from inside scikit-learn's wheel, no download. `--config=quickstart:ten`
takes all ten digits.

Hardware and run time: 2 CPU cores, 13 to 17 seconds, start-up and compilation included
(ten digits: 19).
Number to expect: 100 % test accuracy (108 images; 12 of 13 seeds and splits, the other 99.1 %), and
a condition number that rises from 3e3 - 4e3 to 5e3 - 9e3 (seeds 0 to 4). Ten digits: 98 % of 539.
"""

from ml_collections import ConfigDict

from ntk_train._registry import unknown
from ntk_train.configs import default


def get_config(arg: str | None = None) -> ConfigDict:
    """The default config with a kernel and an evaluation every few steps, locked.

    Args:
      arg: "two" digits, the default, or "ten".

    Raises:
      ValueError: another arg.
    """
    if arg not in (None, "two", "ten"):
        raise ValueError(unknown("number of digits", arg, ("two", "ten")))
    config = default.get_config("cnn")
    config.num_train_steps = 300
    config.log_every_steps = 5
    config.eval_every_steps = config.ntk.every_steps = 25
    config.checkpoint_every_steps = 100
    config.ntk.per_layer, config.ntk.probes = True, ("train", "test")
    if arg == "ten":
        config.dataset.kwargs.classes = None
        config.optimizer.learning_rate = 1e-2
        config.num_train_steps = 600
        config.eval_every_steps = config.ntk.every_steps = 50
    return config
