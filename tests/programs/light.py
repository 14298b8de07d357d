"""Makes the run loop importable without torch, so that programs of many short-lived ranks start in half a second.

Import it before anything of `landscape`: it stands in for the package's `__init__`, which loads all of the library.
"""

from __future__ import annotations

import sys
import types
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

if "landscape" not in sys.modules:
    package = types.ModuleType("landscape")
    package.__path__ = [str(ROOT / "landscape")]
    sys.modules["landscape"] = package
