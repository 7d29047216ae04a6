"""The command line of the trainer.

    python -m ntk_train.main --config=configs/quickstart.py --workdir=runs/quickstart
    ntk-train --config=configs/quickstart.py --workdir=runs/quickstart
    ntk-train data prepare cifar10
    ntk-train report runs/quickstart

The first two are the same, the third is `ntk_train.data.commands`, the last
`ntk_train.report.commands`, which needs no more than tensorboard. `--config.<field>=<value>` sets
a field of the config. Started again with the same `--workdir`, a run goes on from its last
checkpoint. SIGTERM, as a cluster sends it, and Ctrl-C end a run after its step, with a checkpoint;
`ntk_train.train.endings` has the exit codes, of which 0 is that of a finished run alone.
With `--distributed` each process of a cluster
reads its part of every batch, for one workdir.
"""

import ast
import contextlib
import importlib.util
import os
import sys
from typing import Any

_EXTRA = ("absl", "grain", "ml_collections", "orbax")
"""What the trainer imports and the rest of the library does not."""

_WRITERS = (("clu", "tensorflow"), ("tensorboardX",))
"""What writes its event files: all of one of these, the first if it is there."""


def cli() -> None:
    """Runs the command line, and exits as `ntk_train.train.endings` says."""
    if sys.argv[1:2] == ["report"]:
        from ntk_train.report import commands as report

        sys.exit(report.main(sys.argv[2:]))
    missing = [name for name in _EXTRA if not _installed(name)]
    if not any(all(map(_installed, names)) for names in _WRITERS):
        missing += [name for name in _WRITERS[0] if not _installed(name)]
    if missing:
        sys.exit(
            f"ntk-train: the trainer needs {', '.join(missing)}: pip install 'ntk_train[train]'"
        )
    if sys.argv[1:2] == ["data"]:
        from ntk_train.data import commands

        sys.exit(commands.main(sys.argv[2:]))
    # As `python -m` does: a config file imports its neighbours, `from configs import default`.
    sys.path.insert(0, os.getcwd())

    from absl import app, flags
    from ml_collections import config_flags

    config_flags.DEFINE_config_file("config", None, "The config, path/to/config.py[:argument].")
    flags.DEFINE_string("workdir", None, "The folder for event files and checkpoints.")
    flags.DEFINE_enum(
        "resume", "same", ["same", "force"], "By which config a run goes on: its own, or any."
    )
    flags.DEFINE_bool("distributed", False, "Whether this is one of several processes of a run.")
    flags.mark_flags_as_required(["config", "workdir"])
    app.run(_main, flags_parser=_parse_flags)


def _installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def _parse_flags(argv: list[str]) -> list[str]:
    """Parses the flags; what is wrong in them ends the program with the message alone."""
    from absl import app

    try:
        return app.parse_flags_with_usage(argv)
    except (AttributeError, KeyError) as error:  # so ml_collections refuses an unknown field
        text = str(error.args[0])
        with contextlib.suppress(SyntaxError, ValueError):
            text = ast.literal_eval(text)  # it passes its message on in quotes
        sys.exit(f"ntk-train: no such field in the config: {text}")
    except (TypeError, ValueError) as error:
        sys.exit(f"ntk-train: {error}")


def _main(argv: list[str]) -> None:
    """Trains, and says where the results are."""
    from absl import flags, logging

    if len(argv) > 1:
        sys.exit(f"ntk-train: unknown argument {argv[1]!r}; expected --config=... --workdir=...")
    config, workdir = flags.FLAGS.config, flags.FLAGS.workdir.strip()
    if workdir:
        workdir = os.path.abspath(os.path.expanduser(workdir))
    if not flags.FLAGS["verbosity"].present:  # app.run sets INFO then
        logging.set_verbosity(logging.WARNING)  # the table is on the screen
        logging.get_absl_handler().addFilter(_in_one_line)
    _keep_tensorflow_quiet()
    import jax

    if flags.FLAGS.distributed:
        jax.distributed.initialize()  # Slurm, Open MPI, Kubernetes and TPUs tell it the others

    from ntk_train.errors import NTKError
    from ntk_train.monitor.compiled import keep_compiled_programs
    from ntk_train.train import (
        Interruption,
        NotSavedError,
        UnfinishedRunError,
        train_and_evaluate,
    )
    from ntk_train.train.endings import is_out_of_space

    keep_compiled_programs()
    try:
        with Interruption() as interruption:
            state = train_and_evaluate(
                config, workdir, resume=flags.FLAGS.resume, interruption=interruption
            )
    except UnfinishedRunError as error:
        print(f"ntk-train: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    # OSError: the config file was not found, which shows at its first use.
    except (NTKError, ModuleNotFoundError, OSError) as error:
        print(f"ntk-train: {error}", file=sys.stderr)
        sys.exit(NotSavedError.exit_code if is_out_of_space(error) else 1)
    if jax.process_index() == 0:
        print(f"\nDone, {int(state.step)} steps. TensorBoard files and checkpoints: {workdir}")
        print(f"To open them:  tensorboard --logdir {workdir}")


def _in_one_line(record: Any) -> bool:
    """Cuts what Orbax and clu log to its first line: on a full disk they log pages of calls."""
    if record.name == "absl":
        lines = record.getMessage().splitlines() or [""]
        record.msg, record.args, record.exc_info = lines[0], (), None
    return True


def _keep_tensorflow_quiet() -> None:
    """Keeps TensorFlow, which only writes event files here, off the screen and the GPU."""
    if not _installed("tensorflow"):
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # announces itself in two lines otherwise

    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")  # it would take most of the memory from JAX


if __name__ == "__main__":
    cli()
