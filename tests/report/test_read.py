"""Event files as a run: each number once for each step, whoever wrote it and however often."""

import json

import numpy as np
import pytest

from ntk_train.monitor import tensorboard_writer
from ntk_train.report import ReportError, read_run
from ntk_train.spectrum import kernel_spectrum
from tests.report.run import CONVENTION, kernel_at, make_run, write_steps


def clu_writer(folder):
    metric_writers = pytest.importorskip("clu.metric_writers")
    return metric_writers.create_default_writer(str(folder), asynchronous=False)


@pytest.mark.parametrize("make_writer", [tensorboard_writer, clu_writer])
def test_what_was_written_is_read_by_whichever_writer(make_writer, tmp_path):
    writer = make_writer(tmp_path)
    write_steps(writer, [0, 5])
    writer.close()
    run = read_run(tmp_path)
    found = run.scalars["ntk/lambda_max"]
    assert found.steps.tolist() == [0, 5]
    expected = [kernel_spectrum(kernel_at(step)).lambda_max for step in (0, 5)]
    np.testing.assert_allclose(found.values, expected, rtol=1e-6)
    assert np.isnan(run.scalars["ntk/kernel_velocity"].values[0])
    assert run.scalars["ntk_layers/Block/Dense_1/trace_share"].last == pytest.approx(0.75)
    assert run.histograms["ntk/log10_eigenvalues"][5][:, 2].sum() == 6
    assert run.images["ntk/spectrum"][5].startswith(b"\x89PNG")
    assert run.texts["ntk/convention"] == CONVENTION
    assert (run.kernels, run.config, run.problems) == (("ntk",), None, ())
    assert run.step_range == (0, 5)


def test_a_resumed_run_takes_back_the_steps_after_its_checkpoint(tmp_path):
    for i, (steps, value) in enumerate([([0, 5, 10, 15], 1.0), ([10, 12], 2.0)]):
        writer = tensorboard_writer(tmp_path)
        writer.write_scalars(0 if i == 0 else 10, {"only/once": value})
        for step in steps:
            names = ("ntk/lambda_max", "ntk/condition_number")
            writer.write_scalars(step, dict.fromkeys(names, value * 100 + step))
        writer.close()
        (file,) = set(tmp_path.glob("*tfevents*")) - set(tmp_path.glob("*tfevents.0*"))
        # Names are in the order of the seconds in which the files were begun.
        file.rename(tmp_path / f"events.out.tfevents.0{i}")
    run = read_run(tmp_path)
    series = run.scalars["ntk/lambda_max"]
    assert series.steps.tolist() == [0, 5, 10, 12]
    assert series.values.tolist() == [100, 105, 210, 212]
    assert run.num_files == 2


def event_file(folder, name, steps, value):
    """An event file of that name with one number at each of the steps."""
    before = set(folder.glob("*tfevents*"))
    writer = tensorboard_writer(folder)
    writer.write_texts(0, {"ntk/convention": CONVENTION})
    for step in steps:
        writer.write_scalars(step, {"ntk/lambda_max": value + step, "ntk/condition_number": 1.0})
    writer.close()
    (file,) = set(folder.glob("*tfevents*")) - before
    file.rename(folder / name)


def test_steps_made_after_the_clock_was_set_back_are_kept(tmp_path):
    event_file(tmp_path, "events.out.tfevents.5", [0, 5, 10], 100)
    event_file(tmp_path, "events.out.tfevents.3", [10, 15], 200)
    event_file(tmp_path, "events.out.tfevents.4", [15, 20], 300)
    series = read_run(tmp_path).scalars["ntk/lambda_max"]
    assert series.steps.tolist() == [0, 5, 10, 15, 20]
    assert series.values.tolist() == [100, 105, 210, 315, 320]


def test_the_list_of_event_files_is_their_order(tmp_path):
    event_file(tmp_path, "events.out.tfevents.4", [0, 5, 10], 100)
    event_file(tmp_path, "events.out.tfevents.5", [10, 15], 200)
    event_file(tmp_path, "events.out.tfevents.3", [10, 12], 300)  # the last; not listed yet
    listed = ["events.out.tfevents.4", "events.out.tfevents.5"]
    (tmp_path / "event_files.json").write_text(json.dumps(listed))
    series = read_run(tmp_path).scalars["ntk/lambda_max"]
    assert series.steps.tolist() == [0, 5, 10, 12]
    assert series.values.tolist() == [100, 105, 310, 312]
    (tmp_path / "event_files.json").write_text("[")  # cut off: names then
    assert read_run(tmp_path).scalars["ntk/lambda_max"].steps.tolist() == [0, 5, 10, 15]


def test_several_kernels_are_told_apart_from_their_layers(tmp_path):
    writer = tensorboard_writer(tmp_path)
    for prefix in ("ntk", "ntk_test"):
        write_steps(writer, [0], prefix=prefix)
    writer.close()
    assert read_run(tmp_path).kernels == ("ntk", "ntk_test")


@pytest.mark.parametrize("lost", [1, 3, 5, 400])
def test_a_file_that_ends_within_a_record_is_read_up_to_there(lost, tmp_path):
    folder = make_run(tmp_path, steps=[0, 5, 10], picture=False)
    (file,) = folder.glob("*tfevents*")
    whole = file.read_bytes()
    file.write_bytes(whole[:-lost])
    run = read_run(folder)
    assert run.scalars["ntk/lambda_max"].steps.tolist()[:2] == [0, 5]
    (problem,) = run.problems
    assert "ends within a record" in problem


def test_what_is_no_event_file_is_said(tmp_path):
    folder = make_run(tmp_path)
    (folder / "events.out.tfevents.9").write_bytes(b"something else, and long enough")
    (folder / "config.json").write_text("{")
    damaged, config = read_run(folder).problems
    assert "tfevents.9 is damaged" in damaged
    assert config.startswith("config.json could not be read")


def test_a_run_that_went_on_by_another_config_is_said(tmp_path):
    folder = make_run(tmp_path)
    for step, rate in ((0, 9.0), (5, 0.5), (10, 0.25)):
        config = {"model": {"name": "cnn"}, "rate": rate, "num_train_steps": 10}
        (folder / f"config_until_{step}.json").write_text(json.dumps(config))
    assert read_run(folder).problems == (
        "From step 5 on the run had another config: rate was 0.5, then 0.25.",
        "From step 10 on the run had another config: model.kwargs was not there, then {}; "
        "rate was 0.25, then not there.",
    )


def test_errors_name_the_argument_and_the_remedy(tmp_path):
    with pytest.raises(ReportError, match=r"WORKDIR .*missing is no folder"):
        read_run(tmp_path / "missing")
    with pytest.raises(ReportError, match=r"holds no event files .* --workdir of the run"):
        read_run(tmp_path)
    (tmp_path / "below").mkdir()
    make_run(tmp_path / "below")
    with pytest.raises(ReportError, match=r"There are some in .*below: name one of these"):
        read_run(tmp_path)
    writer = tensorboard_writer(tmp_path)
    writer.write_scalars(0, {"train_loss": 1.0})
    writer.close()
    with pytest.raises(ReportError, match=r"scalars: train_loss\).*Give the hook the writer"):
        read_run(tmp_path)
