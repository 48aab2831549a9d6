"""Evaluation of a trained network: errors, analysis, nearest neighbours, figures."""
