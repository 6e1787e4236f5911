"""Set up Lightning's Trainer, processes and their messages. Nothing here knows a model."""
