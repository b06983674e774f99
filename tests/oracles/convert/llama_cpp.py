#!/usr/bin/env python3
"""Runs llama.cpp's own converter on a folder that `make_models.py` made.

    python3 llama_cpp.py PATH_OF_LLAMA_CPP FOLDER OUT.gguf [PRE]

That converter knows a pre-tokenizer by the ids that one text gets from a published vocabulary. A vocabulary trained here is
not among them, so its name is given as PRE; everything else is its own work.
"""

import runpy
import sys
from pathlib import Path

root, folder, out, *pre = sys.argv[1:]
sys.path[:0] = [root, str(Path(root) / "gguf-py")]
from conversion.base import TextModel  # noqa: E402

if pre:
    TextModel.get_vocab_base_pre = lambda self, tokenizer: pre[0]
sys.argv = ["convert_hf_to_gguf.py", folder, "--outfile", out, "--outtype", "auto"]
runpy.run_path(str(Path(root) / "convert_hf_to_gguf.py"), run_name="__main__")
