"""Lightning's Trainer as gmsop uses it, processes and their messages. Knows no model."""
