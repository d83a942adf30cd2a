"""Training: recipes, augmentation, losses, optimiser groups, the Trainer."""
