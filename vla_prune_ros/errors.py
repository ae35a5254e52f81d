"""Errors that a user reads: each names the thing that is wrong and the remedy, in one line."""


class VlaPruneError(Exception):
    """Base of all errors this package raises on purpose."""

    def __init__(self, what: str, remedy: str) -> None:
        self.what, self.remedy = what, remedy
        super().__init__(f'{what}; {remedy}')


class CheckpointError(VlaPruneError):
    """A checkpoint folder is missing, broken or contradicts the profile."""


class ProfileError(VlaPruneError):
    """A robot profile or a configuration value is not usable."""


class DataError(VlaPruneError):
    """A recording or a data set is missing, broken, or does not fit the profile."""


class _Refused(VlaPruneError):
    """:param reason: short constant under which diagnostics count it, for example ``encoding``."""

    def __init__(self, reason: str, what: str, remedy: str) -> None:
        self.reason = reason
        super().__init__(what, remedy)


class InputRefused(_Refused):
    """One message or observation is not usable; the stream goes on."""


class ActionRefused(_Refused):
    """The policy's output must not reach a robot (not finite, or beyond a limit)."""
