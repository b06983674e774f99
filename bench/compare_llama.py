#!/usr/bin/env python3
"""Measures `hublab` and llama.cpp on the same files in the same run, as ratios and shares of the limits.

    python3 bench/compare_llama.py --hublab target/release/hublab --llama-bench …/llama-bench \\
        --threads 2 --json result.json /tmp/shapes/*.gguf

The two programs take turns, one short call each per round, so that whatever else the machine does hits
both alike, and a call during which others used the processor (Linux tells) is made again; figures are
medians over all calls. Absolute numbers from different runs are not comparable,
ratios are. Without --hublab (or --llama-bench) the other side is measured alone.

Limits: decode reads every matrix once per token (the embedding too where it is also the output), so its
limit is --bandwidth over those bytes plus the mean KV read; prefill's limit is --int8-gops over
2 operations per weight (without the output, computed for the last position only) plus attention.
The defaults are a 2-core Zen 4 virtual machine's, measured; give your own machine's.

Needs the PyPI package `gguf`.
"""

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import gguf

KV_BYTES = 2  # llama.cpp's default cache is F16


@dataclass(frozen=True)
class Work:
    """What one token costs on a model, from its file alone."""

    decode_bytes: float
    prefill_operations: float


def work_of(path, options):
    reader = gguf.GGUFReader(path)
    arch = reader.fields["general.architecture"].contents()

    def number(key, default=None):
        entry = reader.fields.get(f"{arch}.{key}")
        return entry.contents() if entry else default

    matrices = {t.name: t for t in reader.tensors if len(t.shape) > 1}
    output = "output.weight" if "output.weight" in matrices else "token_embd.weight"
    per_token = [t for name, t in matrices.items() if name != "token_embd.weight" and name != output]
    heads = number("attention.head_count")
    head_dim = number("attention.key_length", number("embedding_length") // heads)
    layers = number("block_count")
    kv_row = 2 * number("attention.head_count_kv", heads) * head_dim * layers * KV_BYTES
    # Query times keys and weights times values: 2 · 2 operations per head, dimension and key seen.
    attention = 4 * heads * head_dim * layers * (options.depth + options.pp / 2)
    return Work(
        decode_bytes=float(
            sum(int(t.n_bytes) for t in per_token)
            + int(matrices[output].n_bytes)
            + kv_row * (options.depth + options.tg / 2)
        ),
        prefill_operations=float(2 * sum(int(t.n_elements) for t in per_token) + attention),
    )


@dataclass(frozen=True)
class Call:
    """What one program's process printed and what it and the rest of the machine used."""

    answer: object
    peak_mib: float
    # Processor time of everybody else while it ran, as a share of one core
    others_share: float


def machine_busy_s():
    """Processor seconds that the whole machine has spent since boot; None where it does not say."""
    try:
        with open("/proc/stat") as stat:
            ticks = [int(field) for field in stat.readline().split()[1:9]]
    except OSError:
        return None
    user, nice, system, _idle, _iowait, irq, softirq, steal = ticks
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def run_json(command):
    """Runs a program that prints JSON."""
    busy, started = machine_busy_s(), time.monotonic()
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, stderr=errors)
        try:
            output = process.stdout.read()
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            raise
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            errors.seek(0)
            tail = errors.read().decode(errors="replace").strip()[-2000:]
            raise RuntimeError(f"{command[0]} ended with {process.returncode}: {tail}")
    others = 0.0
    if busy is not None:
        own = usage.ru_utime + usage.ru_stime
        others = max(0.0, machine_busy_s() - busy - own) / (time.monotonic() - started)
    return Call(json.loads(output), usage.ru_maxrss / 1024, others)


def run_hublab(options, model):
    command = [options.hublab, "bench", model, "--pp", options.pp, "--tg", options.tg]
    command += ["--threads", options.threads, "--repeat", options.repeat, "--json"]
    if options.depth:
        command += ["--depth", options.depth]
    call = run_json(command)
    return call, call.answer["prefill"]["tokens_per_s"], call.answer["decode"]["tokens_per_s"]


def run_llama(options, model):
    command = [options.llama_bench, "-m", model, "-p", options.pp, "-n", options.tg, "-t", options.threads]
    command += ["-fa", 1, "-r", options.repeat, "-o", "json"]
    if options.depth:
        command += ["-d", options.depth]
    call = run_json(command)
    by_kind = {("prefill" if test["n_prompt"] else "decode"): test["samples_ts"] for test in call.answer}
    return call, by_kind["prefill"], by_kind["decode"]


def run_undisturbed(runner, options, model):
    """Repeats a call while others keep the machine busy; the last attempt counts whatever happened."""
    for attempt in range(options.attempts):
        call, prefill, decode = runner(options, model)
        if call.others_share <= options.others_max:
            break
        print(f"  others used {call.others_share:.0%} of a core, attempt {attempt + 1}", file=sys.stderr, flush=True)
    return call, prefill, decode


@contextmanager
def pause_file(path, patience_s):
    """Holds `path` while measuring, so that other jobs which look for it stand still."""
    if path is None:
        yield
        return
    deadline = time.monotonic() + patience_s
    while True:
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            break
        except FileExistsError:
            if time.monotonic() >= deadline:
                sys.exit(f"{path} is still held by another measurement after {patience_s} s")
            time.sleep(1)
    try:
        time.sleep(2)  # for those that look only now and then
        yield
    finally:
        os.unlink(path)


def measure(options, runners):
    """{model: {program: {"prefill": [...], "decode": [...], …}}}"""
    kinds = ("prefill", "decode", "peak_mib", "others_share")
    results = {model: {name: {kind: [] for kind in kinds} for name in runners} for model in options.models}
    for number in range(options.rounds):
        for model in options.models:
            # Who goes first alternates, or the warmer cache would always serve the same side.
            for name in list(runners)[:: 1 if number % 2 == 0 else -1]:
                call, prefill, decode = run_undisturbed(runners[name], options, model)
                entry = results[model][name]
                entry["prefill"] += prefill
                entry["decode"] += decode
                entry["peak_mib"].append(call.peak_mib)
                entry["others_share"].append(call.others_share)
                print(f"round {number + 1} {model.name} {name}: {statistics.median(prefill):.1f} / "
                      f"{statistics.median(decode):.1f}", file=sys.stderr, flush=True)
    return results


def summarise(options, results, works):
    rows = []
    for model, programs in results.items():
        limits = {
            "prefill": options.int8_gops * 1e9 / works[model].prefill_operations,
            "decode": options.bandwidth * 1e9 / works[model].decode_bytes,
        }
        row = {"model": model.name, "file_mib": model.stat().st_size / 2**20, "limits": limits}
        for name, entry in programs.items():
            row[name] = {"peak_mib": max(entry["peak_mib"]), "samples": entry}
            for kind, limit in limits.items():
                median = statistics.median(entry[kind])
                row[name][kind] = {"median": median, "share_of_limit": median / limit}
        if len(programs) == 2:
            row["ratio"] = {k: row["hublab"][k]["median"] / row["llama.cpp"][k]["median"] for k in limits}
        rows.append(row)
    return rows


def markdown(options, rows, names):
    def cell(row, name, kind):
        figure = row[name][kind]
        return f"{figure['median']:.1f} ({figure['share_of_limit']:.0%})"

    head = ["model"]
    for kind in (f"prefill {options.pp}", f"decode {options.tg}"):
        head += [f"{kind} {name}" for name in names] + (["ratio"] if len(names) == 2 else [])
    head += [f"peak MiB {name}" for name in names]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for row in rows:
        cells = [row["model"]]
        for kind in ("prefill", "decode"):
            cells += [cell(row, name, kind) for name in names]
            cells += [f"{row['ratio'][kind]:.2f}"] if "ratio" in row else []
        cells += [f"{row[name]['peak_mib']:.0f}" for name in names]
        lines.append("| " + " | ".join(cells) + " |")
    shares = [share for row in rows for name in names for share in row[name]["samples"]["others_share"]]
    disturbed = sum(share > options.others_max for share in shares)
    lines.append(f"\nTokens/s, in brackets the share of the limit; {disturbed} of {len(shares)} calls were disturbed by others.")
    return "\n".join(lines)


def processor():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--hublab", type=Path)
    parser.add_argument("--llama-bench", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pp", type=int, default=512)
    parser.add_argument("--tg", type=int, default=64)
    parser.add_argument("--depth", type=int, default=0)
    parser.add_argument("--repeat", type=int, default=1, help="repetitions inside one call")
    parser.add_argument("--rounds", type=int, default=3, help="calls per program and model")
    parser.add_argument("--bandwidth", type=float, default=61.0, help="memory read bandwidth in GB/s at --threads")
    parser.add_argument("--int8-gops", type=float, default=939.0, help="int8 dot-product rate in GOP/s at --threads")
    parser.add_argument("--others-max", type=float, default=0.1, help="share of a core that others may use during a call")
    parser.add_argument("--attempts", type=int, default=5, help="calls made until one is that undisturbed")
    parser.add_argument("--pause-file", type=Path, help="created while measuring, removed after")
    parser.add_argument("--pause-patience", type=float, default=600.0, help="seconds to wait for another holder")
    parser.add_argument("--json", type=Path, help="write every figure there")
    options = parser.parse_args()

    runners = {}
    if options.hublab:
        runners["hublab"] = run_hublab
    if options.llama_bench:
        runners["llama.cpp"] = run_llama
    if not runners:
        parser.error("give --hublab, --llama-bench or both")
    for model in options.models:
        if not model.is_file():
            parser.error(f"no file {model}")

    # A terminated run must let go of the pause file as an interrupted one does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with pause_file(options.pause_file, options.pause_patience):
        results = measure(options, runners)
    # Only now, because Linux counts what the parent has resident at fork into a child's peak.
    works = {model: work_of(model, options) for model in options.models}
    rows = summarise(options, results, works)
    print(markdown(options, rows, list(runners)))
    if options.json:
        settings = {k: getattr(options, k) for k in ("threads", "pp", "tg", "depth", "repeat", "rounds", "bandwidth", "int8_gops")}
        document = {
            "date": time.strftime("%Y-%m-%d"),
            "machine": {"processor": processor(), "cores": os.cpu_count()},
            "settings": settings,
            "models": rows,
        }
        options.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
