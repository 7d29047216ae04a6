"""The probe batch: the inputs of the kernel, the same at every step of a run.

>>> from ntk_train.data import load_dataset, make_probe
>>> probe = make_probe(load_dataset("digits", classes=(4, 9)).train, size=16, seed=0)
>>> probe.images.shape, probe.labels.tolist().count(0)
((16, 8, 8, 1), 8)
"""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from ntk_train.data.dataset import Source
from ntk_train.errors import NTKError


class ProbeChangedError(NTKError, ValueError):
    """The probe is not the one that a run had before."""


@dataclasses.dataclass(frozen=True, eq=False)
class Probe:
    """Images on which a kernel is computed.

    Attributes:
      images: [N, height, width, channels] as the source gives them, never augmented.
      labels: [N] int32.
      indices: [N] int64, where the images stand in their source.
    """

    images: np.ndarray
    labels: np.ndarray
    indices: np.ndarray

    @property
    def checksum(self) -> str:
        """16 hexadecimal digits: two runs with the same one have the same probe."""
        digest = hashlib.sha256(repr(self.images.shape).encode())
        for array in (self.images, self.labels):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:16]


def make_probe(source: Source, *, size: int, seed: int) -> Probe:
    """Draws a class-balanced probe batch at random, without replacement.

    Each class has `size // C` images, and where C does not divide `size`, some have one more. Where
    there are more classes than images, `size` classes drawn at random have one each.

    Args:
      source: where the images come from, usually the training part.
      size: the number of images N.
      seed: of the choice. The same seed and source give the same probe on every machine.

    Returns:
      The probe, ordered by class.

    Raises:
      ValueError: `size` is no positive number, or a class has too few images.
    """
    classes, available = np.unique(source.labels, return_counts=True)
    rng = np.random.default_rng(seed)
    wanted = _wanted(size, len(classes), rng)
    if np.any(wanted > available):
        short = int(np.argmax(wanted - available))
        msg = (
            f"size={size} asks for {wanted[short]} images of class {classes[short]}, which has "
            f"{available[short]}. Take a probe of at most {available.min() * len(classes)} images."
        )
        raise ValueError(msg)
    indices = np.concatenate(
        [
            np.sort(rng.choice(np.flatnonzero(source.labels == label), count, replace=False))
            for label, count in zip(classes, wanted, strict=True)
        ]
    )
    return _at(source, indices)


def _at(source: Source, indices: np.ndarray) -> Probe:
    examples = [source[int(index)] for index in indices]
    return Probe(
        images=np.stack([example["image"] for example in examples]),
        labels=np.stack([example["label"] for example in examples]),
        indices=indices,
    )


def _wanted(size: int, num_classes: int, rng: np.random.Generator) -> np.ndarray:
    """How many images of each class; the classes with one more are drawn at random."""
    if size < 1:
        msg = f"size={size}; a probe has at least one image, and better one of each class."
        raise ValueError(msg)
    wanted = np.full(num_classes, size // num_classes)
    wanted[rng.choice(num_classes, size % num_classes, replace=False)] += 1
    return wanted


def largest_probe(source: Source) -> int:
    """The size of the largest probe that has equally many images of each class."""
    _, available = np.unique(source.labels, return_counts=True)
    return int(available.min() * len(available))


def save_probes(probes: Mapping[str, Probe], path: pathlib.Path) -> None:
    """Writes what a run's probes consist of: indices, labels and checksum of each, as JSON.

    Args:
      probes: by the name of the part, "train" and "test" for example.
      path: of the file.
    """
    content = {name: _summary(probe) for name, probe in probes.items()}
    path.write_text(json.dumps(content, indent=2) + "\n")


def load_probes(path: pathlib.Path, sources: Mapping[str, Source]) -> dict[str, Probe]:
    """The probes that `save_probes` wrote, with their images read again.

    Args:
      path: of the file.
      sources: where the images come from, for each name in the file.

    Raises:
      ProbeChangedError: the images or labels are not those of the file.
      ValueError: the file is no JSON of this form.
    """
    probes = {}
    for name, saved in _read(path).items():
        if name not in sources:
            msg = f"{path} has a probe {name!r}; sources has {sorted(sources)}."
            raise ValueError(msg)
        indices = np.array(saved["indices"], np.int64)
        if len(indices) and indices.max() >= len(sources[name]):
            msg = (
                f"{path}: probe {name!r} has index {indices.max()}, but its source only "
                f"{len(sources[name])} examples. It is another data set."
            )
            raise ProbeChangedError(msg)
        probes[name] = _at(sources[name], indices)
    check_probes(probes, path)
    return probes


def check_probes(probes: Mapping[str, Probe], path: pathlib.Path) -> None:
    """Compares probes with those of an earlier start of the run.

    Raises:
      ProbeChangedError: one differs, so that its kernels could not be compared; says in what.
      ValueError: the file is no JSON of this form.
    """
    saved = _read(path)
    if saved.keys() != probes.keys():
        msg = f"{path} has the probes {sorted(saved)}, this run has {sorted(probes)}."
        raise ProbeChangedError(msg)
    for name, probe in probes.items():
        old, new = saved[name], _summary(probe)
        for what in ("indices", "labels", "checksum"):
            if old[what] != new[what]:
                has = "" if what != "checksum" else f" ({old[what]}, now {new[what]})"
                image = " of images at the same indices" if what == "checksum" else ""
                msg = (
                    f"The {name} probe is not that of {path}: its {what}{image} differ{has}. Its "
                    "kernels cannot be compared with those before. Use the data set, "
                    "ntk.probe_size and ntk.probe_seed of that run, or another workdir."
                )
                raise ProbeChangedError(msg)


def _summary(probe: Probe) -> dict[str, Any]:
    return {
        "indices": probe.indices.tolist(),
        "labels": probe.labels.tolist(),
        "checksum": probe.checksum,
    }


def _read(path: pathlib.Path) -> dict[str, dict[str, Any]]:
    try:
        saved = json.loads(path.read_text())
        for entry in saved.values():
            _ = entry["indices"], entry["labels"], entry["checksum"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        msg = f"{path} is not a file of probes: {type(error).__name__}: {error}. Delete it."
        raise ValueError(msg) from error
    return saved
