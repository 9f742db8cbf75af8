"""collector.monitor.metrics: the golden file pins every name, type, label and help."""

import os
import re
import time
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from collector.monitor.logs import LogCounts
from collector.monitor.metrics import EVENT_LOOP_LAG, HISTOGRAMS, METRICS, PREFIX, Metrics, markdown
from collector.monitor.state import HistogramSnapshot, SinkSnapshot, Snapshot, StreamSnapshot

GOLDEN = Path(__file__).parent / "golden" / "metrics.txt"
DOCS = Path(__file__).parents[2] / "docs" / "metrics.md"

FULL = Snapshot(
    streams=(
        StreamSnapshot(
            "ftrace-collector", 0, kernel_overrun=7, kernel_dropped=1, kernel_commit_overrun=2, kernel_read=1000,
            kernel_entries=12, kernel_bytes=480, kernel_size_bytes=8388608, oldest_age_s=0.25, reader_bytes=65536,
            reader_pages=1, decoded_events=990, gap_known_events=5, gaps=2, unknown_gaps=1,
            decode_errors={"length": 1, "commit": 0}, skipped={"malformed": 10},
            unexplained=4,
            residual={"read": 0, "overrun": None},
        ),
        StreamSnapshot("ftrace-collector", 1, decode_errors={"length": 2, "commit": 0}, skipped={"malformed": 1}),
    ),
    queue_events=3, queue_bytes=4096, queue_limit_bytes=67108864, queue_blocked_s=1.5, archive_bytes=123456,
    archive_segments=2, archive_oldest_ts_s=1700000000.5, archive_raw_bytes=654321, ready=True,
    archive_removed_segments=3, archive_written_events=77, archive_durable_events=66, archive_pinned_bytes=1024,
    archive_waiting_bytes=512, archive_free_bytes=9999999, discarded={"suspended": 9}, interference={"tracing_on": 1},
    seconds_to_overrun={"ftrace-collector": 12.5}, stats_resets=1,
    sinks=(
        SinkSnapshot(
            "aggregator", offered_events=990, replayed_events=20, filtered_events=100, queued_events=5, held_bytes=512,
            discarded_events={"spool_full": 10, "rejected": 0}, discarded_bytes={"spool_full": 1000, "rejected": 0},
            acked_events=800, acked_bytes=80000, spooled_events=95, held_limit_bytes=16777216, resent_events=30,
            requests=12, retries=2, request_failures={"error": 1, "timeout": 1}, in_flight=1, connected=True,
            last_ack_s=1700000001.5, certificate_not_after_s=1800000000.0, stalled_s=2.5, durable=True,
            request_duration=HistogramSnapshot((0.1, 1.0), (3, 2, 1), 7.5),
            delivery_latency=HistogramSnapshot((0.1, 1.0), (0, 4, 2), 9.0), spool_bytes=4096,
            spool_limit_bytes=1073741824, spool_segments=2, spool_quarantined_segments=1, spool_corrupt_records=3,
            spool_corrupt_bytes=300, spool_suspended=True, spool_fsync_duration=HistogramSnapshot((0.1,), (5, 0), 0.25),
        ),
        SinkSnapshot("memory only", offered_events=990, acked_events=980, queued_events=10, queued_bytes=77,
                     slow_subscribers=4),
    ),
)  # fmt: skip


def rendered(snapshot: Snapshot) -> str:
    metrics = Metrics("6.18.0", lambda: LogCounts({"info": 4}, {"rate_limit": 2}))
    metrics.update(snapshot)
    metrics.observe_event_loop_lag(0.002)
    metrics.observe_event_loop_lag(0.05)
    metrics.observe_event_loop_lag(9)
    return metrics.render().decode()


def test_names_types_labels_and_help_are_the_golden_file() -> None:
    text = rendered(FULL)
    text = re.sub(r'(version|python)="[^"]*"', r'\1="*"', text)
    text = re.sub(r"(?m)^((?:process|python)_\S+) \S+$", r"\1 *", text)
    if os.environ.get("UPDATE_GOLDEN") == "1":
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text(), "UPDATE_GOLDEN=1 writes it anew: then look at the difference"


def test_a_parser_reads_every_family_back() -> None:
    families = {f.name: f for f in text_string_to_metric_families(rendered(FULL))}
    for spec in METRICS:
        family = families[PREFIX + spec.name.removesuffix("_total")]
        assert family.type == spec.kind, spec.name
        assert family.documentation == spec.help
        assert family.samples
        assert all(set(s.labels) == set(spec.labels) for s in family.samples), spec.name
    for histogram in HISTOGRAMS:
        family = families[PREFIX + histogram.name]
        assert (family.type, family.documentation) == ("histogram", histogram.help)
        assert {s.labels["sink"] for s in family.samples} == {"aggregator"}
    buckets = [s for s in families[PREFIX + EVENT_LOOP_LAG.name].samples if s.name.endswith("_bucket")]
    assert [s.value for s in buckets] == [0, 1, 1, 2, 2, 2, 2, 2, 3]


def test_unknown_values_are_absent_not_zero() -> None:
    text = rendered(Snapshot(streams=(StreamSnapshot("i", 0),)))
    assert 'decoded_events_total{cpu="0",trace_instance="i"} 0.0' in text
    for name in ("kernel_overrun_events_total", "lost_events_total", "ledger_residual_events"):
        assert not re.search(rf"(?m)^{PREFIX}{name}\{{", text), name
    assert not re.search(rf"(?m)^{PREFIX}archive_oldest_timestamp_seconds ", text)


def test_nothing_is_rendered_twice_or_dated() -> None:
    lines = [line for line in rendered(FULL).splitlines() if not line.startswith("#")]
    series = [line.rsplit(" ", 1)[0] for line in lines]
    assert len(series) == len(set(series))
    assert not [line for line in lines if "_created" in line]
    assert not [line for line in lines if re.search(r"[{,]instance=", line)]


def test_specs_follow_the_conventions() -> None:
    for spec in METRICS:
        assert spec.name.endswith("_total") == (spec.kind == "counter"), spec.name
        assert "instance" not in spec.labels
        assert spec.help.endswith(".")
    assert len({spec.name for spec in METRICS}) == len(METRICS)


def test_the_documentation_has_the_table_of_the_code() -> None:
    assert markdown() in DOCS.read_text(), "docs/metrics.md: put `python -m collector.monitor.metrics` there"


@pytest.mark.timeout(60)
def test_many_streams_render_in_reasonable_time() -> None:
    snapshot = Snapshot(streams=tuple(StreamSnapshot(f"i{n // 2}", n % 2, 0, 0, 0, 0) for n in range(128)))
    start_s = time.process_time()
    text = rendered(snapshot)
    assert text.count("\n") > 128 * 10
    assert time.process_time() - start_s < 1.0
