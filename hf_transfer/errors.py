"""The errors that hf_transfer raises: each says what was expected, what was found and what to do.

Every class derives from `TransferError` and from the builtin that code without knowledge of hf_transfer would catch.
"""

from __future__ import annotations


class TransferError(Exception):
    """Base of all errors that hf_transfer raises on purpose; the command line prints them as one line."""


class ArgumentError(TransferError, ValueError):
    """An argument, flag or configuration value is missing, unknown or contradicts another one."""


class CacheError(TransferError, OSError):
    """The feature cache cannot hold what it should: over its cap, no space on the disk, or no permission."""


class CutError(TransferError, RuntimeError):
    """A model cannot be cut at the freeze boundary; the message is the reason, as part of a sentence."""


class DataError(TransferError, ValueError):
    """A data set cannot be used: nothing found, labels missing or contradictory, too many unreadable images."""


class DependencyError(TransferError, ImportError):
    """An optional package is missing, or another distribution hides ours."""


class FrozenChangedError(TransferError, RuntimeError):
    """A tensor that the phase had frozen is not the same, bit for bit, at the end of the phase."""


class InterruptedTrainingError(TransferError, KeyboardInterrupt):
    """A signal asked the run to stop; it finished its step and saved a checkpoint first.

    Attributes:
        exit_code: Exit code of the command line: 128 and the number of the signal, 130 for SIGINT and 143 for SIGTERM.
    """

    exit_code = 1


class LayerGroupError(TransferError, ValueError):
    """Layer groups do not partition the parameters of a model."""


class ModelError(TransferError, ValueError):
    """A model cannot be loaded, or is not an image classifier that can be trained."""


class NonFiniteLossError(TransferError, FloatingPointError):
    """The training loss is NaN or infinite."""


class OutputError(TransferError, OSError):
    """A result cannot be written: no space, no permission, or the folder holds another run."""


class PlanError(TransferError, ValueError):
    """A transfer plan is invalid, or does not fit the model or the other arguments."""


class PublishError(TransferError, RuntimeError):
    """A model could not be published, or what was published could not be verified; the local folder is whole."""


class ReplicasDifferError(TransferError, RuntimeError):
    """The processes of a distributed run do not hold the same weights."""


class SelectorError(PlanError):
    """A phase's `train=` selector is malformed or matches nothing in the model."""


class TruncationError(TransferError, ValueError):
    """A model's configuration cannot express that it ends after a layer group."""


class UnknownArchitectureError(TransferError, LookupError):
    """No wrapper is registered for a model and its layer groups could not be, or must not be, inferred."""
