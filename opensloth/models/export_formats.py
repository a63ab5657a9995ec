"""The forms in which a result can leave OpenSloth, as API and trainer both know them; imports nothing heavy."""

from __future__ import annotations

from typing import Literal

Format = Literal["merged_16bit", "gguf", "adapter"]
Quantization = Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"]
"""What the `gguf` package itself can write; the K and IQ types need llama.cpp's `llama-quantize`."""

DEFAULT_QUANTIZATION: Quantization = "q8_0"
