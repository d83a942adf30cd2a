"""Publishing on the Hub: assemble a folder, look at it in a clean process, upload it once, look again."""
