from itertools import islice

import numpy as np
import pytest

from ntk_train.data import ArraySource

pytest.importorskip("grain")

from ntk_train.data.pipeline import eval_batches, train_batches

# The label is the index, so that batches show which examples they hold.
SOURCE = ArraySource(np.arange(10, dtype=np.float32).reshape(10, 1, 1, 1), np.arange(10))


def labels(count, **arguments):
    return [batch["label"].tolist() for batch in islice(train_batches(SOURCE, **arguments), count)]


def test_a_resumed_iteration_sees_the_same_batches():
    whole = labels(12, batch_size=4, seed=3)
    for start in (1, 5, 11):
        assert labels(12 - start, batch_size=4, seed=3, start_step=start) == whole[start:]


def test_each_epoch_holds_each_example_once_in_a_new_order():
    seen = np.concatenate(labels(5, batch_size=4, seed=3))
    first, second = seen[:10].tolist(), seen[10:].tolist()
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second
    assert labels(5, batch_size=4, seed=4) != labels(5, batch_size=4, seed=3)


def test_images_stay_with_their_labels():
    batch = next(train_batches(SOURCE, batch_size=25, seed=0))
    assert batch["image"].dtype == np.float32
    np.testing.assert_array_equal(batch["image"][:, 0, 0, 0], batch["label"])


@pytest.mark.parametrize("batch_size", [1, 4, 5, 10, 16])
def test_evaluation_counts_each_example_once(batch_size):
    batches = list(eval_batches(SOURCE, batch_size=batch_size))
    assert {batch["image"].shape[0] for batch in batches} == {batch_size}
    label = np.concatenate([batch["label"] for batch in batches])
    weight = np.concatenate([batch["weight"] for batch in batches])
    assert label[weight == 1].tolist() == list(range(10))
    assert set(weight) <= {0.0, 1.0}


class Jittered:
    """A source whose augmented examples show what they were drawn from."""

    labels = np.arange(10)

    def __len__(self):
        return 10

    def __getitem__(self, index):
        return {"image": np.float64(index), "label": self.labels[index]}

    def augmented(self, index, rng):
        return {"image": index + rng.uniform(), "label": self.labels[index]}


def images(source, count, **arguments):
    return np.stack([batch["image"] for batch in islice(train_batches(source, **arguments), count)])


def test_random_changes_are_the_same_after_a_resume_and_new_in_each_epoch():
    whole = images(Jittered(), 8, batch_size=4, seed=3)
    for threads in (0, 3):
        resumed = images(Jittered(), 5, batch_size=4, seed=3, start_step=3, num_threads=threads)
        np.testing.assert_array_equal(resumed, whole[3:])
    assert len(set(whole.ravel().tolist())) == 32
    assert set(np.floor(whole.ravel()[:10])) == set(range(10))
    plain = images(Jittered(), 8, batch_size=4, seed=3, augment=False)
    np.testing.assert_array_equal(plain, np.floor(whole))


@pytest.mark.parametrize("count", [1, 2, 4])
def test_the_slices_of_processes_together_are_the_global_batch(count):
    arguments = {"batch_size": 8, "seed": 5, "start_step": 2}
    whole = images(Jittered(), 4, **arguments)
    parts = [
        images(Jittered(), 4, process_index=p, process_count=count, **arguments)
        for p in range(count)
    ]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_processes_together_evaluate_each_example_once(count):
    label, weight = [], []
    for p in range(count):
        batches = list(eval_batches(SOURCE, batch_size=4, process_index=p, process_count=count))
        assert len(batches) == 3  # on every process, for collectives run on all
        label += [batch["label"] for batch in batches]
        weight += [batch["weight"] for batch in batches]
    label, weight = np.concatenate(label), np.concatenate(weight)
    assert sorted(label[weight == 1].tolist()) == list(range(10))


def test_evaluation_is_never_augmented():
    for threads in (0, 2):
        (batch,) = eval_batches(Jittered(), batch_size=10, num_threads=threads)
        np.testing.assert_array_equal(batch["image"], np.arange(10))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": 4, "start_step": -1}, "start_step=-1"),
        ({"batch_size": 4, "process_count": 3}, "batch_size=4 .*process_count=3.*a multiple"),
        ({"batch_size": 4, "process_count": 0}, "process_count=0"),
        ({"batch_size": 4, "process_count": 2, "process_index": 2}, "=2; expected 0 to 1"),
        ({"batch_size": 4, "num_threads": -1}, "num_threads=-1"),
    ],
)
def test_bad_arguments_are_named(arguments, text):
    with pytest.raises(ValueError, match=text):
        train_batches(SOURCE, seed=0, **arguments)


def test_an_empty_source_is_refused():
    with pytest.raises(ValueError, match="no examples"):
        train_batches(ArraySource(SOURCE.images[:0], SOURCE.labels[:0]), batch_size=1, seed=0)
