"""The layout of TensorBoard's tab "Custom Scalars": the kernel's numbers, a few to a chart.

    writer  ->  write_layout  ->  one summary in the run's own event file

The summary goes through the run's writer, as TensorBoard reads the event files of a folder one
after the other and takes an older one for finished. It needs the package tensorboard alone, whose
protocol buffers it uses; no TensorFlow.
"""

import importlib.util
from typing import Any

from ntk_train.monitor.tags import pattern
from ntk_train.monitor.writers import TagWriter, method_of
from ntk_train.spectrum.quantities import CATALOGUE, Quantity

_TRAINING = (("Loss", ".*loss"), ("Accuracy", ".*accuracy"))


def layout(prefix: str = "ntk") -> Any:
    """The charts, as the `Layout` of TensorBoard's plugin: a category for the kernel, one beside.

    Args:
      prefix: of the hook's tags.

    Raises:
      ModuleNotFoundError: tensorboard is not installed.
    """
    from tensorboard.plugins.custom_scalar import layout_pb2

    def chart(title: str, tags: str) -> Any:
        lines = layout_pb2.MultilineChartContent(tag=[tags])
        return layout_pb2.Chart(title=title, multiline=lines)

    panels: dict[str, list[Quantity]] = {}
    for entry in CATALOGUE:
        if entry.panel:
            panels.setdefault(entry.panel, []).append(entry)
    kernel = [
        chart(title, pattern(prefix, [each.name for each in drawn], layers=drawn[0].of_layer))
        for title, drawn in panels.items()
    ]
    training = [chart(title, f"^{tags}$") for title, tags in _TRAINING]
    title = "NTK" if prefix == "ntk" else f"NTK: {prefix}"
    return layout_pb2.Layout(
        category=[
            layout_pb2.Category(title=title, chart=kernel),
            layout_pb2.Category(title="Training", chart=training, closed=True),
        ]
    )


def write_layout(writer: object, prefix: str = "ntk") -> bool:
    """Writes the layout once, for "Custom Scalars".

    Args:
      writer: with clu's `write_summaries`, which `TensorBoardWriter` has too; or a `TagWriter`.
      prefix: of the hook's tags.

    Returns:
      Whether it was written: False without the package tensorboard, and for a writer that takes
      no summaries.
    """
    if importlib.util.find_spec("tensorboard") is None:
        return False
    write = method_of(writer, "write_summaries")
    if write is None:
        if isinstance(writer, TagWriter):
            writer.write_charts(_as_lists(layout(prefix)))
        return isinstance(writer, TagWriter)
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
