"""Torch zip files: what torch.save writes since torch 1.6."""
