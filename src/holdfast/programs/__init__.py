"""Models with their computation, runnable without their class: TorchScript, torch.export, ONNX."""
