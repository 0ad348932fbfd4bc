"""Export folders: what `export.json` says, and clips made with nothing but such a folder. Does not import torch."""
