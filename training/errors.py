"""What may go wrong in a way that a person can mend; each ends the run with a message and a status."""


class TrainingError(RuntimeError):
    """Base of all of them."""

    status = 2


class ConfigError(TrainingError):
    """Settings that cannot be used."""


class NoReadableVideoError(TrainingError):
    """Not one of the videos could be read."""


class CheckpointError(TrainingError):
    """A checkpoint that cannot be used."""


class DataError(TrainingError):
    """The loader came to a halt in mid-run."""

    status = 1


class DivergedError(TrainingError):
    """The loss is no longer finite."""

    status = 1
