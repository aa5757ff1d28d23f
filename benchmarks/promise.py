"""Are the promises kept? Simulated lines: realised false-alarm rates, and the drift alarm's false rate and delay.

    python benchmarks/promise.py [--lines 1000] [--parts 2000] [--jobs 2]

Each line draws its good scores anew, calibrates a threshold and goes on with parts like them; three distributions, for
none of which the statements were made. Three minutes on two cores.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
from joblib import Parallel, delayed
from scipy import stats

from mvtec_ad import metrics
from mvtec_ad.drift import Martingale

DISTRIBUTIONS = {"normal": stats.norm(), "log-normal": stats.lognorm(1), "Student t, 2 df": stats.t(2)}
PROMISES = [(39, 0.05), (99, 0.01), (209, 0.05), (209, 0.01), (391, 0.02)]  # good images and false-alarm rate
BEFORE = 500  # parts of a line before a planted change
CHANGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "up 0.5 sd": lambda parts: parts + 0.5,
    "up 1 sd": lambda parts: parts + 1,
    "up 2 sd": lambda parts: parts + 2,
    "down 1 sd": lambda parts: parts - 1,
    "twice as wide": lambda parts: 2 * parts,
    "frozen": lambda parts: np.full_like(parts, 0.3),
}


def realised(lines: int, parts: int) -> None:
    """How often the true rate, and the rate among the coming parts of a line, fall into the printed 95 % ranges."""
    print(f"\n{lines} lines each: share of lines inside the printed 95 % range (bar: 95 ± 1.5 %)\n")
    print(f"| good images | promised | scores | printed range | true rate inside | alarms among {parts} | inside |")
    print("|---|---|---|---|---|---|---|")
    for number, (count, false_alarm_rate) in enumerate(PROMISES):
        low, high = metrics.true_rate_interval(count, false_alarm_rate)
        fewest, most = metrics.alarms_among(count, false_alarm_rate, parts).interval(0.95)
        for name, distribution in DISTRIBUTIONS.items():
            rng = np.random.default_rng((number, len(name)))
            thresholds = np.array(
                [metrics.calibrated(distribution.rvs(count, random_state=rng), false_alarm_rate) for _ in range(lines)]
            )
            true = distribution.sf(thresholds)
            alarms = rng.binomial(parts, true)
            inside, predicted = np.mean((true >= low) & (true <= high)), np.mean((alarms >= fewest) & (alarms <= most))
            words = f"{count} | {false_alarm_rate:.0%} | {name} | {low:.3f} to {high:.3f} | {inside:.1%}"
            print(f"| {words} | {fewest:.0f} to {most:.0f} | {predicted:.1%} |", flush=True)


def largest_wealth(seed: int, parts: int, threshold: bool) -> float:
    """Of a line that does not drift; with a threshold only of what passes it."""
    rng = np.random.default_rng((1, seed))
    good = np.exp(rng.normal(size=209))
    line = Martingale(good, seed=seed, threshold=metrics.calibrated(good, 0.05) if threshold else None)
    for part in np.exp(rng.normal(size=parts)):
        line.update(part)
    return line.largest


def false_alarms(lines: int, parts: int, jobs: int) -> None:
    """How often a line that does not drift ever raises the alarm, beside what is guaranteed."""
    print(f"\nFalse drift alarms of {lines} exchangeable lines of {parts} parts after 209 good images\n")
    print("| alarm rate | guaranteed at most | every score: alarms | what passes 5 %: alarms |")
    print("|---|---|---|---|")
    largest = [
        np.array(Parallel(jobs)(delayed(largest_wealth)(seed, parts, threshold) for seed in range(lines)))
        for threshold in (False, True)
    ]
    for alarm_rate in (0.2, 0.1, 0.05, 0.01, 0.001):
        alarms = [int((values >= 1 / alarm_rate).sum()) for values in largest]
        shares = [f"{count}, {count / lines:.1%} ({_interval(count, lines)})" for count in alarms]
        print(f"| {alarm_rate:g} | {alarm_rate * lines:g} | {' | '.join(shares)} |", flush=True)


def _interval(count: int, lines: int) -> str:
    low, high = metrics.wilson(count / lines, lines)
    return f"95 % interval {low:.1%} to {high:.1%}"


def delay(seed: int, change: str, count: int, limit: int) -> float:
    """Parts from a change to the alarm, inf for none within the limit, nan for one before the change."""
    rng = np.random.default_rng((2, seed))
    line = Martingale(rng.normal(size=count), seed=seed)
    for part in rng.normal(size=BEFORE):
        line.update(part)
    if line.alarm:
        return np.nan
    for number, part in enumerate(CHANGES[change](rng.normal(size=limit)), 1):
        line.update(part)
        if line.alarm:
            return number
    return np.inf


def delays(lines: int, parts: int, jobs: int) -> None:
    """Median and 90 % quantile of the delay under planted changes, at the alarm rate 1/1000."""
    print(f"\nDelay after a change at part {BEFORE}, in parts, {lines} lines each, alarm rate 1/1000\n")
    print(f"| good images | change | median | 90 % quantile | not within {parts} |\n|---|---|---|---|---|")
    for count in (0, 209):
        for change in CHANGES:
            values = np.array(
                Parallel(jobs)(delayed(delay)(seed, change, count, parts) for seed in range(lines)), np.float64
            )
            values = values[~np.isnan(values)]
            late = np.isinf(values).mean()
            median, upper = np.quantile(values, [0.5, 0.9], method="higher")
            print(f"| {count} | {change} | {median:.0f} | {upper:.0f} | {late:.1%} |", flush=True)


def main() -> None:
    """All three."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lines", type=int, default=1000)
    parser.add_argument("--parts", type=int, default=2000)
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    realised(arguments.lines, arguments.parts)
    false_alarms(arguments.lines, arguments.parts, arguments.jobs)
    delays(max(arguments.lines // 4, 1), arguments.parts, arguments.jobs)


if __name__ == "__main__":
    main()
