"""What a trained model is worth: its probabilities calibrated, sets that cover, doubt, and what it does not know."""
