"""Installs the programs of `versions.toml`, each into a folder of its own: `python tests/agents/install.py FOLDER`.

Nothing outside FOLDER is read or written, npm's cache and its settings included. A program that is there is left alone;
one that cannot be had here is named, and its tests skip.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

PINS: dict[str, dict[str, str]] = tomllib.loads((Path(__file__).parent / "versions.toml").read_text())
_NPM = ("npm", "install", "--no-audit", "--no-fund", "--no-update-notifier", "--loglevel=error")


def folder_of(name: str, root: Path) -> Path:
    """Returns the folder of a program in this version."""
    return root / f"{name}-{PINS[name]['version']}"


def install(name: str, root: Path) -> None:
    """Installs one program. Raises CalledProcessError or OSError where that fails, and leaves nothing half done."""
    pin, target = PINS[name], folder_of(name, root)
    new = target.with_suffix(".new")
    shutil.rmtree(new, ignore_errors=True)
    home = root / "install-home"
    home.mkdir(parents=True, exist_ok=True)
    environment = {key: os.environ[key] for key in ("PATH", "LANG") if key in os.environ} | {"HOME": str(home)}
    if "npm" in pin:
        wanted = f"{pin['npm']}@{pin['version']}"
        command = [*_NPM, "--cache", str(root / "npm-cache"), "--prefix", str(new), wanted]
        subprocess.run(command, check=True, env=environment | _registry("npm_config_registry"))
        if "after" in pin:
            package = new / "node_modules" / pin["npm"]
            subprocess.run(["node", pin["after"]], check=True, env=environment, cwd=package)
        new.rename(target)
    else:  # scripts of a virtual environment hold its path
        subprocess.run([sys.executable, "-m", "venv", str(target)], check=True)
        pip = [str(target / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        try:
            subprocess.run([*pip, f"{pin['pip']}=={pin['version']}"], check=True)
        except subprocess.CalledProcessError:
            shutil.rmtree(target)
            raise


def _registry(key: str) -> dict[str, str]:
    """Returns the registry that npm is set to here, which a home of its own would hide."""
    found = subprocess.run(["npm", "config", "get", "registry"], capture_output=True, text=True, check=True)
    return {key: found.stdout.strip()}


def main(root: Path) -> None:
    """Installs what is missing and says what could not be had."""
    for name in PINS:
        if folder_of(name, root).exists():
            continue
        print(f"installing {name} {PINS[name]['version']}", flush=True)  # noqa: T201
        try:
            install(name, root)
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"{name} cannot be installed here ({error}); its tests are skipped")  # noqa: T201


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute())
