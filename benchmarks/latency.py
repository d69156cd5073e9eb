"""Latency of the exported networks in ONNX Runtime, one thread, as ratios within one run."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import onnxruntime

from benchmarks.steps import sample_batches
from benchmarks.timing import Times, interleaved
from saqlib.deploy.onnx import export_explanation, export_onnx
from saqlib.lenet import build
from study.settings import Study

BATCHES = (1, 128)
CALLS = {1: 50, 128: 2}  # calls of the runtime a timed call


def rows(settings: Study, rounds: int) -> list[dict[str, str]]:
    """Each precision's prediction against the reference's, and each one's explanation against its own prediction."""
    reference = settings.claims.reference
    table = []
    with tempfile.TemporaryDirectory() as folder:
        sessions = {}
        for precision in settings.precisions:
            network = build(settings.precisions[precision], shape=settings.shape, seed=0)
            for kind, export in (("logits", export_onnx), ("map", export_explanation)):
                path = Path(folder) / f"{precision}.{kind}.onnx"
                export(network.eval(), path, packed=False)
                sessions[f"{precision} {kind}"] = session(path)
        for batch in BATCHES:
            times = measure(sessions, batch, rounds)
            base = times.milliseconds(f"{reference} logits")
            for precision in settings.precisions:
                logits, explanation = (times.milliseconds(f"{precision} {kind}") for kind in ("logits", "map"))
                table.append(
                    {
                        "precision": precision,
                        "batch": str(batch),
                        f"prediction / {reference} prediction": f"{logits / base:.2f}",
                        "explanation / prediction": f"{explanation / logits:.2f}",
                        "ms here": f"{logits / CALLS[batch]:.3f}, {explanation / CALLS[batch]:.3f}",
                    }
                )
    return table


def session(path: Path) -> onnxruntime.InferenceSession:
    """The file in one thread, otherwise as the runtime comes."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def measure(sessions: dict[str, onnxruntime.InferenceSession], batch: int, rounds: int) -> Times:
    images = sample_batches(batch, 1)[0][0].numpy()

    def call(runtime: onnxruntime.InferenceSession) -> Callable[[], None]:
        def run() -> None:
            for _ in range(CALLS[batch]):
                runtime.run(None, {"images": images})

        return run

    return interleaved({name: call(runtime) for name, runtime in sessions.items()}, rounds)
