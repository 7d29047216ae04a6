"""Pictures of a kernel for TensorBoard, as arrays that a metric writer takes. Needs matplotlib.

    measurement, labels, history  ->  pictures_of  ->  {name: uint8 [1, height, width, 3]}

Each picture is a figure of its own on its own canvas: no pyplot, no display and no state that is
shared, so that a thread beside the training steps can draw. They are drawn for the width at which
TensorBoard shows them, dark on white, in colours that the colour-blind tell apart (M. Okabe,
K. Ito, *Color Universal Design*, 2008).
"""

from ntk_train.monitor.pictures.change import change_picture as change_picture
from ntk_train.monitor.pictures.gallery import Pictured as Pictured
from ntk_train.monitor.pictures.gallery import pictures_of as pictures_of
from ntk_train.monitor.pictures.heatmap import kernel_picture as kernel_picture
from ntk_train.monitor.pictures.layers import layers_picture as layers_picture
from ntk_train.monitor.pictures.spectrum import eigenvalue_histogram as eigenvalue_histogram
from ntk_train.monitor.pictures.spectrum import spectrum_picture as spectrum_picture
