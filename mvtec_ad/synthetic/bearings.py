"""Vibration signals of a rolling element bearing, drawn from a model: intact, or with a fault of chosen severity.

A ball that rolls over a defect strikes the structure, which rings: a train of exponentially damped sines. How often it
strikes follows from the geometry, how hard from the load where it strikes; the balls slip a little, so the intervals
vary. Randall, Antoni, "Rolling element bearing diagnostics: a tutorial", Mechanical Systems and Signal Processing 25,
2011, section 2, which names the frequencies, the slip of 1 to 2 % and the modulations. All amplitudes are this file's:
they were set so that weak faults are hard to see, not measured on a machine.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mvtec_ad.errors import DataError

SAMPLING_FREQUENCY = 12_000  # Hz
SAMPLES = 6_000  # of a signal: half a second
# Fault -> its frequency, and strikes in a period: a defect of a ball strikes both races in one turn of the ball.
STRIKES = {"outer": ("bpfo", 1), "inner": ("bpfi", 1), "ball": ("bsf", 2)}
FAULTS = (*STRIKES, "lubrication")
MOST_LOAD = 3.0  # in units of the nominal load
_ZONE = 0.4  # ε of the load distribution: balls carry within about ±78° of the direction of the load


@dataclass(frozen=True)
class Bearing:
    """Geometry of a bearing; by default the 6205-2RS at the drive end of the Case Western Reserve test rig.

    Attributes:
        balls: number of rolling elements, n.
        ball_diameter, pitch_diameter: d and D, in the same unit, here mm.
        contact_angle: φ, degrees.
    """

    balls: int = 9
    ball_diameter: float = 7.94
    pitch_diameter: float = 39.04
    contact_angle: float = 0.0

    def __post_init__(self) -> None:
        ratio = self.ball_diameter / self.pitch_diameter if self.pitch_diameter > 0 else 0
        if not (self.balls >= 1 and 0 < ratio < 1 and 0 <= self.contact_angle < 90):
            raise DataError(f"{self} is no bearing: it needs balls, 0 < d < D and an angle from 0 to below 90 degrees")

    def frequencies(self, shaft: float) -> dict[str, float]:
        """Kinematic frequencies in Hz at a shaft frequency in Hz, outer race at rest (Randall and Antoni, eq. 1 to 4).

        `bpfo` and `bpfi`: balls that pass a point of the outer and of the inner race; `ftf`: the cage; `bsf`: a ball
        about its own axis.

        Examples:
            >>> {name: round(value, 3) for name, value in Bearing().frequencies(1.0).items()}
            {'bpfo': 3.585, 'bpfi': 5.415, 'bsf': 2.357, 'ftf': 0.398}
        """
        ratio = self.ball_diameter / self.pitch_diameter * np.cos(np.radians(self.contact_angle))
        spin = self.pitch_diameter / (2 * self.ball_diameter) * (1 - ratio**2)
        multiples = (self.balls * (1 - ratio) / 2, self.balls * (1 + ratio) / 2, spin, (1 - ratio) / 2)
        named = zip(("bpfo", "bpfi", "bsf", "ftf"), multiples, strict=True)
        return {name: float(shaft * multiple) for name, multiple in named}


@dataclass(frozen=True)
class Machine:
    """Where the bearing sits.

    Attributes:
        bearing: its geometry.
        resonance: Hz, of the structure that rings, at nominal load.
        damping: ζ, a share of critical damping.
        slip: standard deviation of the interval between two strikes, as a share of it.
    """

    bearing: Bearing = Bearing()
    resonance: float = 3_300.0
    damping: float = 0.05
    slip: float = 0.01

    def __post_init__(self) -> None:
        if not (0 < self.resonance < SAMPLING_FREQUENCY / 2 and 0 < self.damping < 1 and 0 <= self.slip <= 0.1):
            limit = SAMPLING_FREQUENCY // 2
            raise DataError(f"{self}: the resonance lies below {limit} Hz, damping in (0, 1) and slip in [0, 0.1]")


@dataclass(frozen=True)
class Signal:
    """One record of an accelerometer.

    Attributes:
        values: (SAMPLES,) float32; the unit is the standard deviation of the noise at nominal load.
        shaft: shaft frequency during the record, Hz.
        fault: of `FAULTS`, or None.
        severity: from 0 to 1; 0 without a fault.
        load: as it was asked for, in units of the nominal one.
    """

    values: np.ndarray
    shaft: float
    fault: str | None
    severity: float
    load: float


def draw(
    seed: int, fault: str | None = None, severity: float = 0.5, load: float = 1.0, machine: Machine | None = None
) -> Signal:
    """One signal; with and without its fault a seed gives the same record, which differs by the fault alone.

    Records of one load differ in speed, loudness, phase and noise, and the machine knocks now and then without any
    fault. A larger load makes everything louder, slows the motor and raises the resonance.

    Raises:
        DataError: an unknown fault, a severity outside of [0, 1], a load outside of [0, 3], a negative seed.

    Examples:
        >>> draw(7, "outer", severity=1.0).values.shape
        (6000,)
    """
    if fault is not None and fault not in FAULTS:
        raise DataError(f"fault {fault!r} is unknown: use one of {', '.join(FAULTS)} or None")
    for name, value, most in (("severity", severity, 1.0), ("load", load, MOST_LOAD), ("seed", seed, 2**63)):
        if not 0 <= value <= most:
            raise DataError(f"{name} is {value}; it must lie between 0 and {most:g}")
    machine = machine or Machine()
    record, noise, defect = (np.random.default_rng([seed, stream]) for stream in range(3))
    load_now = load + record.uniform(-0.1, 0.1)  # of two records at one load none carries the same
    shaft = (1797 - 22 * load_now) / 60 * (1 + 0.002 * record.standard_normal())
    gain = (0.7 + 0.3 * load_now) * np.exp(0.1 * record.standard_normal())
    ringing = machine.resonance * (gain ** (1 / 6)) * (1 + 0.01 * record.standard_normal())
    time = np.arange(SAMPLES) / SAMPLING_FREQUENCY
    values = _noise(noise, ringing, machine.damping, SAMPLES)
    for multiple, size in ((1, 1.2), (2, 0.6), (3, 0.3)):  # unbalance, misalignment
        size *= np.exp(0.2 * record.standard_normal())
        values += size * np.sin(2 * np.pi * (multiple * shaft * time + record.random()))
    knocks = record.poisson(2.0)
    values += _rings(record.uniform(0, time[-1], knocks), record.exponential(2.0, knocks), ringing, machine.damping)
    if fault == "lubrication":  # metal touches metal: more noise at high frequencies, and no rhythm
        values += severity * _high_frequencies(defect, SAMPLES)
    elif fault:
        strikes, sizes = _strikes(defect, fault, shaft, machine, time[-1])
        values += 12.0 * severity * _rings(strikes, sizes, ringing, machine.damping)
    return Signal((gain * values).astype(np.float32), shaft, fault, severity if fault else 0.0, load)


def _strikes(
    rng: np.random.Generator, fault: str, shaft: float, machine: Machine, end: float
) -> tuple[np.ndarray, np.ndarray]:
    """When a ball meets the defect, from shortly before the record begins, and how hard."""
    frequencies = machine.bearing.frequencies(shaft)
    name, number = STRIKES[fault]
    interval = 1 / (number * frequencies[name])
    count = int(1.2 * end / interval) + 5
    times = np.cumsum(interval * (1 + machine.slip * rng.standard_normal(count))) - (1 + rng.random()) * interval
    # The defect of the outer race lies where the load is; that of the inner one turns with the shaft, a ball with the
    # cage.
    turning = {"outer": 0.0, "inner": shaft, "ball": frequencies["ftf"]}[fault]
    sizes = load_distribution(2 * np.pi * (turning * times + (rng.random() if turning else 0.0)))
    return times[times < end], (sizes * np.exp(0.1 * rng.standard_normal(count)))[times < end]


def load_distribution(angles: np.ndarray) -> np.ndarray:
    """Share of the largest load that a ball carries at an angle to the load, radians (Stribeck's formula).

    [1 − (1 − cos θ) / 2ε]^(3/2) where it is positive, else 0; the exponent is that of point contact.

    Examples:
        >>> load_distribution(np.array([0.0, np.pi])).tolist()
        [1.0, 0.0]
    """
    return np.clip(1 - (1 - np.cos(angles)) / (2 * _ZONE), 0, None) ** 1.5


def _rings(times: np.ndarray, sizes: np.ndarray, resonance: float, damping: float) -> np.ndarray:
    """A damped sine for each strike, whose envelope begins at its size."""
    frequency = 2 * np.pi * resonance
    since = np.arange(int(SAMPLING_FREQUENCY * 8 / (damping * frequency)) + 1) / SAMPLING_FREQUENCY
    response = np.exp(-damping * frequency * since) * np.sin(frequency * np.sqrt(1 - damping**2) * since)
    early = len(since)  # strikes before the record ring into it
    samples = np.round(times * SAMPLING_FREQUENCY).astype(int) + early
    train = np.zeros(SAMPLES + early)
    inside = (samples >= 0) & (samples < len(train))
    np.add.at(train, samples[inside], sizes[inside])
    return np.convolve(train, response)[early : early + SAMPLES]


def _noise(rng: np.random.Generator, resonance: float, damping: float, count: int) -> np.ndarray:
    """Noise of standard deviation 1, half of its power shaped by the resonance."""
    frequencies = np.fft.rfftfreq(count, 1 / SAMPLING_FREQUENCY) / resonance
    shape = 1 / np.hypot(1 - frequencies**2, 2 * 3 * damping * frequencies)
    shaped = np.fft.irfft(np.fft.rfft(rng.standard_normal(count)) * shape, count)
    return (rng.standard_normal(count) + shaped / np.sqrt(np.mean(shape**2))) / np.sqrt(2)


def _high_frequencies(rng: np.random.Generator, count: int) -> np.ndarray:
    """Noise that grows with the frequency, of standard deviation 1."""
    frequencies = np.fft.rfftfreq(count, 1 / SAMPLING_FREQUENCY)
    values = np.fft.irfft(np.fft.rfft(rng.standard_normal(count)) * frequencies, count)
    return values / np.sqrt(np.mean(frequencies**2))


def spectrogram_images(
    values: np.ndarray,
    size: int = 64,
    averaged: int = 3,
    decibels: tuple[float, float] = (-65.0, -10.0),
    log: bool = True,
) -> np.ndarray:
    """Log-spectrograms of signals as gray images, high frequencies at the top: (N, T) -> (N, size, size) uint8.

    A Hann window of 2(size − 1) samples moves in `size` steps over the signal; the power spectral density, in dB, is
    cut at both ends of `decibels` and spread over 0 to 255. Without `log` it is the density itself, from 0 to the upper
    end.

    Raises:
        DataError: signals too short for so many windows, not finite, or not (N, T).

    Examples:
        >>> spectrogram_images(np.zeros((2, 6000))).shape
        (2, 64, 64)
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 2 or not np.isfinite(values).all() or size < 2:
        raise DataError(f"signals must be finite and (N, T), and an image 2 pixels or more; these are {values.shape}")
    window = 2 * (size - 1)
    step = (values.shape[1] - window) // (size * averaged - 1)
    if step < 1:
        raise DataError(f"{values.shape[1]} samples are too few for {size} windows: give {window + size - 1} or more")
    hann = np.sin(np.pi * np.arange(window) / window) ** 2
    parts = np.lib.stride_tricks.sliding_window_view(values, window, axis=1)[:, : step * size * averaged : step]
    parts = parts - parts.mean(-1, keepdims=True)
    density = np.abs(np.fft.rfft(parts * hann)) ** 2 / (SAMPLING_FREQUENCY * np.sum(hann**2))  # N × times × frequencies
    density[..., 1:-1] *= 2  # of both signs
    density = density.reshape(len(values), size, averaged, size).mean(2)
    low, high = decibels
    shares = density / 10 ** (high / 10)
    if log:
        shares = (10 * np.log10(np.maximum(density, 1e-300)) - low) / (high - low)
    return (255 * np.clip(shares, 0, 1)).round().astype(np.uint8).transpose(0, 2, 1)[:, ::-1]
