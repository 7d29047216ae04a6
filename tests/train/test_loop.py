import json
import logging
import shutil

import jax
import numpy as np
import pytest

pytest.importorskip("clu")

from clu import metric_writers
from tensorboard.backend.event_processing import event_accumulator
from tensorboard.util import tensor_util

from ntk_train.configs import default
from ntk_train.models import CNN
from ntk_train.monitor.history import History
from ntk_train.train import (
    ConfigError,
    placement,
    train_and_evaluate,
    writing,
)
from ntk_train.train.checkpoint import Checkpoints
from ntk_train.train.loop import Run


def config_of(**fields):
    config = default.get_config("cnn")
    config.num_train_steps = 6
    config.batch_size = 8
    config.model.kwargs.features = (4,)
    config.ntk.probe_size = 6
    config.log_every_steps = config.checkpoint_every_steps = 2
    config.ntk.every_steps = config.eval_every_steps = 3
    config.optimizer.warmup_steps = 2
    config.update_from_flattened_dict(fields)
    return config


def scalars(workdir):
    """{tag: {step: value}} of the event files."""
    events = event_accumulator.EventAccumulator(str(workdir), size_guidance={"tensors": 0})
    events.Reload()
    return {
        tag: {
            event.step: tensor_util.make_ndarray(event.tensor_proto).item()
            for event in events.Tensors(tag)
        }
        for tag, content in ((tag, events.SummaryMetadata(tag)) for tag in events.Tags()["tensors"])
        if content.plugin_data.plugin_name == "scalars"
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run with BatchNorm from start to end, and its folder."""
    workdir = tmp_path_factory.mktemp("run")
    return train_and_evaluate(config_of(**{"model.kwargs.norm": "batch"}), workdir), workdir


def test_event_files_hold_every_scalar_at_its_steps(finished):
    found = scalars(finished[1])
    for tag in ("train_loss", "train_accuracy", "learning_rate"):
        assert set(found[tag]) == {2, 3, 4, 6}
    for tag in ("eval_loss", "eval_accuracy", "ntk/lambda_max", "ntk/condition_number"):
        assert set(found[tag]) == {0, 3, 6}
        assert np.all(np.isfinite(list(found[tag].values())))
    assert found["ntk/failures"][6] == 0
    assert found["learning_rate"][2] == pytest.approx(0.0015)  # half-way up the warm-up
    assert found["steps_per_sec"]


def test_hparams_merge_config_and_convention(finished):
    events = event_accumulator.EventAccumulator(str(finished[1]))
    events.Reload()
    text = str(events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content)
    for name in ("optimizer/learning_rate", "model/kwargs/features", "ntk/examples", "checksum"):
        assert name in text


def test_workdir_holds_the_config_and_the_last_checkpoint(finished):
    state, workdir = finished
    assert json.loads((workdir / "config.json").read_text())["batch_size"] == 8
    assert (workdir / "checkpoints" / "6").is_dir()
    assert int(state.step) == 6
    assert not state.diverged


def test_the_kernel_is_that_of_the_network_in_eval_mode(finished, monkeypatch, tmp_path):
    modes = []
    call = CNN.__call__

    def spy(self, x, train=False):
        modes.append((x.shape[0], train))
        return call(self, x, train=train)

    monkeypatch.setattr(CNN, "__call__", spy)
    train_and_evaluate(config_of(**{"model.kwargs.norm": "batch", "num_train_steps": 3}), tmp_path)
    # Updates trace the model with 8 examples, the hook with the six of the probe, or with one.
    assert {(8, True), (6, False)} <= set(modes)
    assert {train for examples, train in modes if examples in (1, 6)} == {False}


def test_an_interrupted_run_ends_with_the_same_parameters(finished, tmp_path):
    whole, workdir = finished
    config = config_of(**{"model.kwargs.norm": "batch"})

    class Killed(Exception):
        pass

    after = Run._after

    def kill(self, step):
        after(self, step)
        if step == 3:  # after the checkpoint of step 2
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "_after", kill)
        with pytest.raises(Killed):
            train_and_evaluate(config, tmp_path)
    assert set(scalars(tmp_path)["train_loss"]) == {2, 3}  # the writer was flushed
    resumed = train_and_evaluate(config, tmp_path)
    jax.tree.map(np.testing.assert_array_equal, resumed, whole)
    for tag in ("relative_change", "kernel_velocity", "kernel_target_alignment"):
        curves = [scalars(folder)[f"ntk/{tag}"] for folder in (workdir, tmp_path)]
        assert curves[0][6] == curves[1][6] != 0  # to the last bit, over the interruption
    assert len(list(tmp_path.glob("ntk_references_*.npz"))) == len(
        list((tmp_path / "checkpoints").iterdir())
    )


@pytest.mark.parametrize("content", [b"no archive", b""])
def test_damaged_references_start_anew(content, tmp_path, caplog):
    with Checkpoints(tmp_path / "checkpoints", keep=1) as checkpoints:
        (tmp_path / "ntk_references_6.npz").write_bytes(content)
        for step in (6, 5):
            assert checkpoints.restore_kept(step).to_dict() == {}
    assert "ntk_references_6.npz cannot be read" in caplog.text


def test_a_finished_run_is_not_trained_again(finished, capsys, caplog):
    state, workdir = finished
    before = {
        path: path.read_bytes()
        for path in workdir.rglob("*")
        if path.is_file() and path.name != "run.lock"
    }
    config = config_of(**{"model.kwargs.norm": "batch"})
    with caplog.at_level(logging.WARNING):
        again = train_and_evaluate(config, workdir)
        jax.tree.map(np.testing.assert_array_equal, again, state)
        assert "has reached step 6 already" in capsys.readouterr().out
        assert not caplog.text
        config.eval_batch_size = 50
        train_and_evaluate(config, workdir, resume="force")
    assert "config.eval_batch_size was 256 and is 50" in caplog.text
    after = {
        path: path.read_bytes()
        for path in workdir.rglob("*")
        if path.is_file() and path.name != "run.lock"
    }
    assert after == before  # no event, no config that no step was made with


def test_a_checkpoint_of_another_model_is_refused(finished):
    with pytest.raises(ConfigError, match="does not fit the model"):
        train_and_evaluate(config_of(**{"model.kwargs.norm": "layer"}), finished[1], resume="force")


def test_what_was_logged_is_in_the_file_before_a_checkpoint_is(tmp_path, monkeypatch, caplog):
    save, found = Checkpoints.save, []

    def look(self, state, kept):
        found.append((int(state.step), scalars(tmp_path)))
        return save(self, state, kept)

    monkeypatch.setattr(Checkpoints, "save", look)
    train_and_evaluate(config_of(), tmp_path)
    assert [step for step, _ in found] == [2, 4, 6]
    for step, logged in found:
        assert max(logged["train_loss"]) == step
    assert max(found[-1][1]["ntk/lambda_max"]) == 6

    def full(self):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(metric_writers.AsyncMultiWriter, "flush", full)
        patch.setattr(metric_writers.AsyncMultiWriter, "close", lambda self: None)
        train_and_evaluate(config_of(), tmp_path / "full")
    assert (tmp_path / "full" / "checkpoints" / "6").is_dir()
    assert "flush of the event files failed: OSError: disk full" in caplog.text


def test_the_curves_in_pictures_go_on_over_an_interruption(tmp_path, monkeypatch):
    spans, append = [], History.append

    def spy(self, step, values):
        append(self, step, values)
        spans.append([step for step, _ in self])

    monkeypatch.setattr(History, "append", spy)
    train_and_evaluate(config_of(**{"num_train_steps": 3}), tmp_path)
    spans.clear()
    train_and_evaluate(config_of(), tmp_path, resume="force")
    assert spans[-1] == [0, 3, 6]


def test_a_layout_that_cannot_be_written_is_survived(tmp_path, monkeypatch, caplog):
    def full(*_):
        raise OSError("disk full")

    monkeypatch.setattr(writing, "write_layout", full)
    state = train_and_evaluate(config_of(**{"num_train_steps": 3}), tmp_path)
    assert int(state.step) == 3
    assert "The layout of the charts could not be written: OSError: disk full" in caplog.text


def test_without_the_kernel(tmp_path):
    config = config_of(**{"ntk.enabled": False, "num_train_steps": 3})
    train_and_evaluate(config, tmp_path)
    found = scalars(tmp_path)
    assert not [tag for tag in found if tag.startswith("ntk/")]
    assert set(found["eval_accuracy"]) == {0, 3}
    events = event_accumulator.EventAccumulator(str(tmp_path))
    events.Reload()
    assert not [tag for tag in events.Tags()["tensors"] if "custom_scalars" in tag]


def synthetic_config(**kwargs):
    config = config_of(**{"num_train_steps": 2, "optimizer.warmup_steps": 0})
    with config.unlocked():
        config.dataset.name = "synthetic"
        sizes = {"train_size": 24, "test_size": 8}
        config.dataset.kwargs = {"image_shape": (8, 8, 1), "num_classes": 2, **sizes, **kwargs}
    return config


def test_images_in_uint8_are_normalised_before_the_network_sees_them(tmp_path):
    states, found = {}, {}
    for dtype in ("float32", "uint8"):
        config = synthetic_config(image_dtype=dtype)
        states[dtype] = train_and_evaluate(config, tmp_path / dtype)
        found[dtype] = scalars(tmp_path / dtype)
    close = lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6)
    jax.tree.map(close, states["float32"].params, states["uint8"].params)
    for tag in ("train_loss", "eval_loss", "ntk/lambda_max"):
        for step, value in found["float32"][tag].items():
            assert found["uint8"][tag][step] == pytest.approx(value, rel=1e-4)


def test_the_probes_are_kept_and_a_changed_one_is_told(finished, tmp_path, caplog):
    saved = json.loads((finished[1] / "probe.json").read_text())
    assert set(saved) == {"train", "test"}
    assert len(saved["train"]["indices"]) == 6
    train_and_evaluate(synthetic_config(), tmp_path)
    with caplog.at_level(logging.WARNING):
        changed = synthetic_config()
        changed.num_train_steps = 3
        train_and_evaluate(changed, tmp_path, resume="force")
        assert "probe is not that of" not in caplog.text
        changed.num_train_steps, changed.ntk.probe_seed = 4, 5
        train_and_evaluate(changed, tmp_path, resume="force")
    assert "probe is not that of" in caplog.text


def test_several_probes_the_learning_rate_and_layers(tmp_path):
    fields = {
        "num_train_steps": 3,
        "optimizer.name": "sgd",
        "optimizer.schedule": "constant",
        "optimizer.learning_rate": 0.01,
        "ntk.outputs": "full",
        "ntk.per_layer": True,
        "ntk.probes": ("train", "test", "per_class"),
    }
    train_and_evaluate(config_of(**fields), tmp_path)
    found = scalars(tmp_path)
    groups = {"ntk", "ntk_test", "ntk_class_0", "ntk_class_1"}
    for group in groups:
        assert set(found[f"{group}/lambda_max"]) == {0, 3}
        assert found[f"{group}/relative_change"][3] > 0
        layers = [tag for tag in found if tag.startswith(f"{group}_layers/") and "share" in tag]
        assert sum(found[tag][3] for tag in layers) == pytest.approx(1)
    # The labels of one class are aligned with nothing.
    aligned = {tag for tag in found if tag.endswith("/kernel_target_alignment")}
    assert aligned == {"ntk/kernel_target_alignment", "ntk_test/kernel_target_alignment"}
    for of, edge in ("full_batch", "critical"), ("minibatch", "minibatch_critical"):
        ratio = found[f"ntk/{of}_learning_rate_ratio"]
        assert ratio[0] == 0  # the warm-up begins
        assert ratio[3] * found[f"ntk/{edge}_learning_rate"][3] == pytest.approx(0.01)
    with np.load(tmp_path / "ntk_references_3.npz") as kept:
        assert {name.split("/")[0] for name in kept} == {"train", "test", "class_0", "class_1"}


def hparams_of(monkeypatch, workdir, **fields):
    """What a run of one step writes of itself."""
    written = []
    write = metric_writers.AsyncMultiWriter.write_hparams
    spy = lambda self, hparams: (written.append(hparams), write(self, hparams))
    monkeypatch.setattr(metric_writers.AsyncMultiWriter, "write_hparams", spy)
    config = config_of(**{"num_train_steps": 1, "optimizer.warmup_steps": 0}, **fields)
    train_and_evaluate(config, workdir)
    (hparams,) = written
    return hparams, json.loads((workdir / "probe.json").read_text())


def test_the_checksum_is_that_of_the_probe_that_is_logged(tmp_path, monkeypatch):
    hparams, saved = hparams_of(monkeypatch, tmp_path, **{"ntk.probes": ("test",)})
    sums = {name: entry["checksum"] for name, entry in saved.items()}
    assert {k: v for k, v in hparams.items() if "checksum" in k} == {
        "ntk/probe_checksum": sums["test"]
    }


def test_each_probe_has_its_checksum(tmp_path, monkeypatch):
    fields = {"ntk.probes": ("test", "train", "per_class")}
    hparams, saved = hparams_of(monkeypatch, tmp_path, **fields)
    train, test = (saved[name]["checksum"] for name in ("train", "test"))
    assert train != test
    assert {k: v for k, v in hparams.items() if "checksum" in k} == {
        "ntk/probe_checksum": test,
        "ntk_train/probe_checksum": train,
        "ntk_class_0/probe_checksum": train,  # parts of it
        "ntk_class_1/probe_checksum": train,
    }


def test_a_run_stops_at_the_first_kernel_above_the_bound(tmp_path, capsys):
    config = config_of(**{"ntk.stop_above_condition_number": 1.0, "model.kwargs.norm": "batch"})
    state = train_and_evaluate(config, tmp_path)
    assert int(state.step) == 0
    assert (tmp_path / "checkpoints" / "0").is_dir()
    assert "Stopped, train: condition number" in capsys.readouterr().out


@pytest.mark.parametrize(("bound", "trains"), [(1.0, False), (0.5, False), (1e30, True), (0, True)])
def test_a_run_that_was_stopped_says_so_again(bound, trains, stopped, tmp_path, capsys):
    workdir = tmp_path / "run"
    shutil.copytree(stopped, workdir)
    config = config_of(**{"num_train_steps": 2, "optimizer.warmup_steps": 0})
    config.ntk.stop_above_condition_number = float(bound)
    state = train_and_evaluate(config, workdir, resume="force")
    out = capsys.readouterr().out
    assert int(state.step) == (2 if trains else 0)
    assert out.startswith("Stopped, train: condition number") != trains
    assert ("raise config.ntk.stop_above_condition_number" in out) != trains


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """The folder of a run that its first kernel has stopped."""
    workdir = tmp_path_factory.mktemp("stopped") / "run"
    config = config_of(**{"num_train_steps": 2, "optimizer.warmup_steps": 0})
    config.ntk.stop_above_condition_number = 1.0
    assert int(train_and_evaluate(config, workdir).step) == 0
    return workdir


def test_a_stop_is_no_matter_where_no_kernel_is_measured(stopped, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(stopped, workdir)
    config = config_of(**{"num_train_steps": 2, "optimizer.warmup_steps": 0, "ntk.enabled": False})
    config.ntk.stop_above_condition_number = 1.0
    assert int(train_and_evaluate(config, workdir, resume="force").step) == 2


def test_the_first_process_decides_whether_to_stop(tmp_path, monkeypatch):
    asked = []

    def agreed(self, value):
        asked.append(value)
        return len(asked) == 2

    monkeypatch.setattr(placement.Placement, "agreed", agreed)
    config = config_of(**{"ntk.stop_above_condition_number": 1.0, "ntk.every_steps": 2})
    state = train_and_evaluate(config, tmp_path)
    assert int(state.step) == 2  # at its word, and at kernel steps alone
    assert asked == [True, True]


def test_a_run_that_was_stopped_goes_on_where_it_is_not(finished, tmp_path, monkeypatch):
    stops = lambda bound: (lambda found: found.step >= 3 and "late") if bound else None
    monkeypatch.setattr("ntk_train.train.setup._stop_when", stops)
    config = config_of(**{"ntk.stop_above_condition_number": 1.0, "model.kwargs.norm": "batch"})
    state = train_and_evaluate(config, tmp_path)
    assert int(state.step) == 3
    assert (tmp_path / "checkpoints" / "3").is_dir()
    config.ntk.stop_above_condition_number = 0.0
    state = train_and_evaluate(config, tmp_path, resume="force")
    jax.tree.map(np.testing.assert_array_equal, state, finished[0])
    change = [scalars(folder)["ntk/relative_change"][6] for folder in (tmp_path, finished[1])]
    assert change[0] == change[1]
