"""The command line of the trainer; `ntk-train --help` lists what it can be told.

    ntk-train --config=quickstart --workdir=runs/quickstart
    python -m ntk_train.main --config=quickstart --workdir=runs/quickstart

The two are the same. Started again with the same `--workdir`, a run goes on from its last
checkpoint. SIGTERM, as a cluster sends it, and Ctrl-C end a run after its step, with a checkpoint;
`ntk_train.train.endings` has the exit codes, of which 0 is that of a finished run alone.
"""

import ast
import contextlib
import importlib.util
import os
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

from ntk_train._registry import unknown

_EXTRA = ("absl", "grain", "ml_collections", "orbax")
"""What the trainer imports and the rest of the library does not."""

_HELP = """\
Trains networks, and logs their tangent kernels.

Commands, each with an example:

  (none)   trains, or goes on with the run in that folder
             ntk-train --config=quickstart --workdir=runs/quickstart
             ntk-train --config=imagenet:resnet-50 --workdir=runs/r50 --config.batch_size=128
  data     prepares data sets, and checks them
             ntk-train data prepare cifar10 --data_dir=DIR
             ntk-train data check cifar10 --data_dir=DIR
  report   writes one HTML page of a run
             ntk-train report runs/quickstart

Flags of training:

  --config=NAME[:TEXT]       {names},
                             or a file of yours; the text names a model, and ",smoke" tries it on
                             made-up images
  --config.FIELD=VALUE       sets a field; all are in
                             {default}
  --workdir=DIR              for event files and checkpoints; one folder is one run
  --resume=force             goes on by another config than the run had
  --distributed              this is one of several processes of a run

Exit codes: 0 finished, 1 refused, 3 diverged, 74 could not save (a full disk), 75 interrupted and
saved: the same command goes on.
"""

_WRITERS = (("clu", "tensorflow"), ("tensorboardX",))
"""What writes its event files: all of one of these, the first if it is there."""


def cli() -> None:
    """Runs the command line, and exits as `ntk_train.train.endings` says."""
    command, *rest = sys.argv[1:] or [""]
    if command == "report":
        from ntk_train.report import commands as report

        sys.exit(report.main(rest))
    if command != "data" and {"-h", "--help"} & set(sys.argv):
        print(_help(), end="")
        sys.exit(0)
    _check_installed()
    if command == "data":
        from ntk_train.data import commands

        sys.exit(commands.main(rest))
    if not command.startswith("-"):
        text = unknown("command", command, ("data", "report")) if command else "nothing to do."
        sys.exit(f"ntk-train: {text} `ntk-train --help` has examples.")
    # As `python -m` does: a config file imports its neighbours.
    sys.path.insert(0, os.getcwd())
    _train()


def _help() -> str:
    folder = pathlib.Path(__file__).parent / "configs"
    names = sorted(path.stem for path in folder.glob("[a-z]*.py") if path.stem != "recipes")
    return _HELP.format(names=", ".join(names), default=folder / "default.py")


def _check_installed() -> None:
    missing = [name for name in _EXTRA if not _installed(name)]
    if not any(all(map(_installed, names)) for names in _WRITERS):
        missing += [name for name in _WRITERS[0] if not _installed(name)]
    if missing:
        sys.exit(
            f"ntk-train: the trainer needs {', '.join(missing)}: pip install 'ntk_train[train]'"
        )


def _train() -> None:
    """Defines the flags by the config that they name, and trains."""
    from absl import app, flags
    from ml_collections import config_flags

    from ntk_train.configs import load_config
    from ntk_train.errors import NTKError
    from ntk_train.train.overrides import apply_overrides

    name, arguments = _named_config(sys.argv[1:])
    try:
        config = load_config(name)
        arguments = [sys.argv[0], *apply_overrides(config, arguments)]
    except (NTKError, ModuleNotFoundError) as error:
        sys.exit(f"ntk-train: {error}")
    with _refused():
        config_flags.DEFINE_config_dict("config", config, sys_argv=arguments)
    flags.DEFINE_string("workdir", None, "The folder for event files and checkpoints.")
    flags.DEFINE_enum(
        "resume", "same", ["same", "force"], "By which config a run goes on: its own, or any."
    )
    flags.DEFINE_bool("distributed", False, "Whether this is one of several processes of a run.")
    flags.mark_flag_as_required("workdir")
    app.run(_main, argv=arguments, flags_parser=_parse_flags)


def _named_config(arguments: list[str]) -> tuple[str, list[str]]:
    """The value of `--config`, and the other arguments."""
    others, name = [], None
    rest = iter(arguments)
    for argument in rest:
        flag, equals, value = argument.partition("=")
        if flag in ("--config", "-config"):
            name = value if equals else next(rest, "")
        else:
            others.append(argument)
    if not name:
        sys.exit("ntk-train: --config is missing; expected --config=quickstart, for example.")
    return name, others


def _installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def _parse_flags(argv: list[str]) -> list[str]:
    """Parses the flags; what is wrong in them ends the program with the message alone."""
    from absl import app

    with _refused():
        return app.parse_flags_with_usage(argv)


@contextlib.contextmanager
def _refused() -> Iterator[None]:
    """Ends the program with the message of an error that a flag of the config caused."""
    try:
        yield
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
