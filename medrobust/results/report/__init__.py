"""The report of one evaluation: figures, tables and one self-contained page."""
