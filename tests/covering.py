"""Pairwise selection: few cases in which every two values of different parameters meet at least once."""

import itertools
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def pairwise(
    parameters: Mapping[str, Sequence[Any]], valid: Callable[..., bool] = lambda **case: True, *, seed: int = 0
) -> list[dict[str, Any]]:
    """Cases, one value for each parameter, that together hold every pair of values that some valid case holds.

    Greedy: of a number of random cases around a pair not met yet, the one that meets most new pairs. The same arguments
    give the same cases. `valid(**case)` may exclude combinations; a pair for which many tries find no valid case is
    taken to be impossible."""
    draw = random.Random(seed)
    names = list(parameters)

    def pairs_of(case: Mapping[str, Any]) -> set[tuple[str, Any, str, Any]]:
        return {(a, case[a], b, case[b]) for a, b in itertools.combinations(names, 2)}

    def around(pair: tuple[str, Any, str, Any], tries: int) -> list[dict[str, Any]]:
        found = []
        for _ in range(tries):
            case = {name: draw.choice(parameters[name]) for name in names}
            case.update({pair[0]: pair[1], pair[2]: pair[3]})
            if valid(**case):
                found.append(case)
        return found

    # In a list as well as a set, because the order of a set of strings changes from run to run.
    wanted = [
        (a, x, b, y)
        for a, b in itertools.combinations(names, 2)
        for x, y in itertools.product(parameters[a], parameters[b])
    ]
    missing = set(wanted)
    cases = []
    for pair in wanted:
        if pair in missing:
            candidates = around(pair, 60) or around(pair, 3000)
            if candidates:
                cases.append(max(candidates, key=lambda case: len(pairs_of(case) & missing)))
                missing -= pairs_of(cases[-1])
    return cases
