"""How a bundle answers: batches, backends (torch, ONNX Runtime), the export, and which of them is the fastest that agrees."""
