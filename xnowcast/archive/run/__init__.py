"""How long work on an archive goes on: its batches, engines, locks and progress."""
