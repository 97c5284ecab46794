"""Every error a user can meet, as one tree; each message is one sentence with its cure.

TwinError
├── UsageError                exit 2: the command or its input is wrong
│   ├── RepositoryError       not a git repository, bare, shallow, empty, unreadable, no source
│   │                         files
│   ├── ConfigError           a configuration file that does not parse or has an unknown key
│   ├── UnknownVersion        a model version that the registry does not know
│   ├── UnknownCall           a call that the store does not hold
│   ├── UnknownKey            a virtual key that the store does not hold
│   ├── BadPlan               a plan that cannot be read or carried out
│   ├── BadEdits              search/replace blocks that cannot be read, or do not fit their file
│   ├── PackDamaged           a repository pack that is not as it was written
│   ├── BadRequest            a request to the gateway that cannot be read
│   └── Untranslatable        a request that another dialect has no words for
├── MissingRequirement        exit 3: a program, package or permission is missing
├── EnvironmentFailed         exit 3: a project's environment could not be made
├── StoreError                exit 3: the store cannot be used
│   ├── StoreLocked           another process holds it
│   ├── StoreCorrupt          its file is damaged
│   ├── StoreTooNew           written by a newer version of this program
│   └── StoreFull             the disk is full
├── BackendError              exit 3: a model could not be asked, or did not answer as it should
│   ├── BackendUnreachable    nothing was sent: no connection, no name, no secret
│   ├── BackendTimeout        it took longer than the deadline
│   └── BackendBroken         the answer broke off, is no HTTP, or is too large
├── IllegalMove               exit 1: the registry refuses a promotion or rollback
└── Refused                   exit 1: the answer is no (a gate refused)

Raised where the fact is known; caught once, at the command's edge (`cli.main`).
"""


class TwinError(Exception):
    """A failure that a user can act on. `str(error)` is a sentence that ends with what to do."""

    exit_code = 2


class UsageError(TwinError):
    """The command or its input is wrong."""


class RepositoryError(UsageError):
    """The path is not a repository that can be learnt from."""


class ConfigError(UsageError):
    """A configuration file does not parse, or has a key or value that is not known."""


class UnknownVersion(UsageError):
    """The registry holds no such model version."""


class UnknownCall(UsageError):
    """The store holds no such call."""


class UnknownKey(UsageError):
    """The store holds no such virtual key."""


class BadPlan(UsageError, ValueError):
    """A plan is not the JSON that was asked for, or its steps do not fit together."""


class BadEdits(UsageError, ValueError):
    """Search/replace blocks break off, or do not fit the text that they are for."""


class PackDamaged(UsageError):
    """A file of a repository pack is missing, altered, or for another kind of machine."""


class BadRequest(UsageError, ValueError):
    """A request to the gateway cannot be read: no JSON, no object, or a field of the wrong type."""


class Untranslatable(UsageError, ValueError):
    """The dialect that a model speaks has no words for something in the request."""


class MissingRequirement(TwinError):
    """A program, a package or a permission is missing."""

    exit_code = 3


class EnvironmentFailed(TwinError):
    """The versions that a project needs could not be resolved, fetched or installed."""

    exit_code = 3


class StoreError(TwinError):
    """The store cannot be opened or written."""

    exit_code = 3


class StoreLocked(StoreError):
    """Another process holds the store."""


class StoreCorrupt(StoreError):
    """The store's file is damaged."""


class StoreTooNew(StoreError):
    """The store was written by a newer version of this program."""


class StoreFull(StoreError):
    """The disk that holds the store is full."""


class BackendError(TwinError):
    """A model could not be asked, or did not answer as it should."""

    exit_code = 3


class BackendUnreachable(BackendError):
    """Nothing reached the model: no connection, no such name, no secret. Safe to ask again."""


class BackendTimeout(BackendError):
    """The model took longer than its deadline."""


class BackendBroken(BackendError):
    """The answer broke off, is not HTTP, or is larger than allowed."""


class IllegalMove(TwinError):
    """The registry does not allow this change of status."""

    exit_code = 1


class Refused(TwinError):
    """The answer is no: a gate refused the candidate."""

    exit_code = 1
