"""Deployment of a trained network: its codes packed into bytes, its ONNX files, and what it costs."""

from saqlib.onnx_export import export_explanation, export_onnx
from saqlib.packing import pack, unpack

__all__ = ["export_explanation", "export_onnx", "pack", "unpack"]
