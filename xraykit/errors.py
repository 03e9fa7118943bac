"""Errors that a user can act on: each message names the value, the limit and the fix.

The command line prints them without a traceback; everything else is a bug and keeps its traceback.
"""


class XraykitError(Exception):
    """Base of every error that xraykit raises on purpose."""


class DataError(XraykitError, ValueError):
    """The data, or an argument that describes it, is not what the function can use."""


class BadImageError(DataError):
    """One image file cannot be used; loaders list it as excluded and go on."""


class DataNotFoundError(XraykitError, FileNotFoundError):
    """A data set is not where it was looked for; the message says where, what was there, how to get it."""


class DownloadError(XraykitError, RuntimeError):
    """A download failed; the message lists the manual steps."""


class StorageError(XraykitError, OSError):
    """A folder cannot be written or the disk is full."""


class RunError(XraykitError, RuntimeError):
    """A notebook run cannot start, or one of its notebooks failed."""


class TrainingError(XraykitError, RuntimeError):
    """Training cannot go on: the loss is not finite, or memory is exhausted."""


class TrainingMemoryError(TrainingError):
    """Training needs more memory than there is."""


class BundleError(XraykitError, ValueError):
    """A bundle cannot be written, or is damaged, newer than this version, or not to be trusted."""
