"""Online augmentation: batches of cells as other microscopes, stains and cameras show them."""
