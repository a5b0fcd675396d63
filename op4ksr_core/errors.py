"""What can go wrong, by name. Every message carries the offending value and a remedy."""


class Op4ksrError(Exception):
    """Base of all errors this project raises on purpose."""


class SettingError(Op4ksrError, ValueError):
    """A setting is outside its range."""


class ImageError(Op4ksrError):
    """A picture cannot be read or has an unusable shape."""


class NotMeasurable(ImageError):
    """A measure says nothing of such a picture: it is too small, or flat."""


class WeightsError(Op4ksrError):
    """Weights are missing, damaged, of another model, or in a refused format."""


class ComfyVersionError(Op4ksrError):
    """This ComfyUI is older than the oldest supported one, or its internals are not those that were tested."""


class MemoryPlanError(Op4ksrError):
    """The estimated peak memory does not fit the machine."""


class PrecisionError(Op4ksrError):
    """A model gave NaN or infinity."""


class OutputError(Op4ksrError):
    """A result cannot be written."""


class Cancelled(Op4ksrError):
    """The caller asked to stop."""


class TrainingError(Op4ksrError):
    """A training cannot go on: a loss or gradient is not a number."""
