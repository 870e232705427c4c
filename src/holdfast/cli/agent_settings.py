"""Settings by which coding agents talk to `holdfast proxy` or `holdfast serve`, one entry for each agent.

A setting is the content of a file, environment variables, or a command of the agent's own. Base URLs end in `/v1` for
agents of OpenAI's wires and have no path for those of Anthropic's and Google's.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

KEY = "holdfast"  # `serve` on this machine takes any key
CONTEXT = 128_000  # tokens that a provider's model is taken to read, where an agent must be told


@dataclass(frozen=True)
class Target:
    """The address that an agent is sent to."""

    url: str
    """Without a path."""
    serve: bool
    """True for `holdfast serve`, which has a model of its own; False for `holdfast proxy`."""
    model: str
    context: int = CONTEXT
    """Tokens that the model reads."""


@dataclass(frozen=True)
class Setting:
    """The settings of one agent for one target."""

    file: str = ""
    """Path of the file; `~` is the home folder, anything else is below the project."""
    content: str = ""
    variables: tuple[tuple[str, str], ...] = ()
    """Environment variables that the agent needs besides."""
    command: str = ""
    """The command that starts the agent, or sets it up."""


@dataclass(frozen=True)
class Agent:
    """A coding agent and the API that it speaks."""

    name: str
    upstream: str
    """Address of its usual provider, for the proxy."""
    setting: Callable[[Target], Setting]


def _claude_code(to: Target) -> Setting:
    env = {"ANTHROPIC_BASE_URL": to.url}
    if to.serve:
        env |= {"ANTHROPIC_API_KEY": KEY, "ANTHROPIC_MODEL": to.model, "ANTHROPIC_SMALL_FAST_MODEL": to.model}
    return Setting(".claude/settings.local.json", _json({"env": env}), command="claude")


def _codex(to: Target) -> Setting:
    key = "HOLDFAST_KEY" if to.serve else "OPENAI_API_KEY"
    content = (
        f'model = "{to.model}"\n'
        'model_provider = "holdfast"\n\n'
        "[model_providers.holdfast]\n"
        'name = "holdfast"\n'
        f'base_url = "{to.url}/v1"\n'
        f'env_key = "{key}"\n'
        'wire_api = "responses"\n'
    )
    return Setting("~/.codex/config.toml", content, ((key, KEY),) if to.serve else (), "codex")


def _opencode(to: Target) -> Setting:
    key = KEY if to.serve else "{env:OPENAI_API_KEY}"
    limit = {"context": to.context, "output": 4096}
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "name": "holdfast",
        "options": {"baseURL": f"{to.url}/v1", "apiKey": key},
        "models": {to.model: {"name": to.model, "limit": limit}},
    }
    config = {
        "$schema": "https://opencode.ai/config.json",
        "model": f"holdfast/{to.model}",
        "small_model": f"holdfast/{to.model}",
        "provider": {"holdfast": provider},
    }
    return Setting("opencode.json", _json(config), command="opencode")


def _pi(to: Target) -> Setting:
    model = {
        "id": to.model,
        "name": to.model,
        "input": ["text"],
        "cost": {"input": 0, "output": 0, "cacheRead": 0, "cacheWrite": 0},
        "contextWindow": to.context,
        "maxTokens": 4096,
    }
    key = KEY if to.serve else "OPENAI_API_KEY"
    provider = {"baseUrl": f"{to.url}/v1", "api": "openai-completions", "apiKey": key, "models": [model]}
    start = f"pi --provider holdfast --model {to.model}"
    return Setting("~/.pi/agent/models.json", _json({"providers": {"holdfast": provider}}), command=start)


def _gemini_cli(to: Target) -> Setting:
    lines = {"GOOGLE_GEMINI_BASE_URL": to.url}
    if to.serve:
        lines |= {"GEMINI_API_KEY": KEY, "GEMINI_MODEL": to.model}
    return Setting(".gemini/.env", _dotenv(lines), command="gemini")


def _qwen_code(to: Target) -> Setting:
    lines = {"OPENAI_BASE_URL": f"{to.url}/v1", "OPENAI_MODEL": to.model}
    if to.serve:
        lines["OPENAI_API_KEY"] = KEY
    return Setting(".qwen/.env", _dotenv(lines), command="qwen --auth-type openai")


def _cline(to: Target) -> Setting:
    key = KEY if to.serve else '"$OPENAI_API_KEY"'
    setup = f"cline auth -p openai -k {key} -m {to.model} -b {to.url}/v1"
    return Setting(command=f"{setup} && cline -P openai-compatible -m {to.model}")


def _aider(to: Target) -> Setting:
    content = f"openai-api-base: {to.url}/v1\nmodel: openai/{to.model}\n"
    return Setting(".aider.conf.yml", content + (f"openai-api-key: {KEY}\n" if to.serve else ""), command="aider")


def _mini_swe_agent(to: Target) -> Setting:
    lines = {"OPENAI_API_BASE": f"{to.url}/v1", "MSWEA_MODEL_NAME": f"openai/{to.model}"}
    if to.serve:
        lines |= {"OPENAI_API_KEY": KEY, "MSWEA_COST_TRACKING": "ignore_errors"}
    return Setting("~/.config/mini-swe-agent/.env", _dotenv(lines), command="mini")


OPENAI, ANTHROPIC = "https://api.openai.com", "https://api.anthropic.com"
AGENTS = {
    agent.name: agent
    for agent in (
        Agent("claude-code", ANTHROPIC, _claude_code),
        Agent("codex", OPENAI, _codex),
        Agent("opencode", OPENAI, _opencode),
        Agent("pi", OPENAI, _pi),
        Agent("gemini-cli", "https://generativelanguage.googleapis.com", _gemini_cli),
        Agent("qwen-code", OPENAI, _qwen_code),
        Agent("cline", OPENAI, _cline),
        Agent("aider", OPENAI, _aider),
        Agent("mini-swe-agent", OPENAI, _mini_swe_agent),
    )
}


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, indent=2) + "\n"


def _dotenv(lines: dict[str, str]) -> str:
    return "".join(f"{name}={value}\n" for name, value in lines.items())
