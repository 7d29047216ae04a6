"""The page docs/models.md: the models by name, with the published numbers of their parameters.

    python -m experiments.model_table     # a second; writes the page

The numbers below come from their sources, not from the models; tests compare both.
"""

from collections.abc import Sequence
from typing import NamedTuple

from experiments.record import ROOT
from ntk_train.models import MODELS

PAGE = ROOT / "docs" / "models.md"


class Published(NamedTuple):
    """The number of parameters of a model, and where it stands.

    Attributes:
      name: of the model.
      parameters: how many trainable numbers.
      num_outputs: with which they are counted.
      pixels: of the image's sides; it has three channels.
      source: where the number stands.
    """

    name: str
    parameters: int
    num_outputs: int
    pixels: int
    source: str


_VISION = "torchvision, `num_params` of the weights' metadata"
_SLIM = "TF-Slim, table of pre-trained models (`resnet_v1_200`)"
_DEEPVISION = "DeepVision, table of architectures"
_DEEPVISION_TIMM = f"{_DEEPVISION}; timm, benchmark tables (in millions)"
_WRN = "computed from table 1 of Zagoruyko and Komodakis, 2016, whose table 5 has it in millions"
_OSMR = "imgclsmob, table of models for CIFAR-10"
_MIXER = "computed from table 1 of Tolstikhin et al., 2021"
_MIXER_TIMM = f"{_MIXER}; timm, benchmark tables (in millions)"
_HYBRID = "computed from section 3.1 of Dosovitskiy et al., 2021; timm, benchmark tables, has "
_STEINER = "computed from section 3.2 of Steiner et al., 2022; timm, benchmark tables (in millions)"
_PLAIN = "computed from section 4.2 of He et al., 2016, whose table 6 has 0.27 M of the ResNet"
_CONV = "computed from section 4.1.1 of Vinyals et al., 2016, with a dense layer as the head"

PUBLISHED: Sequence[Published] = (
    Published("cnn20", 269_722, 10, 32, _PLAIN),
    Published("conv-4", 121_093, 5, 84, _CONV),
    Published("resnet-18", 11_689_512, 1000, 224, _VISION),
    Published("resnet-34", 21_797_672, 1000, 224, _VISION),
    Published("resnet-50", 25_557_032, 1000, 224, _VISION),
    Published("resnet-101", 44_549_160, 1000, 224, _VISION),
    Published("resnet-152", 60_192_808, 1000, 224, _VISION),
    Published("resnet-200", 64_673_832, 1000, 224, _SLIM),
    Published("wide-resnet-50-2", 68_883_240, 1000, 224, _VISION),
    Published("wide-resnet-101-2", 126_886_696, 1000, 224, _VISION),
    Published("wrn-16-4", 2_748_890, 10, 32, "computed from table 1 of Zagoruyko and Komodakis"),
    Published("wrn-16-8", 10_961_370, 10, 32, _WRN),
    Published("wrn-16-10", 17_116_634, 10, 32, _OSMR),
    Published("wrn-28-10", 36_479_194, 10, 32, _OSMR),
    Published("wrn-40-2", 2_243_546, 10, 32, _WRN),
    Published("wrn-40-4", 8_949_210, 10, 32, _WRN),
    Published("vit-ti/16", 5_717_416, 1000, 224, _DEEPVISION),
    Published("vit-ti/32", 6_131_560, 1000, 224, _DEEPVISION),
    Published("vit-s/16", 22_050_664, 1000, 224, _DEEPVISION),
    Published("vit-s/32", 22_878_952, 1000, 224, _DEEPVISION),
    Published("vit-b/16", 86_567_656, 1000, 224, _VISION),
    Published("vit-b/32", 88_224_232, 1000, 224, _VISION),
    Published("vit-l/16", 304_326_632, 1000, 224, _VISION),
    Published("vit-l/32", 306_535_400, 1000, 224, _VISION),
    Published(
        "r50+vit-b/16", 98_659_112, 1000, 224, f"{_HYBRID}114.69 M with the 21,843 outputs of 21k"
    ),
    Published("r26+vit-s/32", 36_431_912, 1000, 224, _STEINER),
    Published("r50+vit-l/32", 328_994_856, 1000, 224, _STEINER),
    Published("mixer-s/16", 18_528_264, 1000, 224, _MIXER),
    Published("mixer-s/32", 19_104_624, 1000, 224, _MIXER),
    Published("mixer-b/16", 59_880_472, 1000, 224, _MIXER_TIMM),
    Published("mixer-b/32", 60_293_428, 1000, 224, _MIXER),
    Published("mixer-l/16", 208_196_168, 1000, 224, _MIXER_TIMM),
    Published("mixer-l/32", 206_939_264, 1000, 224, _MIXER_TIMM),
)
"""By name, but of those that are only a default."""


def page() -> str:
    """The text of the page."""
    lines = [
        "# Models",
        "",
        "This page is written by `python -m experiments.model_table`; tests compare its numbers "
        "with those of the models. Each name is one for `ntk_train.models.create_model`, which "
        "takes every attribute of the family as an override: "
        '`create_model("resnet-50", num_outputs=10, norm="group")`. The architecture, its source '
        "and the attributes are in the file of the family. Parameters are counted with so many "
        "outputs, on images of three channels.",
        "",
        "| name | family | parameters | outputs | pixels | source of the number |",
        "| --- | --- | ---: | ---: | ---: | --- |",
    ]
    published = {row.name: row for row in PUBLISHED}
    for name, (family, _) in MODELS.items():
        file = family.__module__.rpartition(".")[2]
        link = f"[{family.__name__}](../ntk_train/models/{file}.py)"
        row = published.get(name)
        cells = ["", "", "", "its sizes are attributes"]
        if row:
            cells = [f"{row.parameters:,}", f"{row.num_outputs}", f"{row.pixels}", row.source]
        lines.append(" | ".join(["| " + f"`{name}`", link, *cells]) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
