"""Write models as files that other programs run, and check that they answer as the model does."""

from gmsop.export.exporting import Exported, export_model, verify

__all__ = ["Exported", "export_model", "verify"]
