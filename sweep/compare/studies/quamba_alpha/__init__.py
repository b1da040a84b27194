"""The questions of the study this project grew from, in its order, answered from the cells at hand."""

from sweep.compare.studies.quamba_alpha.questions import replies

__all__ = ["replies"]
