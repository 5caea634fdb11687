"""What an evaluation leaves behind: a record of each image, summaries, tables, figures and reports."""
