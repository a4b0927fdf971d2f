"""Evaluation: LUNA16 FROC and classification scores."""
