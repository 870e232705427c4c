"""Size of a session on a GPU and the time to move it: arithmetic over published shapes and data sheets.

fleet_sizes.py prints, for sessions of 32k and 128k tokens, each cell as full / 8x / 8x and int8, seconds where it is
no count. No number of it was measured; the shapes and parameters are those of each model's config.json and model card
(Qwen/Qwen2.5-7B-Instruct, Qwen/Qwen2.5-32B-Instruct, meta-llama/Meta-Llama-3-70B-Instruct).
"""

from __future__ import annotations

from dataclasses import dataclass

GPU_BYTES = 80e9  # NVIDIA H100 SXM data sheet
RESERVE = 0.1  # of it for activations and the allocator: assumed
BANDWIDTH = 3.35e12  # bytes a second (the same data sheet)
PEAK = 989e12  # dense bfloat16 operations a second (the same data sheet)
USED = 0.4  # of the peak that a prefill reaches: assumed
DECODE = 40.0  # tokens a second of one session in a batch: assumed
RATIO = 8  # tokens per slot
CODED_ROW = 32  # numbers that share a scale of 2 bytes (model/slots.py)
LINKS = {"10 Gb/s": 10e9 / 8, "100 Gb/s": 100e9 / 8, "NVMe, 7 GB/s": 7e9}  # line rates; data sheets of PCIe 4.0 drives


@dataclass(frozen=True)
class Model:
    """A published shape, on so many GPUs."""

    name: str
    parameters: float
    layers: int
    heads: int
    kv_heads: int
    dim: int
    gpus: int

    def slot(self, form: str) -> float:
        """Returns the bytes of one token or slot in all layers and heads; packed slots have a position
        of 4 bytes each.
        """
        row = {"full": 2 * 2 * self.dim, "8x": 2 * 2 * self.dim + 4}.get(form)
        coded = 2 * (self.dim + 2 * self.dim / CODED_ROW) + 4
        return self.layers * self.kv_heads * (coded if row is None else row)

    def memory_bytes(self, tokens: float, form: str) -> float:
        return tokens * self.slot(form) / (1 if form == "full" else RATIO)

    @property
    def room(self) -> float:
        """Bytes for sessions beside the weights in bfloat16."""
        return max(0.0, self.gpus * GPU_BYTES * (1 - RESERVE) - 2 * self.parameters)

    @property
    def bandwidth(self) -> float:
        """Bytes a second that are left for sessions when a batch answers, which reads the weights once a token."""
        return max(0.0, self.gpus * BANDWIDTH - 2 * self.parameters * DECODE)

    def prefill(self, tokens: float, behind: float = 0.0) -> float:
        """Seconds: two operations per weight and token, four per token, key and query channel."""
        attention = 4 * self.layers * self.heads * self.dim * tokens * (behind + tokens / 2)
        return (2 * self.parameters * tokens + attention) / (self.gpus * PEAK * USED)


FORMS = ("full", "8x", "8x + int8")
MODELS = (
    Model("Qwen2.5-7B", 7.61e9, 28, 28, 4, 128, 1),
    Model("Qwen2.5-32B", 32.5e9, 64, 40, 8, 128, 1),
    Model("Qwen2.5-32B", 32.5e9, 64, 40, 8, 128, 2),
    Model("Llama-3-70B", 70.6e9, 80, 64, 8, 128, 2),
    Model("Llama-3-70B", 70.6e9, 80, 64, 8, 128, 4),
)


def sizes() -> None:
    """Prints memory, room, bandwidth and time to move for sessions of 32k and 128k tokens: full / 8x / 8x and int8."""
    heads = ("model, GPUs", "session", "MB held", "sessions in memory", f"read at once at {DECODE:g} tokens/s", *LINKS)
    print(f"| {' | '.join(heads)} | prefill again |")
    print("|---|--:|" + "--:|" * (len(heads) - 1))
    for model in MODELS:
        for tokens in (32_768, 131_072):
            held = [model.memory_bytes(tokens, form) for form in FORMS]
            cells = [
                [f"{size / 1e6:,.0f}" for size in held],
                [str(int(model.room // size)) for size in held],
                [str(int(model.bandwidth // (size * DECODE))) for size in held],
                *([f"{size / speed:.2f}" for size in held] for speed in LINKS.values()),
            ]
            row = [f"{model.name}, {model.gpus}", f"{tokens // 1024}k", *(" / ".join(cell) for cell in cells)]
            print(f"| {' | '.join(row)} | {model.prefill(tokens):.1f} |")


if __name__ == "__main__":
    print(
        f"{RESERVE:.0%} of {GPU_BYTES / 1e9:.0f} GB kept free, a prefill at {USED:.0%} of {PEAK / 1e12:.0f} TFLOP/s\n"
    )
    sizes()
