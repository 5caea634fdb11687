"""Networks: what victims are built of, the taps on their layers, and their deployment copies."""
