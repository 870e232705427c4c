"""Stored contexts served by vLLM beside the local engine: run_vllm.py [--vllm FOLDER] [--window 2400] [--probes 8].

Compacts the newest part of the recorded session, pages it, starts vLLM with Holdfast's connector, asks probes over each
context here and there, and prints how far the two are apart, what blocks are used and how fast tokens come. The
baseline is the same part of the session in full, as token ids.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import torch

import holdfast
from holdfast.blocks.render import question_ids, render
from holdfast.compaction.compact import compact
from holdfast.compaction.partition import parts
from holdfast.compaction.plan import Plan, Policy
from holdfast.context.segments import CompactContext, SoftSegment, StateSegment, TokenSegment, token_segment
from holdfast.engine.local import Continuation, LocalEngine
from holdfast.eval.metrics import keyword_hit
from holdfast.eval.probes import Probe, check_static_rules, read_probes
from holdfast.model.bundled_models import ensure_model
from holdfast.vllm import files
from holdfast.vllm.completions import Prefix, RemoteEngine
from holdfast.vllm.pages import Options, to_pages

ROOT = Path(__file__).parents[2]
SESSION = ROOT / "examples" / "taskdeck"
OUT = ROOT / "out" / "vllm"
BLOCK = 32
TOP = 20
PLANS = (
    ("informed:allocation=head", 4.0),
    ("informed:allocation=head", 8.0),
    ("informed:cap=2", 8.0),  # longest head at most twice the mean: the room of 4x
    ("informed", 8.0),
)
SOFT = "virtual_tokens:positions=consecutive,steps=2"
FLAGS = ("--dtype", "float32", "--enforce-eager", "--block-size", str(BLOCK), "--max-model-len", "4096")
# prompts of words and prompts of embeddings must not meet in the prefix cache
EMBEDS = ("--enable-prompt-embeds", "--no-enable-prefix-caching")


@dataclass(frozen=True)
class ServedContext:
    """A context here, and the prompt that stands for it there."""

    name: str
    context: CompactContext
    prefix: Prefix


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vllm", type=Path, default=ROOT / ".venv-vllm")
    parser.add_argument("--window", type=int, default=2400)
    parser.add_argument("--probes", type=int, default=8)
    parser.add_argument("--log", type=Path, default=OUT / "server.log")
    options = parser.parse_args()
    engine = holdfast.load()
    OUT.mkdir(parents=True, exist_ok=True)
    policy = Policy(window=options.window)
    probes = fair(engine, policy)[: options.probes]
    print(f"{torch.get_num_threads()} threads, {engine.model.name}, {len(probes)} probes, blocks of {BLOCK}\n")
    served = contexts(engine, policy)
    print(f"{'context':<34}{'slots':>6}{'blocks':>7}{'cold':>8}{'first':>8}{'tok/s':>7}{'8 at once':>10}", end="")
    print(f"{'answers':>10}{'top':>9}{'same top 5':>11}{'same text':>10}{'right':>6}{'log p':>8}", flush=True)
    with server(options.vllm, engine, options.log) as url:
        remote = RemoteEngine(url, engine.model.name, engine.model)
        for one in served:
            row(one, engine, remote, probes)
    with server(options.vllm, engine, options.log, EMBEDS) as url:
        remote = RemoteEngine(url, engine.model.name, engine.model)
        row(virtual(engine, remote, policy), engine, remote, probes)


def fair(engine: LocalEngine, policy: Policy) -> list[Probe]:
    """Returns the probes whose answer stands in the compacted part and nowhere else."""
    transcript = holdfast.read(SESSION / "session.json")
    cut = parts(transcript, render(transcript, engine.model.tokenizer), policy)

    def text(compacted: bool) -> str:
        ids = [i for part in cut if part.compact == compacted for block in part.blocks for i in block.ids]
        return str(engine.model.tokenizer.decode(ids))

    inside, outside = text(True), text(False)
    probes = read_probes(SESSION / "probes.jsonl")
    return [p for p in probes if p.literal in inside and not check_static_rules(p, outside)]


def contexts(engine: LocalEngine, policy: Policy) -> list[ServedContext]:
    """Returns the session in full, and compacted in several ways, stored and loaded again, as pages."""
    transcript = holdfast.read(SESSION / "session.json")
    cut = parts(transcript, render(transcript, engine.model.tokenizer), policy)
    whole = [i for part in cut for block in part.blocks for i in block.ids]
    served = [
        ServedContext(
            "full", CompactContext((token_segment(whole, 0),), len(whole)), Prefix(tuple(whole), readable=False)
        )
    ]  # an echo would read it all again
    for spec, ratio in PLANS:
        path = OUT / f"{re.sub(r'[^a-z0-9]+', '-', spec)}-{ratio:g}x.holdfast"
        holdfast.save(compact(transcript, engine, Plan(spec, ratio, policy=policy)), path, engine)
        context = holdfast.restore(path, engine)
        began = time.perf_counter()
        pages = to_pages(engine.model, context, Options(block_size=BLOCK, lengths="pad"))
        seconds = time.perf_counter() - began
        stored = files.write(pages, OUT / "pages")
        print(f"{spec} at {ratio:g}x: {stored.stat().st_size / 1e6:.1f} MB of pages in {seconds:.1f} s")
        print(f"  {lengths(context)}; {dict(pages.header.report)}")
        served.append(ServedContext(f"{spec} {ratio:g}x", context, Prefix(pages.prompt, readable=False)))
    print()
    return served


def lengths(context: CompactContext) -> str:
    """Describes the lengths of heads over all state segments."""
    heads = [0]
    for segment in context.segments:
        if isinstance(segment, StateSegment):
            own = [n for layer in segment.layers for n in layer.lengths]
            heads = [a + b for a, b in zip(heads if len(heads) > 1 else [0] * len(own), own, strict=True)]
    return f"heads keep {min(heads)} to {max(heads)} slots, {sum(heads) / len(heads):.0f} on average"


def virtual(engine: LocalEngine, remote: RemoteEngine, policy: Policy) -> ServedContext:
    """Returns virtual tokens to send as prompt embeddings; gaps are closed here too, so that both
    sides read the same.
    """
    transcript = holdfast.read(SESSION / "session.json")
    made = compact(transcript, engine, Plan(SOFT, 8.0, policy=policy))
    at, segments = 0, []
    for segment in made.segments:
        assert isinstance(segment, TokenSegment | SoftSegment)
        segments.append(replace(segment, positions=torch.arange(at, at + len(segment)).float()))
        at += len(segment)
    return ServedContext("virtual tokens 8x, renumbered", replace(made, segments=tuple(segments), next_position=at),
                  remote.open(made, renumber=True))  # fmt: skip


def row(one: ServedContext, engine: LocalEngine, remote: RemoteEngine, probes: list[Probe]) -> None:
    """Prints one line of the table."""
    live = engine.open(one.context)
    answers, tops, order, same, right, given = [0.0], [0.0], 0, 0, 0, []
    list(remote.generate(Prefix(), question_ids(engine.model.tokenizer, "Ready?"), 2))  # a server's first is slow
    began = time.perf_counter()
    list(remote.generate(one.prefix, question_ids(engine.model.tokenizer, "Ready?"), 1))
    cold = time.perf_counter() - began
    for probe in probes:
        ids = question_ids(engine.model.tokenizer, probe.question)
        asked = Continuation(
            tuple(ids), tuple(engine.model.tokenizer(probe.answer, add_special_tokens=False).input_ids)
        )
        here, there = engine.score(live, [asked])[0], remote.score(one.prefix, [asked])[0]
        answers.append(float((here - there).abs().max()))
        given.append(float(there.sum()))
        log_p, top = engine.next_logits(live, ids)[-1].log_softmax(-1), remote.top(one.prefix, ids, TOP)
        tops.append(max(abs(float(log_p[i]) - p) for i, p in top.items()))
        order += sorted(top, key=lambda i: -top[i])[:5] == log_p.topk(5).indices.tolist()
        text = "".join(remote.generate(one.prefix, ids, 12))
        same += text == engine.model.tokenizer.decode(list(engine.generate(live, ids, 12)))
        right += keyword_hit(text, probe.accept)
    blocks, first, alone, eight = speed(one.prefix, remote, question_ids(engine.model.tokenizer, probes[0].question))
    n = len(probes)
    print(
        f"{one.name:<34}{len(one.prefix):>6}{blocks:>7.0f}{cold:>7.2f}s{first:>7.2f}s{alone:>7.1f}{eight:>10.1f}",
        end="",
    )
    print(f"{max(answers):>10.1e}{max(tops):>9.1e}{order:>8}/{n}{same:>7}/{n}{right:>4}/{n}", end="")
    print(f"{sum(given) / max(1, n):>8.2f}", flush=True)


def speed(prefix: Prefix, remote: RemoteEngine, ids: list[int]) -> tuple[float, float, float, float]:
    """Returns blocks in use while answering, seconds to the first token, tokens per second of one
    answer and of eight.
    """
    began, pieces = time.perf_counter(), remote.generate(prefix, ids, 32)
    next(pieces)
    first, used = time.perf_counter() - began, blocks_in_use(remote.base_url)
    list(pieces)
    rates = []
    for count in (1, 8):
        body = remote.prompts(prefix, [ids] * count) | {"max_tokens": 1, "temperature": 0, "ignore_eos": True}
        short = seconds(remote, body)
        rates.append(count * 32 / (seconds(remote, body | {"max_tokens": 33}) - short))
    return used, first, rates[0], rates[1]


def seconds(remote: RemoteEngine, body: dict[str, object]) -> float:
    began = time.perf_counter()
    httpx.post(f"{remote.base_url}/completions", json={"model": remote.model, **body}, timeout=600).raise_for_status()
    return time.perf_counter() - began


def blocks_in_use(url: str) -> float:
    """Returns the blocks in use from vLLM's own metrics."""
    told = httpx.get(url.removesuffix("/v1") + "/metrics", timeout=60).text
    share = re.search(r"^vllm:kv_cache_usage_perc\{.*\} (\S+)$", told, re.M)
    blocks = re.search(r'num_gpu_blocks="(\d+)"', told)
    assert share
    assert blocks
    return float(share[1]) * int(blocks[1])


@contextmanager
def server(environment: Path, engine: LocalEngine, log: Path, more: tuple[str, ...] = ()) -> Iterator[str]:
    """Runs vLLM on a free port of this machine for as long as the block runs."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    connector = {
        "kv_connector": "HoldfastConnector",
        "kv_connector_module_path": "holdfast.vllm",
        "kv_role": "kv_both",
        "kv_connector_extra_config": {"folder": str(OUT / "pages"), "model_digest": engine.model.digest},
    }
    command = [str(environment / "bin" / "python"), "-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--model", str(ensure_model(engine.model.name)), "--served-model-name"]
    command += [engine.model.name, *FLAGS, *more, "--kv-transfer-config", json.dumps(connector)]
    own = {"PYTHONPATH": str(ROOT / "src"), "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"}
    own |= {"VLLM_CPU_OMP_THREADS_BIND": f"0-{torch.get_num_threads() - 1}"}
    with log.open("a") as out:
        running = subprocess.Popen(command, env=os.environ | own, stdout=out, stderr=out)
    try:
        wait(running, f"http://127.0.0.1:{port}/health", log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        running.terminate()
        running.wait(60)


def wait(running: subprocess.Popen[bytes], url: str, log: Path) -> None:
    """Waits until the server answers; ends the program if the server ended."""
    while running.poll() is None:
        try:
            if httpx.get(url, timeout=5).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(1)
    sys.exit(f"vLLM did not start; see {log}")


if __name__ == "__main__":
    main()
