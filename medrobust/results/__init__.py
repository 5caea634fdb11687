"""What an evaluation leaves behind: records of single images, summaries, tables, figures and reports."""
