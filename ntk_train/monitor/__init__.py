"""From a training loop to TensorBoard: when to measure, what to write, and to survive failures."""

from ntk_train.monitor.adapters import linen_fn as linen_fn
from ntk_train.monitor.adapters import nnx_fn as nnx_fn
from ntk_train.monitor.convention import Convention as Convention
from ntk_train.monitor.dashboard import write_layout as write_layout
from ntk_train.monitor.event_files import TensorBoardWriter as TensorBoardWriter
from ntk_train.monitor.event_files import tensorboard_writer as tensorboard_writer
from ntk_train.monitor.hook import Measurement as Measurement
from ntk_train.monitor.hook import NTKHook as NTKHook
