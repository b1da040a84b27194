"""One cell and its files: its record, tables, tracking, Quamba's checkpoints, the same bits again.

Knows nothing of other cells."""
