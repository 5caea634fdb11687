"""The library's listeners as Lightning callbacks, so that a trainer and a configuration can hold them.

Each listens to the ``Robustness`` callback of the same trainer; the class that it derives from says what it does.
"""

from pytorch_lightning.callbacks import Callback

from medrobust import listeners


class Detection(listeners.Detection, Callback):
    """The listener of that name, as a callback."""


class Panels(listeners.Panels, Callback):
    """The listener of that name, as a callback."""


class Quality(listeners.Quality, Callback):
    """The listener of that name, as a callback."""


class RecordJournal(listeners.RecordJournal, Callback):
    """The listener of that name, as a callback."""


class Representation(listeners.Representation, Callback):
    """The listener of that name, as a callback."""


class Transfer(listeners.Transfer, Callback):
    """The listener of that name, as a callback."""
