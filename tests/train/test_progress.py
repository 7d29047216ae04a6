import io

import numpy as np

from ntk_train.spectrum import Spectrum
from ntk_train.train.progress import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def table(out):
    progress = Progress(start_step=0, num_train_steps=20, out=out)
    progress.header()
    spectrum = Spectrum(np.array([100.0, 20.0, 1e-9]), 1e-3, 1e-6)
    progress.row(0, loss=None, evaluation={"accuracy": 0.5}, spectrum=spectrum)
    progress.restart_clock(1)
    progress.tick(10)
    progress.row(
        10, loss=0.25, evaluation=None, spectrum=Spectrum(np.array([8.0, 2.0]), 1e-6, 1e-9)
    )
    progress.row(20, loss=0.125, evaluation={"accuracy": 1.0}, spectrum=None)
    return out.getvalue()


def test_rows_are_aligned_and_say_what_is_missing():
    header, first, second, last = table(io.StringIO()).splitlines()
    assert len(header) == len(first) == len(second) == len(last)
    assert first.split() == ["0", "-", "50.00%", "100", "1e-09", ">=", "1e+05", "1.38", "-"]
    assert second.split()[:7] == ["10", "0.2500", "-", "8", "2", "4", "1.47"]
    assert ":" in second.split()[7]
    assert last.split() == ["20", "0.1250", "100.00%", "-", "-", "-", "-", "done"]


def test_the_line_between_rows_is_for_terminals_only():
    assert "steps/s" not in table(io.StringIO())
    shown = table(Terminal())
    assert "step 10/20" in shown
    assert "steps/s" in shown


def test_a_quiet_one_prints_nothing(capsys):
    out = Terminal()
    progress = Progress(start_step=0, num_train_steps=20, out=out, quiet=True)
    progress.header()
    progress.note("note")
    progress.tick(3)
    progress.row(20, loss=0.1, evaluation=None, spectrum=None)
    assert out.getvalue() == capsys.readouterr().out == ""
