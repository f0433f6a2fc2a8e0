"""The kind of processor: it decides the last bits of what TensorFlow computes.

Its kernels choose their instructions, and how they divide a sum, by what the processor can do and
by the size of its caches. The number of its cores and its clock decide nothing.

    linux x86_64 AuthenticAMD 25 17 1024 KB 5f0e91c2    the last part stands for avx, avx2, fma, …
"""

from __future__ import annotations

import hashlib
import platform
import re
import sys
from functools import cache
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
KIND = (
    *("vendor_id", "cpu family", "model", "cache size"),  # Intel's and AMD's
    *("CPU implementer", "CPU variant", "CPU part"),  # ARM's
)
# The instructions for many numbers at once; the others come and go with versions of the kernel.
VECTORS = re.compile(r"(avx|amx|sse|ssse|fma|f16c|asimd|sve|sme|bf16|i8mm)\w*")


@cache
def processor() -> str:
    """The kind of this machine's processor, as far as the operating system says it."""
    try:
        facts = CPUINFO.read_text()
    except OSError:  # there is none but on Linux
        facts = ""
    return " ".join([sys.platform, platform.machine(), *described(facts)])


def described(cpuinfo: str) -> list[str]:
    """What tells the first processor that Linux lists from those of another kind."""
    lines = (line.partition(":") for line in cpuinfo.partition("\n\n")[0].splitlines())
    facts = {name.strip(): value.strip() for name, _, value in lines}
    features = facts.get("flags", facts.get("Features", "")).split()
    vectors = " ".join(sorted(filter(VECTORS.fullmatch, features)))
    digest = hashlib.sha256(vectors.encode()).hexdigest()[:8]
    return [*(facts[name] for name in KIND if name in facts), *([digest] if vectors else [])]
