"""Errors of the core that a user can act on: subject, reason and remedy in one sentence."""


class UserError(Exception):
    """An error whose text is an answer: what, why and what to do; never needs a traceback.

    Args:
        subject: the field, file or object that is wrong.
        reason: why it cannot be used.
        remedy: what the reader can do about it.

    Attributes:
        exit_code: exit status of the command line, 2 for usage and 1 for data.
    """

    exit_code = 1

    def __init__(self, subject: object, reason: str, remedy: str) -> None:
        super().__init__(subject, reason, remedy)
        self.subject, self.reason, self.remedy = str(subject), reason, remedy

    def __str__(self) -> str:
        return f"{self.subject}: {self.reason}; {self.remedy.rstrip('.')}."


class UsageError(UserError):
    """A request that cannot be carried out as it was written (exit code 2)."""

    exit_code = 2


class WeightsError(UserError):
    """Weights or a model directory that do not fit or cannot be trusted (exit code 1)."""
