"""Prints how long the exact segmentation of a long line of work takes, and what it is worth.

    python benchmarks/segmentation.py [--units 10000] [--seed 0]

Units are of 5 to 60 tokens; scores are whole numbers as a model gives them, or any number as code does. 10 to 20 blocks
are the published range; the default range is by size.
"""

from __future__ import annotations

import argparse
import random
from time import process_time

from holdfast.mementos.segment import Shape, objective, segment

RANGES = {"10 to 20 blocks": Shape(fewest=10, most=20), "by size, as by default": Shape()}
LENGTHS = (200, 1000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--units", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print("units | range | scores | blocks | worth | seconds of the processor")
    for units in (*LENGTHS, options.units):
        for name, shape in RANGES.items():
            for whole in (True, False):
                draw = random.Random(options.seed)
                tokens = [draw.randint(5, 60) for _ in range(units)]
                scores = [float(draw.choice((0, 0, 1, 2, 3))) if whole else draw.uniform(0, 3) for _ in tokens[1:]]
                began = process_time()
                blocks = segment(tokens, scores, shape)
                seconds, worth = process_time() - began, objective(blocks, tokens, scores, shape.balance)
                print(f"{units} | {name} | {'whole' if whole else 'any'} | {len(blocks)} | {worth:.4f} | {seconds:.2f}")


if __name__ == "__main__":
    main()
