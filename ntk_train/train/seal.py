"""Checksums of the files of a checkpoint, so that a damaged one is told from a whole one.

A seal is a file as `sha256sum` writes it: in the run's folder, `sha256sum -c checkpoint_500.sha256`
checks the checkpoint of step 500.
"""

import hashlib
import pathlib


def write_seal(seal: pathlib.Path, folder: pathlib.Path) -> None:
    """Writes the checksums of all files below a folder, by their paths from the seal's own.

    Args:
      seal: the file to write, replaced in one step.
      folder: beside or below it.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    lines = [f"{_digest(path)}  {path.relative_to(seal.parent).as_posix()}\n" for path in files]
    new = seal.with_suffix(".new")
    new.write_text("".join(lines))
    new.replace(seal)


def broken_files(seal: pathlib.Path) -> list[str]:
    """The sealed files that are missing or not as they were, with what is wrong with each.

    None where there is no seal, as of runs before there were any, or one that cannot be read.
    """
    try:
        lines = seal.read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return []
    broken = []
    for digest, _, name in (line.partition("  ") for line in lines):
        try:
            if _digest(seal.parent / name) != digest:
                broken.append(f"{name} has another content than was written")
        except OSError as error:
            broken.append(f"{name}: {error.strerror}")
    return broken


def _digest(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
