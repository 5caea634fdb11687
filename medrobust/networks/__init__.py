"""Networks: what victims are built of, the taps on their layers, and their deployment copies."""

from medrobust.networks.victims import ModuleVictim, Victim, as_victim, frozen

__all__ = ["ModuleVictim", "Victim", "as_victim", "frozen"]
