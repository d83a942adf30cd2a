"""Using a trained model: loading it safely, exporting it to ONNX, and looking at what it attended to."""
