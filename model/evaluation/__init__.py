"""What a trained network is worth: errors, analysis, neighbours, figures."""
