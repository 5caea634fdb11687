"""Several runs side by side: tables, tests of pairs, and one self-contained page."""
