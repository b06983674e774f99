#!/usr/bin/env python3
"""Compares `hublab serve` with llama-server under several streams, on one file, in turns.

    pip install xllamacpp
    python3 bench/compare_server.py MODEL.gguf --hublab target/release/hublab

Each round asks both services for `--streams` answers at once over /v1/completions: prompts of `--prompt` random tokens, all
different, `--out` tokens each, greedy. Prints medians over the rounds: generated tokens per second in total from the first
request to the end of the last, and the time to the first token. `--first` adds a cold start: the time from the start of the
program to its first answer from /health and to the first token of a first request, its prefill included. `--overhead N` adds
what a request costs beside its computing: N times one token after a prompt of eight, one request after the other, best seen with a
tiny model.

llama-server is the one in the wheel `xllamacpp`, in a process of its own; only one of the two services runs at a time.
"""

import argparse
import http.client
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import threading
import time

LLAMA = """
import sys, time, xllamacpp
p = xllamacpp.CommonParams()
p.model.path, p.port = sys.argv[1], int(sys.argv[2])
p.n_parallel, p.n_ctx = int(sys.argv[3]), int(sys.argv[4])
p.cpuparams.n_threads = p.cpuparams_batch.n_threads = int(sys.argv[5])
p.warmup = False
server = xllamacpp.Server(p)
time.sleep(100000)
"""


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Service:
    """A running service; `kind` is hublab or llama."""

    def __init__(self, kind, args, streams):
        self.kind, self.port = kind, free_port()
        context = args.prompt + args.out + 64
        start = time.perf_counter()
        if kind == "hublab":
            # Neither the user's settings nor the user's conversations.
            env = dict(os.environ, HUBLAB_CONFIG="/dev/null", HUBLAB_SERVER_STORAGE="false")
            command = [args.hublab, "serve", "--port", str(self.port), args.model]
            self.name = os.path.basename(args.model).removesuffix(".gguf")
        else:
            env = None
            command = [sys.executable, "-c", LLAMA, args.model, str(self.port), str(streams)]
            command += [str(context * streams), str(args.threads)]
            self.name = "x"
        self.process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while True:
            try:
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
                connection.request("GET", "/health")
                if connection.getresponse().status == 200:
                    break
            except OSError:
                if self.process.poll() is not None:
                    raise SystemExit(f"{kind} ended: {' '.join(command)}") from None
            time.sleep(0.0005)
        self.health_s = time.perf_counter() - start
        self.start = start

    def stop(self):
        self.process.terminate()
        self.process.wait()

    def ask(self, prompt, out):
        """Seconds to the first token and to the end, and tokens."""
        body = {"model": self.name, "prompt": prompt, "max_tokens": out, "temperature": 0, "stream": True,
                "stream_options": {"include_usage": True}}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        start = time.perf_counter()
        connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        if response.status != 200:
            raise SystemExit(f"{self.kind}: {response.status} {response.read()[:300]}")
        first, tokens = None, 0
        for line in response:
            if not line.startswith(b"data: {"):
                continue
            event = json.loads(line[6:])
            if first is None and event.get("choices"):
                first = time.perf_counter() - start
            tokens = (event.get("usage") or {}).get("completion_tokens", tokens)
        return first, time.perf_counter() - start, tokens


def round_of(service, streams, args, rng):
    # Ids of common words; 0..999 are bytes and short pieces in every vocabulary that is compared here.
    prompts = [[rng.randrange(300, 20000) for _ in range(args.prompt)] for _ in range(streams)]
    seen = [None] * streams

    def run(at):
        seen[at] = service.ask(prompts[at], args.out)

    threads = [threading.Thread(target=run, args=(at,)) for at in range(streams)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    elapsed = time.perf_counter() - start
    return sum(tokens for _, _, tokens in seen) / elapsed, statistics.median(first for first, _, _ in seen)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("model")
    parser.add_argument("--hublab", default="target/release/hublab")
    parser.add_argument("--streams", type=int, nargs="*", default=[1, 4, 8])
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--out", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--first", action="store_true")
    parser.add_argument("--overhead", type=int, default=0)
    args = parser.parse_args()
    args.model = os.path.abspath(args.model)
    rng = random.Random(1)
    kinds = ["hublab", "llama"]
    if args.first:
        for kind in kinds:
            found = []
            for _ in range(args.rounds):
                service = Service(kind, args, 1)
                prompt = [rng.randrange(300, 20000) for _ in range(args.prompt)]
                first, _, _ = service.ask(prompt, 4)
                # The same work again, warm: what the first request had to wait for besides.
                again = service.ask([rng.randrange(300, 20000) for _ in range(args.prompt)], 4)[0]
                found.append((service.health_s * 1e3, first * 1e3, again * 1e3))
                service.stop()
            health, first, again = (statistics.median(column) for column in zip(*found))
            print(f"{kind:7} /health {health:.1f} ms, first token {first:.0f} ms, of a second request {again:.0f} ms")
    if args.overhead:
        found = {kind: [] for kind in kinds}
        for at in range(args.rounds):
            for kind in kinds if at % 2 == 0 else reversed(kinds):
                service = Service(kind, args, 1)
                for _ in range(args.overhead + 20):
                    prompt = [rng.randrange(300, 400) for _ in range(8)]
                    found[kind].append(service.ask(prompt, 1)[1] * 1e3)
                del found[kind][-args.overhead - 20 : -args.overhead]
                service.stop()
        for kind in kinds:
            cuts = statistics.quantiles(found[kind], n=1000, method="inclusive")
            p50, p95, p99 = cuts[499], cuts[949], cuts[989]
            print(f"{kind:7} a request for one token: p50 {p50:.2f}, p95 {p95:.2f}, p99 {p99:.2f} ms")
    for streams in args.streams:
        found = {kind: [] for kind in kinds}
        for at in range(args.rounds):
            for kind in kinds if at % 2 == 0 else reversed(kinds):
                service = Service(kind, args, streams)
                service.ask([rng.randrange(300, 20000) for _ in range(8)], 2)
                found[kind].append(round_of(service, streams, args, rng))
                service.stop()
        speed = {kind: statistics.median(rate for rate, _ in found[kind]) for kind in kinds}
        first = {kind: statistics.median(time for _, time in found[kind]) for kind in kinds}
        print(
            f"{streams} streams: hublab {speed['hublab']:.1f} tokens/s, llama-server {speed['llama']:.1f} "
            f"({speed['hublab'] / speed['llama']:.2f}x); first token {first['hublab']:.2f} / {first['llama']:.2f} s"
        )


if __name__ == "__main__":
    main()
