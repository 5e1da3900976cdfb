"""A DataError is one sentence, and survives the way home from another process."""

import pickle

from mimkit.datasets import DataError


def test_text_is_one_sentence_and_pickles() -> None:
    error = DataError("a.tif", "is\n  truncated", "download it again.")
    assert str(error) == "a.tif: is truncated; download it again."
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.exit_code, copy.subject) == (str(error), 1, "a.tif")
