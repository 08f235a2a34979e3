"""The compiled part of condition `anomaly`: judge the window of each series by what was learned of it, then learn.

    value ──► 13 streams (levels, changes, roughness, season) ──► evidence of each: tail and record ──► score
                                                                        └─► peaks, counted over the fleet

A series is a row of float32; the names below say which column holds what.  Nothing here knows SQL, units or rules.

*Tail*: how far beyond its threshold, the 98 % quantile of the deviations to this side, in decades of probability.  The
threshold moves by stochastic steps; beyond it the tail is Pareto's, whose index is a running mean (Hill 1975).
*Record*: how far beyond all that was seen, in widths of that range.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from decoders.jit import inline, inline_always, kernel

State = NDArray[np.float32]
Values = NDArray[np.float64]

LEVELS, CHANGES, ROUGHNESS, SEASONS, STREAMS = 0, 4, 7, 10, 13
"""First stream of each kind, and how many there are."""
WIDTHS = np.array([1, 3, 8, 24])
"""Windows in the means that are the levels."""
SEASON_WIDTHS = np.array([1, 8, 24])
SMOOTH = np.array([1.0, 3.0, 9.0, 27.0])
"""Time constants in windows; a change is the difference between two neighbours, the value itself being the first."""
CHANNELS = 2 * STREAMS + 1
"""Each stream to each side (above, below), and the sum of all evidence."""
SUM = CHANNELS - 1
SUM_SHARE = 0.25
"""Of the sum, so that it lies on the scale of the others."""
TAILS = 0.03
"""Share of tails in the sum."""
LONG = 6400
"""Windows of the plain mean and standard deviation, whose distance is a part of the sum."""
LEAST_LONG = 20

# Columns of a stream.
LOW, HIGH, CENTRE, SPREAD, COUNT, ABOVE, BELOW, TAIL_ABOVE, TAIL_BELOW, FIELDS = range(10)
# Columns of a series, behind those of its streams.
RING = 24
BINS = 168
"""Of the profile: 24 hours × 7 days, or 48 half hours × 2 kinds of days."""
VALUES = STREAMS * FIELDS
RESIDUALS = VALUES + RING
VARIANCES = RESIDUALS + RING
SMOOTHED = VARIANCES + RING
SMOOTHED_VARIANCE = SMOOTHED + 3
ENERGY = SMOOTHED_VARIANCE + 3
PEAKS = ENERGY + 3
QUIET = PEAKS + CHANNELS
PROFILE = QUIET + CHANNELS
SEEN = PROFILE + BINS
"""Windows that were learned."""
USUAL_VARIANCE, MEAN, OFF_MEAN, OFF_SEASON, RESIDUALS_SEEN = range(SEEN + 1, SEEN + 6)
BIN, BIN_SUM, BIN_COUNT, DAYS = range(SEEN + 6, SEEN + 10)
SCALE = SEEN + 10
"""Of the transform; kept here for the caller."""
ALERTS, AGE, EPISODE, BEYOND_RUN, CLEAR_RUN, LIMIT, PEAK, BEGAN, SHIFTED = range(SEEN + 11, SEEN + 20)
LONG_MEAN, LONG_VARIANCE = SEEN + 20, SEEN + 21
LENT = SEEN + 22
"""1 if the thresholds are those of its peers (`lend`), as long as a stream has no own ones."""
KEPT = SEEN + 23
"""Place of what the streams were before its last episode; see `step`."""
WIDTH = SEEN + 24

# Columns of what is found out about a window.
SCORE, CHANNEL, BEYOND, CLEAR, EXPECTED, USUAL_LOW, USUAL_HIGH, SINCE, NEW_USUAL, TOTAL, WORST, RESULTS = range(12)

LEAST = 50
"""Windows before a stream is judged."""
LEAST_JUDGED = 120
"""Windows before a series is judged: its tails are known roughly."""
OWN_SHARE = 0.3
"""Weight of its own spread after `LEAST` windows, where the thresholds are those of peers: n / (n + 120)."""
LEAST_JUDGED_LENT = LEAST + 1
"""The same of a series that has the tails of its peers."""
LEAST_SEASON = 300
RHYTHM = 0.9
"""Of the mean deviation from the mean: a season that leaves more of it is none."""
TAIL_SHARE = 0.02
TAIL_DECADES = 1.69897
"""−log10 of it."""
LEAST_INDEX = 0.125
MOST_TAIL = 30.0
Z95 = 1.96
STEPS = 256
STEPS_PER_UNIT = 8
PEAK_LEAST = 2.5
"""Evidence from which a run is a peak that counts."""
SHIFT_WINDOWS = 48
"""Windows beyond, one after the other and without further change, after which a level is the usual one."""
TELL_WINDOWS = 20
"""So long a new level is named as such."""
NEVER = 1e6
REPEATED = 0.5
"""What each alert of a series adds to its limit, in units of the score; it is forgotten in `FORGET_DAYS`."""
FORGET_DAYS = 10
"""In which each alert of a series counts ever less."""
MOST_ALERTS = 6.0
"""To which verdicts add up: what is a thousand times rarer fires all the same."""
WRONG = 3.0
"""What an alert adds that a person calls wrong."""
RARER = 1.0
"""A second alert within the hold time must be ten times rarer than the first."""


@inline
def observe(row, at, value, noise, extra, floor):  # type: ignore[no-untyped-def]
    """Judge a value of one stream by what stands in `row` from `at`, then learn it.

    `noise`: half of its 95 % interval; `extra`: that part of it that is more than usual; `floor`: least width of what
    is usual.  Returns tail and record; positive above the centre, negative below.
    """
    count = row[at + COUNT]
    if count == 0:
        row[at + LOW] = row[at + HIGH] = row[at + CENTRE] = value
        row[at + SPREAD] = 0
        if row[LENT] == 0:
            row[at + ABOVE] = row[at + BELOW] = 0
            row[at + TAIL_ABOVE] = row[at + TAIL_BELOW] = 0.5
        row[at + COUNT] = 1
        return 0.0, 0.0
    centre, low, high, spread = row[at + CENTRE], row[at + LOW], row[at + HIGH], row[at + SPREAD]
    above = value > centre
    sign = 1.0 if above else -1.0
    side = 0 if above else 1
    off = max(0.0, abs(value - centre) - extra)
    tail = record = 0.0
    threshold = max(row[at + ABOVE + side], floor)
    beyond = max(value - extra - high, low - value - extra)
    if count >= LEAST and abs(value - centre) > noise:
        if off > threshold:
            index = max(row[at + TAIL_ABOVE + side], LEAST_INDEX)
            tail = min(MOST_TAIL, TAIL_DECADES + math.log10(off / threshold) / index)
        if beyond > 0:
            record = math.log(1 + 10 * beyond / max(high - low, floor) * count / (count + 1000))
    # Learn: of what is far off only a part.
    row[at + COUNT] = min(count + 1, NEVER)
    most = 6 * spread if count > RING and spread > 0 else off
    row[at + SPREAD] = spread + max(1 / (count + 1), 0.002) * (min(off, most) - spread)
    if count < LEAST:
        row[at + CENTRE] = centre + (value - centre) / (count + 1)
        if row[LENT] == 0:
            row[at + ABOVE] = row[at + BELOW] = 3 * row[at + SPREAD]
        elif count == LEAST - 1:
            for one in range(2):
                mixed = OWN_SHARE * 3 * row[at + SPREAD] + (1 - OWN_SHARE) * row[at + ABOVE + one]
                row[at + ABOVE + one] = max(mixed, 1.5 * row[at + SPREAD])
        row[at + LOW], row[at + HIGH] = min(low, value), max(high, value)
        return 0.0, 0.0
    row[at + CENTRE] = centre + sign * spread * max(0.001, 1 / count)
    step = spread * max(0.05, 10 / count)
    for one in range(2):
        exceeds = one == side and off > row[at + ABOVE + one]
        if exceeds and row[at + ABOVE + one] > 0:
            index = row[at + TAIL_ABOVE + one]
            learned = max(0.02, 1 / (5 + TAIL_SHARE * count))
            row[at + TAIL_ABOVE + one] = index + learned * (min(math.log(off / row[at + ABOVE + one]), 3.0) - index)
        moved = row[at + ABOVE + one] + step * ((1.0 if exceeds else 0.0) - TAIL_SHARE)
        row[at + ABOVE + one] = max(0.0, moved)
    shrink = (high - low) / 16_000
    high, low = high - shrink, low + shrink
    if value - extra > high:
        high += 0.3 * (value - extra - high)
    elif value + extra < low:
        low += 0.3 * (value + extra - low)
    row[at + LOW], row[at + HIGH] = low, high
    return sign * tail, sign * record


@inline_always
def means(row, ring, found, width):  # type: ignore[no-untyped-def]
    """Return the mean of the last `width` of the values in a ring, of which `found` were put in; NaN without them."""
    total = 0.0
    for back in range(width):
        total += row[ring + (found - 1 - back) % RING]
    return total / width


@inline_always
def season(row, places, share):  # type: ignore[no-untyped-def]
    """Return what is usual at this time of the day; NaN where unknown.

    `places`: bin of the window, its neighbour, and bins that stand in for it.  `share` of the neighbour: the value of a
    bin is that of its middle.
    """
    usual = row[PROFILE + places[0]]
    if np.isnan(usual):
        for other in places[2:]:
            if not np.isnan(row[PROFILE + other]):
                usual = row[PROFILE + other]
                break
    near = row[PROFILE + places[1]]
    return usual if np.isnan(near) else usual + share * (near - usual)


@inline_always
def learn_season(row, value, place, kinds):  # type: ignore[no-untyped-def]
    """Put a value into the profile: the mean of each bin and day counts once."""
    if row[BIN] != place:
        if row[BIN_COUNT] > 0:
            at = PROFILE + int(row[BIN])
            mean = row[BIN_SUM] / row[BIN_COUNT]
            weight = max(1 / 7, 1 / (1 + row[DAYS] / kinds))
            row[at] = mean if np.isnan(row[at]) else row[at] + weight * (mean - row[at])
        if place < row[BIN]:
            row[DAYS] += 1
        row[BIN], row[BIN_SUM], row[BIN_COUNT] = place, 0, 0
    row[BIN_SUM] += value
    row[BIN_COUNT] += 1


@inline_always
def long_distance(row, value, variance, extra, floor):  # type: ignore[no-untyped-def]
    """Return how far the value is from its long mean, in standard deviations, then learn it."""
    count, off = row[SEEN], value - row[LONG_MEAN]
    far = 0.0
    if count > LEAST_LONG and abs(off) > Z95 * math.sqrt(variance):
        deviation = max(math.sqrt(row[LONG_VARIANCE]), floor)
        far = max(0.0, abs(off) - Z95 * math.sqrt(extra)) / deviation if deviation > 0 else 0.0
    weight = max(1 / (count + 1), 1 / LONG)
    row[LONG_MEAN] += weight * off
    row[LONG_VARIANCE] = (1 - weight) * (row[LONG_VARIANCE] + weight * off * off)
    return far


@inline_always
def gather(row, value, variance, usual, floor, evidence):  # type: ignore[no-untyped-def]
    """Fill in the evidence of each stream, positive above and negative below.

    Returns the sum of all records and of the distance from the long mean; tails have a small share of it, since they
    cost more false alarms than they find, and records off the season count twice.
    """
    common = row[USUAL_VARIANCE]
    total = long_distance(row, value, variance, max(0.0, variance - common), floor)
    seen = int(row[SEEN])
    row[VALUES + seen % RING], row[VARIANCES + seen % RING] = value, variance
    seen += 1
    row[SEEN] = seen if seen < NEVER else seen - RING * 10_000
    for number in range(4):
        evidence[LEVELS + number] = 0
        width = WIDTHS[number]
        mean, noise = means(row, VALUES, seen, width), means(row, VARIANCES, seen, width) / width
        if not np.isnan(mean):
            more = max(0.0, noise - common / width)
            tail, record = observe(
                row, (LEVELS + number) * FIELDS, mean, Z95 * math.sqrt(noise), Z95 * math.sqrt(more),
                floor + math.sqrt(common / width),
            )  # fmt: skip
            evidence[LEVELS + number] = tail
            total += abs(record) + TAILS * abs(tail)
    before, before_variance = value, variance
    for number in range(3):
        evidence[CHANGES + number] = evidence[ROUGHNESS + number] = 0
        weight = 1 - math.exp(-1 / SMOOTH[number + 1])
        smooth, smooth_variance = row[SMOOTHED + number], row[SMOOTHED_VARIANCE + number]
        if np.isnan(smooth):
            row[SMOOTHED + number], row[SMOOTHED_VARIANCE + number] = value, variance
            before, before_variance = value, variance
            continue
        smooth += weight * (value - smooth)
        smooth_variance = (1 - weight) ** 2 * smooth_variance + weight**2 * variance
        row[SMOOTHED + number], row[SMOOTHED_VARIANCE + number] = smooth, smooth_variance
        change, noise = before - smooth, before_variance + smooth_variance
        before, before_variance = smooth, smooth_variance
        # The usual noise of a mean of w windows is that of one, divided by w.
        expected = common * (1 / SMOOTH[number] + 1 / SMOOTH[number + 1])
        more = max(0.0, noise - expected)
        tail, record = observe(
            row, (CHANGES + number) * FIELDS, change, Z95 * math.sqrt(noise), Z95 * math.sqrt(more),
            floor + math.sqrt(common / SMOOTH[number]),
        )  # fmt: skip
        evidence[CHANGES + number] = tail
        total += abs(record) + TAILS * abs(tail)
        energy, square, least = row[ENERGY + number], change * change, 0.1 * floor * floor + common + 1e-18
        energy += (square * (energy + least) / (energy + least + more) - energy) / SMOOTH[number + 1] / 3
        row[ENERGY + number] = energy
        if seen > RING:
            tail, record = observe(row, (ROUGHNESS + number) * FIELDS, math.log(energy + least), 0.0, 0.0, 0.1)
            evidence[ROUGHNESS + number] = tail
            total += abs(record) + TAILS * abs(tail)
    return total + gather_season(row, value, variance, usual, floor, evidence)


@inline_always
def gather_season(row, value, variance, usual, floor, evidence):  # type: ignore[no-untyped-def]
    """Do the same for what is left without the season; nothing where a series has no rhythm."""
    total = 0.0
    for number in range(3):
        evidence[SEASONS + number] = 0
    slow = max(0.002, 1 / row[SEEN])
    row[OFF_MEAN] += slow * (abs(value - row[MEAN]) - row[OFF_MEAN])
    row[MEAN] += slow * (value - row[MEAN])
    if np.isnan(usual):
        return total
    found = int(row[RESIDUALS_SEEN])
    row[RESIDUALS + found % RING] = value - usual
    found += 1
    row[RESIDUALS_SEEN] = found if found < NEVER else found - RING * 10_000
    row[OFF_SEASON] += max(0.002, 1 / found) * (abs(value - usual) - row[OFF_SEASON])
    rhythm = (RHYTHM - row[OFF_SEASON] / max(row[OFF_MEAN], 1e-30)) / 0.4
    rhythm = min(1.0, max(0.0, rhythm))
    for number in range(3):
        width = SEASON_WIDTHS[number]
        left, noise = means(row, RESIDUALS, found, width), means(row, VARIANCES, int(row[SEEN]), width) / width
        if not (np.isnan(left) or np.isnan(noise)):
            more = max(0.0, noise - row[USUAL_VARIANCE] / width)
            tail, record = observe(
                row, (SEASONS + number) * FIELDS, left, Z95 * math.sqrt(noise),
                Z95 * math.sqrt(more), floor + math.sqrt(row[USUAL_VARIANCE] / width),
            )  # fmt: skip
            if found >= LEAST_SEASON:
                evidence[SEASONS + number] = tail * rhythm
                total += (2 * abs(record) + TAILS * abs(tail)) * rhythm
    return total


@inline_always
def side_of(evidence, channel, total):  # type: ignore[no-untyped-def]
    """Return the evidence of a channel: of a stream to one side, or the sum."""
    if channel == SUM:
        return total * SUM_SHARE
    tail = evidence[channel // 2]
    return max(0.0, tail if channel % 2 == 0 else -tail)


@inline_always
def strongest(evidence):  # type: ignore[no-untyped-def]
    """Return the first channel whose tail is not far below the highest: it names what adds up, in simple words."""
    most = 0.0
    for channel in range(SUM):
        most = max(most, side_of(evidence, channel, 0.0))
    for channel in range(SUM):
        if side_of(evidence, channel, 0.0) >= most / 2:
            return channel
    return 0


@inline_always
def count_peak(row, channel, tail, hold, peaks):  # type: ignore[no-untyped-def]
    """Count the highest evidence of a run, once it is over for `hold` windows."""
    if tail > PEAK_LEAST:
        row[PEAKS + channel] = max(row[PEAKS + channel], tail)
        row[QUIET + channel] = 0
    elif row[PEAKS + channel] > 0:
        row[QUIET + channel] += 1
        if row[QUIET + channel] >= hold:
            peaks[channel, min(STEPS - 1, int(row[PEAKS + channel] * STEPS_PER_UNIT))] += 1
            row[PEAKS + channel] = 0


@inline_always
def decide(row, score, inside, base, need, hold, clear_windows, forget, masked, found):  # type: ignore[no-untyped-def]
    """Hold the score against the limit of the series, which is higher where it raised alerts before.

    It is clear only when the level is `inside` what is usual, too: what is new about a fault is over before it is.
    """
    row[ALERTS] *= 1 - forget
    row[AGE] = min(row[AGE] + 1, NEVER)
    if row[EPISODE] == 0:
        limit = base + REPEATED * row[ALERTS]
        begins = score >= limit and not masked and (row[AGE] >= hold or score >= row[PEAK] + RARER)
        if begins:
            row[EPISODE], row[LIMIT], row[PEAK], row[BEGAN] = 1, limit, score, 0
            row[BEYOND_RUN] = row[CLEAR_RUN] = 0
    found[BEYOND], found[CLEAR] = 0, 1
    if row[EPISODE] == 0:
        return
    row[BEGAN] += 1
    beyond, clear = score >= row[LIMIT], inside and score < row[LIMIT] - RARER
    found[BEYOND], found[CLEAR] = beyond, clear
    row[BEYOND_RUN] = row[BEYOND_RUN] + 1 if beyond else 0
    if row[BEYOND_RUN] == need:
        row[ALERTS] += 1
        row[AGE] = 0
    row[PEAK] = max(row[PEAK], score)
    row[CLEAR_RUN] = row[CLEAR_RUN] + 1 if clear else 0
    if row[CLEAR_RUN] >= clear_windows:
        row[EPISODE] = 0


@inline_always
def settle(row, evidence):  # type: ignore[no-untyped-def]
    """Take a level that stays for the usual one, if it stayed for long enough; return whether that was lately."""
    at = (LEVELS + 2) * FIELDS
    stays, quiet = evidence[LEVELS + 2] != 0, evidence[CHANGES + 1] == 0
    if row[SHIFTED] < 0:
        row[SHIFTED] += 1
        return True
    if row[EPISODE] == 0 and row[SHIFTED] == 0:
        return False
    row[SHIFTED] = max(0, row[SHIFTED] + (1 if stays else -1))
    if row[SHIFTED] < SHIFT_WINDOWS or not quiet:
        return False
    shift = means(row, VALUES, int(row[SEEN]), RING) - row[at + CENTRE]
    if np.isnan(shift):
        return False
    for number in range(4):
        for column in (LOW, HIGH, CENTRE):
            row[(LEVELS + number) * FIELDS + column] += shift
    for place in range(BINS):
        row[PROFILE + place] += shift
    for place in range(RING):
        row[RESIDUALS + place] -= shift
    row[BIN_SUM] += shift * row[BIN_COUNT]
    row[MEAN] += shift
    row[EPISODE], row[SHIFTED] = 0, -TELL_WINDOWS
    return True


@inline_always
def usual_range(row, channel, usual, found):  # type: ignore[no-untyped-def]
    """Fill in what was expected of the value, as the channel sees it: before this window was learned, nearly."""
    stream = channel // 2
    if stream >= SEASONS and not np.isnan(usual):
        at, base = stream * FIELDS, usual
    elif CHANGES <= stream < ROUGHNESS:
        at, base = stream * FIELDS, row[SMOOTHED + stream - CHANGES]
    else:
        at, base = (stream if stream < CHANGES else 0) * FIELDS, 0.0
    centre, noise = base + row[at + CENTRE], Z95 * math.sqrt(row[USUAL_VARIANCE])
    found[EXPECTED] = centre
    found[USUAL_LOW], found[USUAL_HIGH] = centre - max(row[at + BELOW], noise), centre + max(row[at + ABOVE], noise)


@kernel
def step(  # type: ignore[no-untyped-def]
    state, rows, values, variances, floors, masked, places, shares, kinds, scores, used, policy, peaks, found, keys,
    kept, kept_keys, kept_times, kept_at, now,
):  # fmt: skip
    """Judge and learn one window; `found`, shape (series, RESULTS), is filled in.

    `state`: a row per series; `rows`: which one each value belongs to; `values`: transformed, NaN where there is none;
    `variances`: of their sampling; `floors`: least width of what is usual; `masked`: a known change explains what
    happens; `places`, `shares`, `kinds`: see `clock`, one for all values or one for each; `scores`, shape (CHANNELS,
    STEPS): what evidence is worth; `used`: channels that count; `policy`: limit, windows to fire, hold, windows to
    clear, what of former alerts a window forgets; `peaks`, shape (CHANNELS, STEPS), counts.  `keys`: of all rows; where
    an episode begins, `kept` gets what the streams were before, in turn (`kept_at`), `kept_keys` of which series, and
    `kept_times` the begins of its first and its last window; `now`: begin of this one, seconds since 1970.
    """
    evidence = np.zeros(STREAMS)
    before = np.empty(PEAKS, np.float32)
    for number in range(len(rows)):
        value, variance = values[number], variances[number]
        found[number, :] = np.nan
        if not (np.isfinite(value) and np.isfinite(variance)):
            continue
        row, out = state[rows[number]], found[number]
        before[:] = row[:PEAKS]
        idle = row[EPISODE] == 0
        least = LEAST_JUDGED if row[LENT] == 0 else LEAST_JUDGED_LENT
        when = number if len(shares) > 1 else 0
        usual = season(row, places[when], shares[when])
        total = gather(row, value, variance, usual, floors[number], evidence)
        row[USUAL_VARIANCE] += max(0.002, 1 / row[SEEN]) * (variance - row[USUAL_VARIANCE])
        learn_season(row, value, places[when, 0], kinds)
        score, best = -9.0, 0
        for channel in range(CHANNELS):
            tail = side_of(evidence, channel, total)
            # What a known change explains, or what is new to us, says nothing of how rare something is.
            known = not masked[number] and row[SEEN] > least
            count_peak(row, channel, tail if known else 0.0, policy[2], peaks)
            # What is not counted as a peak has no known rate.
            if used[channel] and tail > PEAK_LEAST:
                worth = scores[channel, min(STEPS - 1, int(tail * STEPS_PER_UNIT))]
                if worth > score:
                    score, best = worth, channel
        if best == SUM:
            best = strongest(evidence)
        out[SCORE], out[CHANNEL], out[TOTAL] = score, best, total
        usual_range(row, best, usual, out)
        inside = evidence[LEVELS] == 0 and evidence[LEVELS + 2] == 0
        score = score if row[SEEN] > least else -9.0
        decide(row, score, inside, policy[0], policy[1], policy[2], policy[3], policy[4], masked[number], out)
        if idle and row[EPISODE] != 0 and len(kept_keys) > 0:
            place = kept_at[0] % len(kept_keys)
            kept[place, :] = before
            kept_keys[place] = keys[rows[number]]
            kept_times[place, 0] = now
            row[KEPT] = place
            kept_at[0] += 1
        if row[EPISODE] != 0 and len(kept_keys) > 0:
            place = int(row[KEPT])
            if kept_keys[place] == keys[rows[number]]:
                kept_times[place, 1] = now
        out[SINCE], out[WORST] = row[BEGAN], row[PEAK] if row[EPISODE] != 0 else score
        out[NEW_USUAL] = settle(row, evidence)


@kernel
def step_profile(state, rows, values, places, kinds):  # type: ignore[no-untyped-def]
    """Put values of a longer window into the profiles: the bins `places` that it covers, in order."""
    for number in range(len(rows)):
        if np.isfinite(values[number]):
            for place in places:
                learn_season(state[rows[number]], values[number], place, kinds)


def usual_at(row: State, at_seconds: NDArray[np.int64], hourly: bool) -> Values:
    """Return what is expected of the value at these times, and the ends of what is usual, shape (times, 3).

    By the profile, where the series has a rhythm; else it is the same at all times.
    """
    places, shares, _ = clock(at_seconds, hourly)
    usual = np.array([season(row, place, share) for place, share in zip(places, shares, strict=True)], np.float64)
    rhythm = row[RESIDUALS_SEEN] >= LEAST_SEASON and row[OFF_SEASON] < RHYTHM * row[OFF_MEAN]
    at = (SEASONS if rhythm else LEVELS) * FIELDS
    base = np.where(np.isnan(usual), row[MEAN], usual) if rhythm else np.zeros(len(usual))
    centre = base + row[at + CENTRE]
    noise = Z95 * math.sqrt(row[USUAL_VARIANCE])
    return np.stack([centre, centre - max(row[at + BELOW], noise), centre + max(row[at + ABOVE], noise)], axis=1)


def judged(state: State, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which of these series are judged: enough of their windows are learned."""
    least = np.where(state[rows, LENT] == 0, LEAST_JUDGED, LEAST_JUDGED_LENT)
    return state[rows, SEEN] > least  # type: ignore[no-any-return]


def lend(state: State, rows: NDArray[np.int64], tails: State) -> None:
    """Give new series the thresholds and tails of their peers, a row of `tails` for each (`tails_of`)."""
    at = np.arange(STREAMS)[:, None] * FIELDS + np.arange(ABOVE, FIELDS)
    state[rows[:, None], at.ravel()] = tails
    state[rows, LENT] = 1


def tails_of(state: State, rows: NDArray[np.int64]) -> State:
    """Return the median thresholds and tails of these series."""
    at = np.arange(STREAMS)[:, None] * FIELDS + np.arange(ABOVE, FIELDS)
    return np.median(state[rows[:, None], at.ravel()], axis=0)  # type: ignore[no-any-return]


def forgets(seconds: float) -> float:
    """Return what of former alerts a window of so many seconds forgets."""
    return seconds / (FORGET_DAYS * 86_400)


def take_wrong(row: State, seconds: float, later: bool = False) -> None:
    """An alert of this series, some seconds ago, was wrong: what fires next must be rarer.

    `later`: the present episode is that of a later alert, and goes on.
    """
    row[ALERTS] = max(row[ALERTS], min(MOST_ALERTS, row[ALERTS] + WRONG * math.exp(-forgets(seconds))))
    if not later:
        row[EPISODE] = 0


def take_right(row: State, before: State | None, later: bool = False) -> None:
    """An alert of this series was right: what it was about is no usual behaviour, and may be found again at once.

    `before`: its streams as they were when the alert began; None where that is not known: they stay.  `later`: as in
    `take_wrong`; with `before` that alert is over, too, since what was learned in it is dropped.
    """
    row[ALERTS] = max(0.0, row[ALERTS] - 1)
    if before is not None:
        row[:PEAKS] = before
    elif later:
        return
    row[PEAKS : PEAKS + CHANNELS] = 0
    row[EPISODE], row[SHIFTED], row[AGE], row[PEAK] = 0, 0, NEVER, 0


def clock(at_seconds: NDArray[np.int64], hourly: bool) -> tuple[NDArray[np.int64], Values, float]:
    """Bins of the profile for times (UTC, seconds since 1970), see `season`; shares of the neighbours; kinds of days.

    Windows of an hour have a bin for each hour of the week, others one for each half hour of working days, and others.
    """
    day, second = np.divmod(at_seconds, 86_400)
    weekday = (day + 3) % 7
    if hourly:
        place = weekday * 24 + second // 3600
        others = [(place - 24 * back) % BINS for back in range(1, 7)]
        return np.stack([place, place, *others], axis=1), np.zeros(len(place)), 1.0
    first, inside = np.divmod(second / 1800 - 0.5, 1)
    before = inside < 0.5
    near, far = (np.where(choice, first, first + 1).astype(np.int64) % 48 for choice in (before, ~before))
    kind = np.where(weekday < 5, 0, 48)
    return np.stack([kind + near, kind + far, 48 - kind + near], axis=1), np.where(before, inside, 1 - inside), 2.0


def empty(series: int) -> State:
    """Rows of series of which nothing is known."""
    state = np.zeros((series, WIDTH), np.float32)
    state[:, PROFILE : PROFILE + BINS] = np.nan
    state[:, BIN] = -1
    state[:, AGE] = NEVER
    forget_recent(state, np.arange(series))
    return state


def forget_recent(state: State, rows: NDArray[np.int64]) -> None:
    """Empty what holds only the last windows of these series: they were long ago."""
    for first, length in ((VALUES, RING), (RESIDUALS, RING), (VARIANCES, RING), (SMOOTHED, 3)):
        state[rows, first : first + length] = np.nan
    state[rows, EPISODE] = state[rows, SHIFTED] = 0


def nothing_kept() -> tuple[
    NDArray[np.uint64], State, NDArray[np.uint64], NDArray[np.int64], NDArray[np.int64], int
]:  # fmt: skip
    """Return the last arguments of `step` where no state before an alert is to be kept."""
    keys, kept, times = np.zeros(0, np.uint64), np.zeros((0, PEAKS), np.float32), np.zeros((0, 2), np.int64)
    return keys, kept, keys, times, np.zeros(1, np.int64), 0


def warm_up() -> None:
    """Compile the kernel, or load it compiled.  Blocks: for some seconds if nothing is cached."""
    series, windows = empty(1), np.zeros(1)
    step(
        series, np.zeros(1, np.int64), windows, windows, windows, np.zeros(1, np.uint8), np.zeros((1, 3), np.int64),
        np.zeros(1), 2.0, np.zeros((CHANNELS, STEPS)), np.ones(CHANNELS, np.uint8), np.ones(5),
        np.zeros((CHANNELS, STEPS), np.int64), np.zeros((1, RESULTS)), *nothing_kept(),
    )  # fmt: skip
    step_profile(series, np.zeros(1, np.int64), windows, np.zeros(2, np.int64), 2.0)
