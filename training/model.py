"""The model: a Llama in plain PyTorch.

RMSNorm, rotary positions in the half-split pairing (export.py permutes Q and K to the
interleaved pairing that GGUF's `llama` architecture means), SwiGLU, grouped-query
attention, output tied to the embedding. It knows nothing about text or training.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import nn


@dataclass
class Config:
    vocab_size: int = 8192
    width: int = 256
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    feed_forward: int = 768
    context: int = 512
    rope_base: float = 10_000.0
    norm_eps: float = 1e-5

    @property
    def head_dim(self) -> int:
        return self.width // self.heads

    def as_dict(self) -> dict:
        return asdict(self)


class RmsNorm(nn.Module):
    def __init__(self, width: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = x.float()
        return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps) * self.weight).to(x.dtype)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary positions; x is [batch, heads, rows, head_dim], pairs are (i, i + head_dim/2)."""
    low, high = x.chunk(2, dim=-1)
    return torch.cat((low * cos - high * sin, high * cos + low * sin), dim=-1)


class Block(nn.Module):
    def __init__(self, c: Config):
        super().__init__()
        self.c = c
        kv = c.kv_heads * c.head_dim
        self.attn_norm = RmsNorm(c.width, c.norm_eps)
        self.q = nn.Linear(c.width, c.width, bias=False)
        self.k = nn.Linear(c.width, kv, bias=False)
        self.v = nn.Linear(c.width, kv, bias=False)
        self.o = nn.Linear(c.width, c.width, bias=False)
        self.ffn_norm = RmsNorm(c.width, c.norm_eps)
        self.gate = nn.Linear(c.width, c.feed_forward, bias=False)
        self.up = nn.Linear(c.width, c.feed_forward, bias=False)
        self.down = nn.Linear(c.feed_forward, c.width, bias=False)

    def forward(self, x, cos, sin, mask, cache):
        c = self.c
        batch, rows, _ = x.shape
        h = self.attn_norm(x)
        q = self.q(h).view(batch, rows, c.heads, c.head_dim).transpose(1, 2)
        k = self.k(h).view(batch, rows, c.kv_heads, c.head_dim).transpose(1, 2)
        v = self.v(h).view(batch, rows, c.kv_heads, c.head_dim).transpose(1, 2)
        q, k = rotate(q, cos, sin).to(v.dtype), rotate(k, cos, sin).to(v.dtype)
        if cache is not None:
            if cache:
                k, v = torch.cat((cache[0], k), 2), torch.cat((cache[1], v), 2)
            cache[:] = [k, v]
        group = c.heads // c.kv_heads
        k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        causal = mask is None and rows > 1
        a = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
        x = x + self.o(a.transpose(1, 2).reshape(batch, rows, c.width))
        h = self.ffn_norm(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


class Llama(nn.Module):
    def __init__(self, c: Config):
        super().__init__()
        self.c = c
        self.embed = nn.Embedding(c.vocab_size, c.width)
        self.blocks = nn.ModuleList(Block(c) for _ in range(c.layers))
        self.norm = RmsNorm(c.width, c.norm_eps)
        inverse = c.rope_base ** (-torch.arange(0, c.head_dim, 2, dtype=torch.float64) / c.head_dim)
        angle = torch.outer(torch.arange(c.context, dtype=torch.float64), inverse)  # [context, head_dim/2]
        self.register_buffer("cos", angle.cos().float(), persistent=False)
        self.register_buffer("sin", angle.sin().float(), persistent=False)
        for name, p in self.named_parameters():
            if p.dim() == 2:
                scale = 0.02 if not name.endswith(("o.weight", "down.weight")) else 0.02 / (2 * c.layers) ** 0.5
                nn.init.normal_(p, std=scale)

    def hidden(self, ids, positions, mask=None, caches=None):
        """[batch, rows] ids -> [batch, rows, width], normed. `positions` is [batch, rows]."""
        cos, sin = self.cos[positions].unsqueeze(1), self.sin[positions].unsqueeze(1)
        x = self.embed(ids)
        for i, block in enumerate(self.blocks):
            x = block(x, cos, sin, mask, None if caches is None else caches[i])
        return self.norm(x)

    def loss(self, ids, positions, segments, targets, where):
        """Mean cross entropy over the flat positions `where` with their `targets`.

        `segments` [batch, rows] numbers the conversations packed into a row, so that none
        sees another; None means one document a row.
        """
        mask = None
        if segments is not None:
            rows = ids.shape[1]
            causal = torch.ones(rows, rows, dtype=torch.bool, device=ids.device).tril()
            mask = ((segments[:, :, None] == segments[:, None, :]) & causal)[:, None]
        h = self.hidden(ids, positions, mask)
        logits = F.linear(h.reshape(-1, self.c.width)[where], self.embed.weight)
        return F.cross_entropy(logits.float(), targets)

    @torch.no_grad()
    def generate(self, prompts: list[list[int]], stop: set[int], limit: int = 48, batch: int = 256) -> list[list[int]]:
        """Greedy answers. Prompts of one length share a batch, so that no row needs padding."""
        device = self.embed.weight.device
        answers: list[list[int]] = [[] for _ in prompts]
        by_length: dict[int, list[int]] = {}
        for i, p in enumerate(prompts):
            by_length.setdefault(len(p), []).append(i)
        for length, members in by_length.items():
            for at in range(0, len(members), batch):
                group = members[at : at + batch]
                ids = torch.tensor([prompts[i] for i in group], device=device)
                caches = [[] for _ in self.blocks]
                position = torch.arange(length, device=device).expand(len(group), -1)
                for step in range(min(limit, self.c.context - length)):
                    h = self.hidden(ids, position, None, caches)[:, -1]
                    ids = F.linear(h, self.embed.weight).argmax(-1, keepdim=True)
                    going = [row for row, token in enumerate(ids[:, 0].tolist()) if token not in stop]
                    if len(going) < len(group):  # Rows that have ended leave the batch.
                        keep = torch.tensor(going, dtype=torch.long, device=device)
                        ids, group = ids[keep], [group[row] for row in going]
                        caches = [[part[keep] for part in cache] for cache in caches]
                    if not group:
                        break
                    for member, token in zip(group, ids[:, 0].tolist()):
                        answers[member].append(token)
                    position = torch.full((len(group), 1), length + step, device=device)
        return answers
