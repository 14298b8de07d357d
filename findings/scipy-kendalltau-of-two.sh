#!/bin/bash
# scipy 1.17.1: kendalltau(..., method="asymptotic") of two pairs raises ZeroDivisionError, where tau itself is known.
#
# tau of two pairs is 1 or -1, and the other methods return it. The variance of the asymptotic method has a term divided by
# m (m - 1) (m - 2), m the number of pairs, which stands there even where no value is tied and its numerator is 0. Who asks for
# tau inside groups, and by this method because ties are many, meets it at the first group of two.
# Seen: "exact" and "auto" give statistic 1.0 and p-value 1.0; "asymptotic" raises ZeroDivisionError, float division by zero; of
# three pairs all three methods give statistic 1.0.
# Exits with 0 while that holds, with 1 where it changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q scipy==1.17.1 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import sys

from scipy.stats import kendalltau


def told(pairs, method):
    try:
        return float(kendalltau(range(pairs), range(pairs), method=method).statistic)
    except ZeroDivisionError as error:
        return f"ZeroDivisionError: {error}"


methods = ("exact", "auto", "asymptotic")
two, three = ([told(pairs, method) for method in methods] for pairs in (2, 3))
print("of two pairs:", dict(zip(methods, two)))
print("of three pairs:", dict(zip(methods, three)))
sys.exit(not (two == [1.0, 1.0, "ZeroDivisionError: float division by zero"] and three == [1.0] * 3))
PYTHON
