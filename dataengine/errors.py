"""Every error that we raise on purpose. The message says what happened, what was expected, what to do next.

ClinicError
├── InputRefused            something a person gave us cannot be used; the rest of their work goes on
│   ├── ImageRefused        a file is no image that we read, or too large
│   ├── MaskRefused         a mask or label map has the wrong size, class or encoding
│   ├── ConfigRefused       a setting is out of range or contradicts another
│   └── ModelRefused        a model folder holds something that we do not load (pickle, code, unknown class)
├── StorageError
│   ├── NotFound            no such image, label, detector, …
│   ├── Conflict            somebody else was first: stale revision, lost lease, moved cursor
│   ├── WorkspaceUnusable   the folder is read-only, full, missing, or of a newer version
│   └── Corrupt             stored bytes do not match their hash
├── WorkError
│   ├── Cancelled           a person asked to stop
│   ├── Paused              a person asked to wait; all that was done is kept
│   ├── JobFailed           a job ended without a result
│   └── ServiceAbsent       no worker or inference service answers
├── NonFinite               a loss or gradient is no longer a number; names the step
├── OutOfMemory             a computation did not fit; says what would make it smaller
├── NothingLearned          the first update left the trained weights as they were
└── AccessDenied            the role does not allow it
"""


class ClinicError(Exception):
    """Base of every error that a command shows as one clear line."""


class InputRefused(ClinicError):
    """Something given from outside cannot be used."""


class ImageRefused(InputRefused):
    """A file is no image that we read, or larger than the limits."""


class MaskRefused(InputRefused):
    """A mask or label map has the wrong size, class or encoding."""


class ConfigRefused(InputRefused):
    """A setting is out of range or contradicts another."""


class ModelRefused(InputRefused):
    """A model folder holds something that we do not load."""


class StorageError(ClinicError):
    """Base of what can go wrong with kept data."""


class NotFound(StorageError):
    """No record with that id."""


class Conflict(StorageError):
    """Somebody else was first: a stale revision, a lost lease, a moved cursor."""


class WorkspaceUnusable(StorageError):
    """The workspace is read-only, full, missing, or was written by a newer version."""


class Corrupt(StorageError):
    """Stored bytes do not match their hash."""


class WorkError(ClinicError):
    """Base of what can go wrong with jobs."""


class Cancelled(WorkError):
    """A person asked to stop."""


class Paused(WorkError):
    """A person asked to wait; all that was done is kept, so it goes on exactly."""


class JobFailed(WorkError):
    """A job ended without a result."""


class ServiceAbsent(WorkError):
    """No worker or inference service answers."""


class NonFinite(ClinicError):
    """A loss or gradient is no longer a finite number."""

    def __init__(self, what: str, step: int) -> None:
        super().__init__(
            f"{what} became non-finite at step {step}; weights were left as before that step. "
            "Lower the learning rate or the clipping norm, then resume."
        )
        self.step = step


class OutOfMemory(ClinicError):
    """A computation did not fit into memory."""


class NothingLearned(ClinicError):
    """The first update left the trained weights as they were."""


class AccessDenied(ClinicError):
    """The signed-in person's role does not allow this."""
