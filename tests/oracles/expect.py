"""The `.expect` files (layout in README.md) and the measures by which two sets of logits are compared."""

import struct

import numpy as np

MAGIC = b"HLX1"
ENCODER_MAGIC = b"HLE1"


def write_expect(path, ids, logits):
    positions, vocab = logits.shape
    assert len(ids) == positions
    with open(path, "wb") as out:
        out.write(MAGIC + struct.pack("<II", positions, vocab))
        out.write(np.asarray(ids, dtype="<u4").tobytes())
        out.write(np.ascontiguousarray(logits, dtype="<f4").tobytes())


def read_expect(path):
    """(ids [positions], logits [positions, vocab])"""
    with open(path, "rb") as source:
        data = source.read()
    assert data[:4] == MAGIC, path
    positions, vocab = struct.unpack_from("<II", data, 4)
    ids = np.frombuffer(data, "<u4", positions, 12)
    logits = np.frombuffer(data, "<f4", positions * vocab, 12 + 4 * positions)
    assert len(data) == 12 + 4 * positions * (1 + vocab), path
    return ids, logits.reshape(positions, vocab)


def write_encoder_expect(path, ids, pooled, states):
    positions, width = states.shape
    assert len(ids) == positions and pooled.shape == (width,)
    with open(path, "wb") as out:
        out.write(ENCODER_MAGIC + struct.pack("<II", positions, width))
        out.write(np.asarray(ids, dtype="<u4").tobytes())
        for values in (pooled, states):
            out.write(np.ascontiguousarray(values, dtype="<f4").tobytes())


def read_encoder_expect(path):
    """(ids [positions], pooled and normalised embedding [width], token states [positions, width])"""
    with open(path, "rb") as source:
        data = source.read()
    assert data[:4] == ENCODER_MAGIC, path
    positions, width = struct.unpack_from("<II", data, 4)
    ids = np.frombuffer(data, "<u4", positions, 12)
    values = np.frombuffer(data, "<f4", width * (1 + positions), 12 + 4 * positions)
    assert len(data) == 12 + 4 * (positions + width * (1 + positions)), path
    return ids, values[:width], values[width:].reshape(positions, width)


def is_encoder(path):
    with open(path, "rb") as source:
        return source.read(4) == ENCODER_MAGIC


def cosine_distance(a, b):
    a, b = a.astype(np.float64), b.astype(np.float64)
    return float(1 - (a @ b) / (np.linalg.norm(a) * np.linalg.norm(b)))


def log_softmax(logits):
    logits = logits.astype(np.float64)
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def kl(reference, other):
    """KL(reference ‖ other) per position, in nats."""
    p, q = log_softmax(reference), log_softmax(other)
    return (np.exp(p) * (p - q)).sum(-1)


def rms_error(reference, other):
    """RMS logit difference after removing each row's mean, which no softmax can see."""
    error = other.astype(np.float64) - reference
    return float(np.sqrt(((error - error.mean(-1, keepdims=True)) ** 2).mean()))


def top1(reference, other, factor=5.0):
    """(positions whose reference margin exceeds factor × RMS error, how many of them disagree)."""
    ordered = np.sort(reference, axis=-1)
    clear = ordered[:, -1] - ordered[:, -2] > factor * rms_error(reference, other)
    wrong = reference.argmax(-1) != other.argmax(-1)
    return int(clear.sum()), int((clear & wrong).sum())
