import gc
import threading

import numpy as np

from ntk_train.data.memory import Memory


def address(array):
    return array.__array_interface__["data"][0]


def test_memory_is_used_again_after_the_last_view():
    memory = Memory()
    array = memory.empty((4, 5), np.float32)
    assert array.shape == (4, 5)
    assert array.dtype == np.float32
    first, view = address(array), array[1:, ::2]
    view[...] = 7
    del array
    gc.collect()
    other = memory.empty((4, 5), np.float32)
    other[...] = 0
    assert address(other) != first
    np.testing.assert_array_equal(view, np.full((3, 3), 7, np.float32))
    del view
    gc.collect()
    assert address(memory.empty((4, 5), np.float32)) == first


def test_a_block_of_another_size_is_not_used():
    memory = Memory()
    memory.empty((4,), np.uint8)
    gc.collect()
    large = memory.empty((1000,), np.float64)
    large[...] = 1
    assert large.sum() == 1000


def test_threads_do_not_get_the_same_memory():
    memory, wrong = Memory(), []

    def work(number):
        for _ in range(200):
            array = memory.empty((64,), np.int64)
            array[...] = number
            if (array != number).any():
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
