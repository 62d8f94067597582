"""Errors whose message is for the person at the command line."""

from ..common.errors import MessageError


class ConfigError(MessageError, ValueError):
    """A flag or a configuration file is wrong; the message begins with the flag's name."""


class TrainingError(MessageError, RuntimeError):
    """Training cannot go on; the message says why, and what to do."""


class NotFiniteError(TrainingError):
    """The loss became NaN or infinite; the message says at which step and on which files."""


class DeviceError(TrainingError):
    """The device of this process has failed or has no memory left."""


class CacheError(MessageError, RuntimeError):
    """A file of the cache on disk cannot be read or written by this process."""
