"""Vibration signals: the frequencies of the geometry, what a fault adds, what load and seed change, and the images."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import signal as scipy_signal

from mvtec_ad.errors import DataError
from mvtec_ad.synthetic.bearings import (
    FAULTS,
    SAMPLES,
    SAMPLING_FREQUENCY,
    STRIKES,
    Bearing,
    Machine,
    draw,
    load_distribution,
    spectrogram_images,
)

FREQUENCIES = np.fft.rfftfreq(SAMPLES, 1 / SAMPLING_FREQUENCY)


def added(seed: int, fault: str, **options: float) -> np.ndarray:
    """What a fault adds to the record of a seed."""
    return draw(seed, fault, **options).values.astype(float) - draw(seed, load=options.get("load", 1.0)).values


def envelope_spectrum(values: np.ndarray) -> np.ndarray:
    """Of the squared envelope, by scipy."""
    return np.abs(np.fft.rfft(scipy_signal.detrend(np.abs(scipy_signal.hilbert(values)) ** 2, type="constant")))


def line(power: np.ndarray, frequency: float) -> float:
    """The highest value within 2 % of a frequency, over the median of all below 1 kHz."""
    near = np.abs(FREQUENCIES - frequency) <= max(2, 0.02 * frequency)
    return power[near].max() / np.median(power[FREQUENCIES < 1000])


# --- geometry ---------------------------------------------------------------------------------------------------------


def test_frequencies_of_the_6205_are_the_published_ones() -> None:
    """Multiples of the shaft's frequency as Case Western Reserve's bearing data centre lists them."""
    found = Bearing().frequencies(1.0)
    published = {
        "bpfi": 5.4152,
        "bpfo": 3.5848,
        "ftf": 0.39828,
        "bsf": 4.7135 / 2,
    }  # which lists both strikes of a ball
    assert found == pytest.approx(published, abs=1e-4)


@pytest.mark.parametrize("bearing", [Bearing(), Bearing(16, 8.4, 71.5, 15.17)])
def test_frequencies_are_those_of_rolling_without_slipping(bearing: Bearing) -> None:
    """The cage moves at half the inner race's speed, and each ball rolls on the resting outer race."""
    across = bearing.ball_diameter * np.cos(np.radians(bearing.contact_angle))
    inner, outer = (bearing.pitch_diameter - across) / 2, (bearing.pitch_diameter + across) / 2  # radii of contact
    centre = 30.0 * inner / 2  # speed of a ball's centre over 2π, at 30 Hz
    cage = centre / (bearing.pitch_diameter / 2)
    found = bearing.frequencies(30.0)
    assert found["ftf"] == pytest.approx(cage)
    assert found["bpfo"] == pytest.approx(bearing.balls * cage)
    assert found["bpfi"] + found["bpfo"] == pytest.approx(bearing.balls * 30.0)
    assert found["bsf"] == pytest.approx(cage * outer / (bearing.ball_diameter / 2))


def test_balls_carry_load_on_one_side_only() -> None:
    """Most where the load points, alike on both sides of it, and nothing behind."""
    angles = np.radians([0, 30, 60, -60, 90, 180])
    shares = load_distribution(angles)
    assert shares[0] == 1
    assert shares[0] > shares[1] > shares[2] > 0
    assert shares[2] == pytest.approx(shares[3])
    assert (shares[4:] == 0).all()


# --- signals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("load", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("fault", STRIKES)
def test_a_fault_has_its_rhythm_and_no_other(fault: str, load: float) -> None:
    """In what it adds: of all candidate lines its own is the highest, over ten seeds, and clear of the background."""
    for seed in range(10):
        power = envelope_spectrum(added(seed, fault, severity=1.0, load=load))
        frequencies = Bearing().frequencies(draw(seed, load=load).shaft)
        lines = {other: line(power, times * frequencies[key]) for other, (key, times) in STRIKES.items()}
        assert max(lines, key=lines.get) == fault
        assert lines[fault] > 5


def test_the_inner_race_is_modulated_by_the_shaft_and_the_outer_is_not() -> None:
    """Sidebands at the shaft's frequency, beside the line itself."""
    for seed in range(10):
        shaft = draw(seed).shaft
        frequencies = Bearing().frequencies(shaft)
        shares = {}
        for fault, key in (("inner", "bpfi"), ("outer", "bpfo")):
            power = envelope_spectrum(added(seed, fault, severity=1.0))
            shares[fault] = line(power, frequencies[key] + shaft) / line(power, frequencies[key])
        assert shares["inner"] > 0.3 > 2 * shares["outer"]


def test_lubrication_adds_noise_of_high_frequencies_without_a_rhythm() -> None:
    """Its power grows as the square of the frequency."""
    power = np.mean([np.abs(np.fft.rfft(added(seed, "lubrication", severity=1.0))) ** 2 for seed in range(20)], axis=0)
    low, high = (power[(a <= FREQUENCIES) & (b > FREQUENCIES)].mean() for a, b in ((900, 1100), (3900, 4100)))
    assert high / low == pytest.approx(16, rel=0.2)


@pytest.mark.parametrize("fault", FAULTS)
def test_severity_is_a_factor_of_what_the_fault_adds(fault: str) -> None:
    """And of nothing else: at severity 0 the record is the intact one."""
    np.testing.assert_allclose(added(4, fault, severity=1.0), 4 * added(4, fault, severity=0.25), atol=1e-5)
    np.testing.assert_array_equal(draw(4, fault, severity=0.0).values, draw(4).values)


def test_strikes_ring_at_the_machines_resonance() -> None:
    """The mean spectrum of what they add is highest there."""
    for resonance in (2_000.0, 4_500.0):
        machine = Machine(resonance=resonance)
        spectra = []
        for seed in range(20):
            strikes = draw(seed, "outer", 1.0, machine=machine).values - draw(seed, machine=machine).values
            spectra.append(np.abs(np.fft.rfft(strikes)) ** 2)
        centre = np.average(FREQUENCIES, weights=np.mean(spectra, axis=0))
        assert centre == pytest.approx(resonance, rel=0.05)


def test_load_makes_signals_louder_and_the_shaft_slower() -> None:
    """As a motor slips: 1797 rpm without load, about 1731 with three."""
    records = {load: [draw(seed, load=load) for seed in range(40)] for load in (0.0, 1.0, 3.0)}
    loud = [np.mean([record.values.std() for record in several]) for several in records.values()]
    speeds = [60 * np.mean([record.shaft for record in several]) for several in records.values()]
    assert loud == sorted(loud)
    assert loud[2] / loud[1] == pytest.approx(1.6, rel=0.05)
    assert speeds == pytest.approx([1797, 1775, 1731], abs=2)


def test_a_seed_is_a_record() -> None:
    """The same again, another with another seed; float32 of the length promised."""
    first = draw(1, "ball", 0.5)
    np.testing.assert_array_equal(first.values, draw(1, "ball", 0.5).values)
    assert (first.values.shape, first.values.dtype) == ((SAMPLES,), np.float32)
    assert (first.fault, first.severity, draw(1).fault, draw(1).severity) == ("ball", 0.5, None, 0.0)
    assert len({draw(seed).values.tobytes() for seed in range(50)}) == 50


# --- images -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "averaged"), [(64, 1), (32, 1), (64, 3)])
def test_images_are_scipys_spectrogram(size: int, averaged: int) -> None:
    """In dB, spread over 0 to 255, high frequencies at the top, neighbouring windows averaged."""
    values, window = draw(2, "outer", 1.0).values.astype(float), 2 * (size - 1)
    step = (SAMPLES - window) // (size * averaged - 1)
    density = scipy_signal.spectrogram(values, SAMPLING_FREQUENCY, "hann", window, window - step)[2]
    density = density[:, : size * averaged].reshape(size, size, averaged).mean(2)
    expected = np.clip((10 * np.log10(density) + 65) / 55, 0, 1) * 255
    found = spectrogram_images(values[None], size, averaged)[0]
    assert found.dtype == np.uint8
    np.testing.assert_allclose(found, expected[::-1], atol=0.51)
    plain = spectrogram_images(values[None], size, averaged, log=False)[0]
    np.testing.assert_allclose(plain, np.clip(density[::-1] / 10**-1, 0, 1) * 255, atol=0.51)


def test_a_gain_becomes_a_summand() -> None:
    """Ten times as loud is 20 dB, of 55 in 255 levels; what leaves the range is cut."""
    values = 0.1 * draw(5).values[None]
    quiet, loud = (spectrogram_images(gain * values, decibels=(-85, -30)).astype(int) for gain in (1, 10))
    inside = (quiet > 0) & (loud < 255)
    assert inside.mean() > 0.9
    assert (loud - quiet)[inside] == pytest.approx(20 / 55 * 255, abs=1.01)
    assert (spectrogram_images(1e6 * values) == 255).mean() > 0.99
    assert (spectrogram_images(np.zeros((1, 200)), size=16) == 0).all()


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fault": "cage"}, "use one of outer, inner, ball, lubrication"),
        ({"fault": "outer", "severity": 1.5}, "severity is 1.5"),
        ({"load": -1.0}, "load is -1.0"),
        ({"load": float("nan")}, "load is nan"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_a_signal_that_cannot_be_is_named(arguments: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        draw(**{"seed": 0, **arguments})


def test_a_bearing_a_machine_and_images_that_cannot_be_are_named() -> None:
    with pytest.raises(DataError, match="is no bearing"):
        Bearing(ball_diameter=40.0)
    with pytest.raises(DataError, match="below 6000 Hz"):
        Machine(resonance=7_000.0)
    with pytest.raises(DataError, match="too few for 64 windows"):
        spectrogram_images(np.zeros((1, 300)))
    with pytest.raises(DataError, match="finite"):
        spectrogram_images(np.full((1, 6000), np.nan))
    with pytest.raises(DataError, match=r"\(6000,\)"):
        spectrogram_images(np.zeros(6000))
