"""The trainer: from a config and a folder to a trained network and its measurements.

    config  ->  setup       data set, model, optimizer, probe
            ->  step        one update, one evaluation
            ->  run         `train_and_evaluate`: begun, or continued from its folder
            ->  loop        logs, kernels, checkpoints, table
            ->  workdir     event files, checkpoints/, config.json

Needs the [train] extra; it is imported by `ntk_train.main`, and by nothing in the core.
"""

from ntk_train.train.config import ConfigError as ConfigError
from ntk_train.train.endings import InterruptedRunError as InterruptedRunError
from ntk_train.train.endings import NonFiniteLossError as NonFiniteLossError
from ntk_train.train.endings import NotSavedError as NotSavedError
from ntk_train.train.endings import UnfinishedRunError as UnfinishedRunError
from ntk_train.train.interruption import Interruption as Interruption
from ntk_train.train.run import train_and_evaluate as train_and_evaluate
from ntk_train.train.state import TrainState as TrainState
