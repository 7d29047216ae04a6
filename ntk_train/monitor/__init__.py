"""From a training loop to TensorBoard: when to measure, what to write, and to survive failures.

schedule, overhead   when                      worker     the thread beside the loop
kernels, program     the kernel, compiled      failures   what went wrong
measure, history     its numbers               summaries  scalars, pictures and texts of a writer
pipeline             all of that for a probe   tags       names of numbers there
hook, probes         one probe, several        dashboard  their charts there
adapters             Flax models as f          switches   JAX's global ones
"""

from ntk_train.monitor.adapters import linen_fn as linen_fn
from ntk_train.monitor.adapters import nnx_fn as nnx_fn
from ntk_train.monitor.convention import Convention as Convention
from ntk_train.monitor.dashboard import write_layout as write_layout
from ntk_train.monitor.event_files import TensorBoardWriter as TensorBoardWriter
from ntk_train.monitor.event_files import tensorboard_writer as tensorboard_writer
from ntk_train.monitor.hook import NTKHook as NTKHook
from ntk_train.monitor.measure import Measurement as Measurement
from ntk_train.monitor.probes import HookSet as HookSet
from ntk_train.monitor.probes import hooks_for as hooks_for
from ntk_train.monitor.probes import split_by_class as split_by_class
