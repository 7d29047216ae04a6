"""One HTML page of a run: its kernel's numbers over the steps, beside loss and accuracy.

    event files  ->  read/  Run  ->  charts, pictures, tables  ->  page  ->  report.html

    ntk-train report runs/mine

The page is one file that needs no network and no script to be read. To make it takes the package
tensorboard, and neither TensorFlow nor clu.
"""

from ntk_train.report.page import write_report as write_report
from ntk_train.report.read import ReportError as ReportError
from ntk_train.report.read import Run as Run
from ntk_train.report.read import read_run as read_run
