"""Errors raised by AdaCache. Every message says what was met, what was expected and what to do."""


class AdaCacheError(Exception):
    """Base of every error AdaCache raises on purpose."""


class ConfigurationError(AdaCacheError, ValueError):
    """A setting is out of range or contradicts another one."""


class UnsupportedModelError(AdaCacheError, TypeError):
    """The model is not a video DiT with a known layout, or its layout is not the one we know."""


class ShapeMismatchError(AdaCacheError, RuntimeError):
    """A cached tensor does not fit the tensor it should be replayed onto."""
