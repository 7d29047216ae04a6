"""The trainer: from a config and a folder to a trained network and its measurements.

    config  ->  setup       data set, model, optimizer, probe
            ->  step        one update, one evaluation
            ->  loop        `train_and_evaluate`: logs, kernels, checkpoints, table
            ->  workdir     event files, checkpoints/, config.json

Needs the [train] extra; it is imported by `ntk_train.main`, and by nothing in the core.
"""

from ntk_train.train.config import ConfigError as ConfigError
from ntk_train.train.loop import NonFiniteLossError as NonFiniteLossError
from ntk_train.train.loop import train_and_evaluate as train_and_evaluate
from ntk_train.train.state import TrainState as TrainState
