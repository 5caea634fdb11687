"""The report of an evaluation: tables, figures and one self-contained page."""
