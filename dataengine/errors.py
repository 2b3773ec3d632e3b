"""Every error that we raise on purpose. A message states what happened, what was expected and what to do
next.

ClinicError
├── InputRefused            an input cannot be used; other inputs are processed
│   ├── ImageRefused        a file is no supported image, or too large
│   ├── MaskRefused         a mask or label map has the wrong size, class or encoding
│   ├── ConfigRefused       a setting is out of range or contradicts another
│   └── ModelRefused        a model folder holds something that is never loaded (pickle, code, unknown class)
├── StorageError
│   ├── NotFound            no such image, label, detector, …
│   ├── Conflict            a concurrent change: stale revision, lost lease, moved cursor
│   ├── WorkspaceUnusable   the folder is read-only, missing, or of a newer version
│   │   └── Unavailable     full, locked or not answering: it may pass by itself, and work retries it
│   └── Corrupt             stored bytes do not match their hash
├── WorkError
│   ├── Cancelled           a stop was requested
│   ├── Paused              a pause was requested; the work so far is kept
│   ├── JobFailed           a job ended without a result
│   └── ServiceAbsent       no worker or inference service answers
├── NonFinite               a loss or gradient is not finite; names the step
├── OutOfMemory             a computation did not fit into memory; suggests settings that need less
├── NothingLearned          the first update did not change the trained weights
└── AccessDenied            the role does not allow it
"""


def reason_of(error: BaseException) -> str:
    """What another library's error says, on one line; its kind if it says nothing."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on whichever device; torch's error is known by its name."""
    if isinstance(error, (MemoryError, OutOfMemory)) or type(error).__name__ == "OutOfMemoryError":
        return True
    message = str(error)
    return "out of memory" in message or "can't allocate memory" in message


class ClinicError(Exception):
    """Base of every error that a command shows as one clear line."""


class InputRefused(ClinicError):
    """An input from outside cannot be used."""


class ImageRefused(InputRefused):
    """A file is no supported image, or exceeds the limits."""


class MaskRefused(InputRefused):
    """A mask or label map has the wrong size, class or encoding."""


class ConfigRefused(InputRefused):
    """A setting is out of range or contradicts another."""


class ModelRefused(InputRefused):
    """A model folder holds something that is never loaded."""


class StorageError(ClinicError):
    """Base of errors of stored data."""


class NotFound(StorageError):
    """No record with that id."""


class Conflict(StorageError):
    """A concurrent change: the revision is stale, the lease was lost, or the cursor has moved."""


class WorkspaceUnusable(StorageError):
    """The workspace is read-only, full or missing, or a newer version wrote it."""


class Unavailable(WorkspaceUnusable):
    """The disk is full, or the database or blob store is locked or does not respond.

    It may pass without anyone changing a setting, so workers retry what it interrupts.
    """


class Corrupt(StorageError):
    """Stored bytes do not match their hash."""


class WorkError(ClinicError):
    """Base of errors of jobs and services."""


class Cancelled(WorkError):
    """A stop was requested."""


class Paused(WorkError):
    """A pause was requested; the work so far is kept, and the job resumes exactly."""


class JobFailed(WorkError):
    """A job ended without a result."""


class ServiceAbsent(WorkError):
    """No worker or inference service answers."""


class NonFinite(ClinicError):
    """A loss or gradient is not finite."""

    def __init__(self, what: str, step: int) -> None:
        super().__init__(
            f"{what} became non-finite at step {step}; the weights from before that step were kept. "
            "Lower the learning rate or the clipping norm, then resume."
        )
        self.step = step


class OutOfMemory(ClinicError):
    """A computation did not fit into memory."""


class NothingLearned(ClinicError):
    """The first update did not change the trained weights, or a reward says the same of every image."""


class AccessDenied(ClinicError):
    """The signed-in person's role does not allow this."""
