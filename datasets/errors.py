"""The one error of storage and reading: what is wrong with which file, and what to do."""

from __future__ import annotations


class DataError(Exception):
    """A file, scene or store that cannot be used; its text is one sentence and needs no traceback.

    Args:
        subject: the file or sample that is wrong.
        reason: why it cannot be used.
        remedy: what the reader can do about it.

    Attributes:
        exit_code: exit status of the command line.
    """

    exit_code = 1

    def __init__(self, subject: object, reason: str, remedy: str) -> None:
        # Plain strings in args make the error survive pickling between worker processes.
        self.subject = str(subject)
        self.reason = " ".join(str(reason).split())
        self.remedy = remedy.rstrip(".")
        super().__init__(self.subject, self.reason, self.remedy)

    def __str__(self) -> str:
        return "{}: {}; {}.".format(*self.args)
