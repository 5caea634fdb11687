"""Listeners: what is measured of an evaluation, written down and shown, without Lightning."""

from medrobust.listeners.detection import Detection
from medrobust.listeners.journal import RecordJournal
from medrobust.listeners.panels import Panels
from medrobust.listeners.quality import Quality
from medrobust.listeners.representation import Representation
from medrobust.listeners.studies import Studies
from medrobust.listeners.transfer import Transfer

__all__ = ["Detection", "Panels", "Quality", "RecordJournal", "Representation", "Studies", "Transfer"]
