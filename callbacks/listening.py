"""The library's listeners as Lightning callbacks, so that a trainer and a configuration can hold them.

Each listens to the ``Robustness`` callback of the same trainer; the class that it derives from says what it does.
"""

from pytorch_lightning.callbacks import Callback

from medrobust import listeners


class Detection(listeners.Detection, Callback):
    """Fits detectors of adversarial images, then scores every attacked image."""


class Panels(listeners.Panels, Callback):
    """Saves the pictures that the report shows."""


class Quality(listeners.Quality, Callback):
    """Measures PSNR, SSIM and BRISQUE of every attacked image."""


class RecordJournal(listeners.RecordJournal, Callback):
    """Writes a record of every attacked image, and resumes."""


class Representation(listeners.Representation, Callback):
    """Compares features before and after each attack."""


class Studies(listeners.Studies, Callback):
    """Lets studies look at some images, of which figures are made."""


class Transfer(listeners.Transfer, Callback):
    """Shows every adversarial image to other victims, the judges."""
