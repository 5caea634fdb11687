"""Whether Weights & Biases can be used: is there a key, and does the server answer?"""

import logging
import netrc
import os
import socket
from urllib.parse import urlparse

logger = logging.getLogger(__name__)


def server() -> str:
    """Address of W&B's server: that of WANDB_BASE_URL, or the public one."""
    return os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")


def logged_in() -> bool:
    """Whether there is a key for W&B in the environment or in the netrc file."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(urlparse(server()).hostname or "") is not None
    except (OSError, netrc.NetrcParseError):
        return False


def reachable(seconds: float = 3.0) -> bool:
    """Whether W&B's server accepts a connection within this many seconds."""
    address = urlparse(server())
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        with socket.create_connection((address.hostname or "", port), timeout=seconds):
            return True
    except OSError:
        logger.info("W&B cannot be reached: this run is logged offline; upload it later with wandb sync")
        return False
