"""Exit codes."""

from __future__ import annotations

COMPLETE, CRASHED, BAD_INPUT, WORK_LEFT, SOME_FAILED = 0, 1, 2, 3, 4
