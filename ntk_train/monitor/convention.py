"""Where the hook's convention is imported from; it is defined beside the numbers it belongs to."""

from ntk_train.spectrum.convention import Convention as Convention
