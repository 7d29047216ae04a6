"""The folder of a run: one run, one config, and one process that writes to it.

    run.lock             held while a process trains here
    config.json          of the steps that were made, and of those to come
    event_files.json     the event files in the order in which they were begun

The lock is the system's own (`flock`), so that it is free again when the process is gone, however
it ended.
"""

import contextlib
import json
import logging
import os
import pathlib
import socket
from collections.abc import Iterator

from ml_collections import ConfigDict

from ntk_train.train import config as configs
from ntk_train.train.config import ConfigError

_log = logging.getLogger(__name__)


class WorkdirError(ConfigError):
    """No run is possible in this folder."""


class Workdir:
    """The folder of a run.

    Attributes:
      path: absolute.

    Args:
      path: as the user gave it.

    Raises:
      WorkdirError: it is empty, or is no folder.
    """

    def __init__(self, path: str | pathlib.Path) -> None:
        if not str(path).strip():
            msg = "workdir is empty; expected the folder of this run, --workdir=runs/mine."
            raise WorkdirError(msg)
        self.path = pathlib.Path(path).absolute()
        if self.path.exists() and not self.path.is_dir():
            msg = f"workdir={self.path} is a file; expected a folder, or the name of a new one."
            raise WorkdirError(msg)

    @property
    def config(self) -> pathlib.Path:
        """The config of the steps that were made here; there is none before the first."""
        return self.path / "config.json"

    @property
    def probes(self) -> pathlib.Path:
        """Which images the probes of these steps are."""
        return self.path / "probe.json"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Makes the folder and keeps other processes from training in it.

        Raises:
          WorkdirError: another one does.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        path = self.path / "run.lock"
        with path.open("a+") as file:
            if _lock(file.fileno()):
                file.truncate(0)
                file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
                file.flush()
            else:
                file.seek(0)
                holder = file.read().strip() or "another process"
                msg = (
                    f"A run is under way in {self.path} ({holder}). Wait until it has ended, or "
                    "take another --workdir."
                )
                raise WorkdirError(msg)
            yield

    def check_config(self, config: ConfigDict, *, force: bool) -> None:
        """Refuses another config than that of the steps that were made here.

        Args:
          config: of the steps to come.
          force: accepts it; what differs is logged.

        Raises:
          WorkdirError: it is another one; the text lists the fields.
        """
        changed = configs.changes(config, self.config)
        if not changed:
            return
        said = "".join(f"\n  {text}" for text in changed)
        if force:
            _log.warning("The run in %s goes on with another config:%s", self.path, said)
            return
        msg = (
            f"The run in {self.path} has another config:{said}\nTo train with this one take "
            "another --workdir; to go on with it from the last checkpoint, add --resume=force."
        )
        raise WorkdirError(msg)

    def keep_config(self, config: ConfigDict, step: int) -> None:
        """Writes the config of the steps from this one on; another one before it is kept too."""
        if configs.changes(config, self.config):
            self.config.replace(self.path / f"config_until_{step}.json")
        configs.save_config(config, self.config)

    def note_event_files(self) -> None:
        """Writes the order of the event files that there are, before another is begun.

        Their names have the time at which they were begun, and clocks are set back now and then.
        """
        path = self.path / "event_files.json"
        known = []
        with contextlib.suppress(OSError, ValueError):
            known = [str(name) for name in json.loads(path.read_text())]
        found = sorted(file.name for file in self.path.glob("*tfevents*"))
        names = [name for name in known if name in found]
        path.write_text(json.dumps(names + [name for name in found if name not in names]) + "\n")


def _lock(descriptor: int) -> bool:
    """Whether the file is ours now; where files cannot be locked, it is said and taken to be."""
    try:
        import fcntl
    except ModuleNotFoundError:  # on Windows
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:  # on some network file systems
        _log.warning("The folder of the run cannot be locked: %s", error)
    return True
