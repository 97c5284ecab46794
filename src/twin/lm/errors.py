"""What can go wrong in this room, as one tree; each message is a sentence with its cure.

LmError
├── BadConfig            a shape, preset or recipe that cannot be built
├── BadCorpus            training text that is empty, binary, unreadable or too short
├── BadTokens            text or token numbers that the vocabulary does not hold
├── BadCheckpoint        a folder that is damaged, of another shape, version or vocabulary
├── BadState             a recurrent state that belongs to another model or batch
├── KernelUnavailable    a backend that cannot run here: no compiler, no GPU, no package
└── NotEnoughMemory      foreseen before it starts
"""


class LmError(Exception):
    """A failure that a user can act on. `str(error)` is a sentence that ends with what to do."""


class BadConfig(LmError, ValueError):
    """A shape, preset or recipe cannot be built."""


class BadCorpus(LmError, ValueError):
    """There is no training text, or not of a kind that can be learnt from."""


class BadTokens(LmError, ValueError):
    """Text or token numbers that the vocabulary does not hold."""


class BadCheckpoint(LmError, ValueError):
    """A checkpoint is damaged, or of another shape, version or vocabulary."""


class BadState(LmError, ValueError):
    """A recurrent state belongs to another model or another batch."""


class KernelUnavailable(LmError, RuntimeError):
    """A backend cannot run on this machine."""


class NotEnoughMemory(LmError, MemoryError):
    """What was asked for does not fit, found out before it started."""
