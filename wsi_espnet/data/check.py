"""What is wrong with a data set: all of it, not only the first; with counts and class shares."""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsi_espnet.classes import UNLABELLED, ClassTable
from wsi_espnet.data.adapter import Dataset, Finding, Sample, Severity
from wsi_espnet.data.files import error, warning
from wsi_espnet.errors import DataError

Progress = Callable[[int, int, str], None]
"""Told about (samples read, samples in all, name of the split)."""


@dataclass(frozen=True, slots=True)
class SplitReport:
    """What there is of one split.

    Parameters
    ----------
    name
        Of the split.
    listed, read
        Samples that are listed, and those of them that were read without an error.
    px
        Px of each class.
    ignored_px
        Px without a class.
    sizes
        How many samples have each (height, width).
    """

    name: str
    listed: int
    read: int
    px: tuple[int, ...]
    ignored_px: int
    sizes: Mapping[tuple[int, int], int]

    @property
    def shares(self) -> tuple[float, ...]:
        """Share of each class among the px that have one, 0..1; zeros where none has."""
        total = max(sum(self.px), 1)
        return tuple(px / total for px in self.px)


@dataclass(frozen=True, slots=True)
class Report:
    """What there is of a data set and what is wrong with it."""

    dataset: str
    classes: ClassTable
    mpp: float | None
    splits: tuple[SplitReport, ...]
    findings: tuple[Finding, ...]

    @property
    def errors(self) -> int:
        """Findings that must be mended."""
        return sum(finding.severity is Severity.ERROR for finding in self.findings)


@dataclass(frozen=True, slots=True)
class _Facts:
    """What is kept of a sample that was read; nothing of one that could not be."""

    split: str
    name: str
    findings: tuple[Finding, ...]
    picture: bytes = b""
    truth: bytes = b""
    counts: NDArray[np.int64] | None = None
    shape: tuple[int, int] = (0, 0)

    @property
    def where(self) -> str:
        return f"{self.split}/{self.name}"


def check(
    dataset: Dataset,
    *,
    splits: Sequence[str] | None = None,
    limit: int | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Report:
    """Read a data set and report all that is wrong with it.

    Parameters
    ----------
    dataset
        What is checked; nothing is written.
    splits
        Those to check; None for all.
    limit
        Most samples that are read per split, evenly spread over it; None reads all. Files that stand alone are found
        in any case.
    workers
        Threads that decode pictures; None for one per core.
    progress
        Told how far it is.

    Raises
    ------
    DataError
        There is no such split.
    """
    reports: list[SplitReport] = []
    findings: list[Finding] = []
    facts: list[_Facts] = []
    for split in splits or dataset.splits:
        listing = dataset.listing(split)
        findings += listing.findings
        if not listing.samples and not listing.findings:
            findings.append(error(split, "the split holds no samples"))
        chosen = spread(listing.samples, limit)
        read = _read_all(split, chosen, workers or os.cpu_count() or 1, progress)
        facts += read
        report = _sum_up(split, len(listing.samples), read, len(dataset.classes))
        reports.append(report)
        findings += [finding for sample in read for finding in sample.findings]
        findings += _absent_classes(report, dataset.classes, all_read=len(chosen) == len(listing.samples))
    findings += _duplicates(facts, dataset.unions)
    return Report(dataset.name, dataset.classes, dataset.mpp, tuple(reports), tuple(findings))


def spread(samples: Sequence[Sample], limit: int | None) -> list[Sample]:
    """At most `limit` samples, evenly spread over all of them; the first and the last are among them."""
    if limit is None or limit >= len(samples):
        return list(samples)
    return [samples[i] for i in np.linspace(0, len(samples) - 1, limit).round().astype(int)]


def _read_all(split: str, samples: Sequence[Sample], workers: int, progress: Progress | None) -> list[_Facts]:
    facts = []
    with ThreadPoolExecutor(workers) as pool:
        for done, sample in enumerate(pool.map(lambda sample: _facts(split, sample), samples), start=1):
            facts.append(sample)
            if progress is not None:
                progress(done, len(samples), split)
    return facts


def _facts(split: str, sample: Sample) -> _Facts:
    where = f"{split}/{sample.name}"
    try:
        rgb, labels = sample.read()
    except DataError as exc:
        return _Facts(split, sample.name, tuple(error(where, fault) for fault in exc.faults))
    findings = []
    if (labels == UNLABELLED).all():
        findings.append(warning(where, "no px of it has a class: all are ignored"))
    if (rgb == rgb[:1, :1]).all():
        findings.append(warning(where, f"the picture is one colour throughout, {tuple(rgb[0, 0].tolist())}"))
    return _Facts(
        split=split,
        name=sample.name,
        findings=tuple(findings),
        picture=_digest(rgb),
        truth=_digest(labels),
        counts=np.bincount(labels.ravel(), minlength=256),
        shape=(labels.shape[0], labels.shape[1]),
    )


def _digest(px: NDArray[np.uint8]) -> bytes:
    return hashlib.blake2b(px.tobytes(), digest_size=16, key=str(px.shape).encode()).digest()


def _sum_up(split: str, listed: int, facts: Iterable[_Facts], classes: int) -> SplitReport:
    counts = [(fact.counts, fact.shape) for fact in facts if fact.counts is not None]
    total = sum((count for count, _ in counts), np.zeros(256, np.int64))
    return SplitReport(
        name=split,
        listed=listed,
        read=len(counts),
        px=tuple(total[:classes].tolist()),
        ignored_px=int(total[UNLABELLED]),
        sizes=dict(Counter(shape for _, shape in counts).most_common()),
    )


def _absent_classes(report: SplitReport, classes: ClassTable, *, all_read: bool) -> list[Finding]:
    absent = [name for name, px in zip(classes.names, report.px, strict=True) if not px]
    if not absent or not report.read:
        return []
    among = "" if all_read else f" among the {report.read} samples that were read"
    return [warning(report.name, f"no px of {', '.join(absent)}{among}")]


def _duplicates(facts: Iterable[_Facts], unions: Mapping[str, tuple[str, ...]]) -> list[Finding]:
    """Pictures that occur twice: an error across splits, or with another ground truth."""
    same: dict[bytes, list[_Facts]] = defaultdict(list)
    for fact in facts:
        if fact.picture:
            same[fact.picture].append(fact)
    findings = []
    for first, *others in same.values():
        for other in others:
            if first.truth != other.truth:
                what = f"the same picture as {first.where}, with another ground truth"
            elif first.split == other.split:
                findings.append(warning(other.where, f"the same picture as {first.where}"))
                continue
            else:
                what = f"the same picture as {first.where}; no picture may be in two splits"
            if first.split == other.split or _apart(first.split, other.split, unions):
                findings.append(error(other.where, what))
    return findings


def _apart(a: str, b: str, unions: Mapping[str, tuple[str, ...]]) -> bool:
    """Whether two splits should have no sample in common."""
    return not {a, *unions.get(a, ())} & {b, *unions.get(b, ())}
