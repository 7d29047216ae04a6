"""The layout of TensorBoard's tab "Custom Scalars": the kernel's numbers, a few to a chart.

    writer  ->  write_layout  ->  one summary in the run's own event file

The summary goes through the run's writer, as TensorBoard reads the event files of a folder one
after the other and takes an older one for finished. It needs the package tensorboard alone, whose
protocol buffers it uses; no TensorFlow.
"""

import importlib.util
import re
from typing import Any

from ntk_train.monitor.writers import TagWriter

# Title and tags of each chart, after the prefix and the name of a further probe. Axes are linear at
# first, so together is only what is of one size.
_CHARTS = (
    ("Largest eigenvalue", "lambda_max"),
    ("Smallest eigenvalue and noise floor", "lambda_min|noise_floor"),
    ("Condition number", "condition_number"),
    ("Condition number is a lower bound (1) or not (0)", "condition_is_lower_bound"),
    ("Trace", "trace"),
    ("Ranks: effective, entropy", "effective_rank|entropy_rank"),
    ("Rank: numerical", "numerical_rank"),
    ("Decay of the spectrum: exponent, R²", "power_law_exponent|power_law_r_squared"),
    (
        "Alignment with the labels",
        "kernel_target_alignment|centred_kernel_target_alignment|top_space_alignment",
    ),
    ("Relative change since the first kernel", "relative_change"),
    ("Kernel distance to the first kernel", "kernel_distance"),
    ("Velocity, per step", "kernel_velocity"),
    ("Rotation of the top space, radians", "rotation|rotation_since_previous"),
    ("Learning rate over the critical one", "learning_rate_ratio"),
    ("Critical learning rate", "critical_learning_rate"),
    ("Layers: share of the trace", "_layers/.+/trace_share"),
    ("Layers: largest eigenvalue", "_layers/.+/lambda_max"),
    ("Cost: share of the run's time", "time_share"),
    ("Cost: seconds", "seconds"),
    ("Failures", "failures"),
)
_TRAINING = (("Loss", ".*loss"), ("Accuracy", ".*accuracy"))


def layout(prefix: str = "ntk") -> Any:
    """The charts, as the `Layout` of TensorBoard's plugin: a category for the kernel, one beside.

    Args:
      prefix: of the hook's tags.

    Raises:
      ModuleNotFoundError: tensorboard is not installed.
    """
    from tensorboard.plugins.custom_scalar import layout_pb2

    def chart(title: str, pattern: str) -> Any:
        lines = layout_pb2.MultilineChartContent(tag=[pattern])
        return layout_pb2.Chart(title=title, multiline=lines)

    start = f"^{re.escape(prefix)}(_[^/]+)?"
    kernel = [
        chart(title, f"{start}{names}$" if names.startswith("_") else f"{start}/({names})$")
        for title, names in _CHARTS
    ]
    training = [chart(title, f"^{pattern}$") for title, pattern in _TRAINING]
    title = "NTK" if prefix == "ntk" else f"NTK: {prefix}"
    return layout_pb2.Layout(
        category=[
            layout_pb2.Category(title=title, chart=kernel),
            layout_pb2.Category(title="Training", chart=training, closed=True),
        ]
    )


def write_layout(writer: Any, prefix: str = "ntk") -> bool:
    """Writes the layout once, for "Custom Scalars".

    Args:
      writer: with clu's `write_summaries`, which `TensorBoardWriter` has too; or a `TagWriter`.
      prefix: of the hook's tags.

    Returns:
      Whether it was written: False without the package tensorboard, and for a writer that takes
      no summaries.
    """
    write = getattr(writer, "write_summaries", None)
    if importlib.util.find_spec("tensorboard") is None:
        return False
    if write is None and isinstance(writer, TagWriter):
        writer.write_charts(_as_lists(layout(prefix)))
        return True
    if write is None:
        return False
    import numpy as np
    from tensorboard.plugins.custom_scalar import metadata

    tag = metadata.CONFIG_SUMMARY_TAG
    value = np.array(layout(prefix).SerializeToString(), dtype=object)
    write(0, {tag: value}, {tag: metadata.create_summary_metadata()})
    return True


def _as_lists(layout: Any) -> dict[str, dict[str, list[Any]]]:
    """A `Layout` as `add_custom_scalars` of a `SummaryWriter` takes it."""
    return {
        category.title: {
            chart.title: ["Multiline", list(chart.multiline.tag)] for chart in category.chart
        }
        for category in layout.category
    }
