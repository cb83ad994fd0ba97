"""The list of all metrics: the code records by it, and dashboard, alert rules and documents are made from it.

`docker/monitoring/generate.py` writes those files; a test compares them with this list.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, NamedTuple


class Kind(StrEnum):
    """The kinds of Prometheus."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Metric(NamedTuple):
    """One metric."""

    name: str
    kind: Kind
    row: str
    """The part of the dashboard that shows it."""
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    """Upper bounds in seconds, of a histogram."""
    mode: str = ""
    """How a gauge of several processes is summed up, by prometheus-client's names."""
    unit: str = "short"
    """As Grafana names it."""


_FAST: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
_SLOW: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0)
_LONG: Final = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)

REQUESTS: Final = "ankisyncd_requests_total"
REQUEST_SECONDS: Final = "ankisyncd_request_seconds"
RECEIVED: Final = "ankisyncd_received_bytes_total"
SENT: Final = "ankisyncd_sent_bytes_total"
SYNCS_BEGUN: Final = "ankisyncd_syncs_begun_total"
SYNCS: Final = "ankisyncd_syncs_total"
SYNC_SECONDS: Final = "ankisyncd_sync_seconds"
RUNNING: Final = "ankisyncd_running_syncs"
LOGINS: Final = "ankisyncd_logins_total"
CHECKOUTS: Final = "ankisyncd_checkouts_total"
EVICTIONS: Final = "ankisyncd_cache_evictions_total"
CACHE_BYTES: Final = "ankisyncd_cache_bytes"
STORE_SECONDS: Final = "ankisyncd_store_seconds"
STORE_ERRORS: Final = "ankisyncd_store_errors_total"
AWS_RETRIES: Final = "ankisyncd_aws_retries_total"
AWS_THROTTLES: Final = "ankisyncd_aws_throttles_total"
AWS_ERRORS: Final = "ankisyncd_aws_errors_total"
WAITING: Final = "ankisyncd_compactions_waiting"
MAINTAINED: Final = "ankisyncd_maintenance_timestamp_seconds"
VERIFIED: Final = "ankisyncd_verified_restore_timestamp_seconds"
READY: Final = "ankisyncd_ready"
STARTS: Final = "ankisyncd_worker_starts_total"
WORKERS: Final = "ankisyncd_workers"
BUILD: Final = "ankisyncd_build_info"

METRICS: Final = (
    Metric(
        SYNCS_BEGUN, Kind.COUNTER, "Syncs",
        "Syncs that clients began: of the collection (`meta`), of media (`begin`).", ("kind",),
    ),
    Metric(
        SYNCS, Kind.COUNTER, "Syncs",
        "Syncs that came to an end, by kind (collection, upload, download, media), outcome (done, conflict, "
        "sanity, refused, failed, aborted) and the class of the error. One that found nothing to do only "
        "begins.", ("kind", "outcome", "reason"),
    ),
    Metric(
        SYNC_SECONDS, Kind.HISTOGRAM, "Syncs",
        "From the start of a collection's sync to its end, if one worker served both.", (), _LONG, unit="s",
    ),
    Metric(
        RUNNING, Kind.GAUGE, "Syncs",
        "Syncs of collections between start and end. One that ends at another worker, or without a word, "
        "counts for half a minute more.", mode="livesum",
    ),
    Metric(
        LOGINS, Kind.COUNTER, "Syncs",
        "Logins by outcome: ok, wrong, limited, away (the identity provider does not answer), failed.",
        ("outcome",),
    ),
    Metric(REQUESTS, Kind.COUNTER, "Requests", "Requests by method and status.", ("method", "status")),
    Metric(
        REQUEST_SECONDS, Kind.HISTOGRAM, "Requests",
        "From the head of a request to the last byte of its answer: slow clients are in it.",
        ("method",), _SLOW, unit="s",
    ),
    Metric(RECEIVED, Kind.COUNTER, "Requests", "Bytes of request bodies.", unit="bytes"),
    Metric(SENT, Kind.COUNTER, "Requests", "Bytes of answers' bodies.", unit="bytes"),
    Metric(
        STORE_SECONDS, Kind.HISTOGRAM, "Stores",
        "Calls of head store and object store by operation, with the retries in them; of listings and "
        "streams, up to the first piece.", ("store", "operation"), _FAST, unit="s",
    ),
    Metric(
        STORE_ERRORS, Kind.COUNTER, "Stores",
        "Calls that ended with an error: HeadMoved and SessionLost are conflicts of clients, the others are "
        "faults.", ("store", "operation", "error"),
    ),
    Metric(
        AWS_RETRIES, Kind.COUNTER, "Stores",
        "Calls of AWS that were sent again.", ("service", "operation"),
    ),
    Metric(
        AWS_THROTTLES, Kind.COUNTER, "Stores",
        "Attempts that AWS throttled.", ("service", "operation"),
    ),
    Metric(
        AWS_ERRORS, Kind.COUNTER, "Stores",
        "Attempts that failed by a fault of AWS, of the network or of rights.",
        ("service", "operation", "error"),
    ),
    Metric(
        CHECKOUTS, Kind.COUNTER, "Cache",
        "Working copies by where they came from: copy (warm), base (cold, from this disk), store (cold, "
        "fetched: a miss of the cache).", ("source",),
    ),
    Metric(
        EVICTIONS, Kind.COUNTER, "Cache", "Files that were evicted for room: bases, copies.", ("cache",)
    ),
    Metric(
        CACHE_BYTES, Kind.GAUGE, "Cache", "Disk that the cached databases take.", ("cache",),
        mode="livemostrecent", unit="bytes",
    ),
    Metric(
        WAITING, Kind.GAUGE, "Maintenance", "Databases that wait for their compaction.", mode="livesum"
    ),
    Metric(
        MAINTAINED, Kind.GAUGE, "Maintenance",
        "When the last finished maintenance began; missing before the first one.", mode="livemax",
        unit="dateTimeAsIso",
    ),
    Metric(
        VERIFIED, Kind.GAUGE, "Maintenance",
        "When a restore was last verified; missing before the first one.", mode="livemax",
        unit="dateTimeAsIso",
    ),
    Metric(
        READY, Kind.GAUGE, "Process", "1 while a service that the server needs answers, by service.",
        ("service",), mode="livemin",
    ),
    Metric(WORKERS, Kind.GAUGE, "Process", "Worker processes that run.", mode="livesum"),
    Metric(STARTS, Kind.COUNTER, "Process", "Worker processes that were started."),
    Metric(BUILD, Kind.GAUGE, "Process", "1, with the version that runs.", ("version",), mode="livemax"),
)  # fmt: skip

BY_NAME: Final = {metric.name: metric for metric in METRICS}


class Alert(NamedTuple):
    """One alert rule of Prometheus."""

    name: str
    expression: str
    for_: str
    severity: str
    summary: str
    action: str
    """What to look at first."""


_FAULTS: Final = 'error=~"Unavailable|NotDurable|Corrupt|DeletionUnsafe|StorageError"'

ALERTS: Final = (
    Alert(
        "AnkisyncdDown", f"absent({WORKERS}) or sum({WORKERS}) < 1", "3m", "critical",
        "No worker answers", "Is the process there? Its log says why it ended.",
    ),
    Alert(
        "AnkisyncdWorkersDie", f"increase({STARTS}[30m]) > 2 * {WORKERS}", "0m", "critical",
        "Workers end and are started again", "The log names the signal; 9 is often the lack of memory.",
    ),
    Alert(
        "AnkisyncdNotReady", f"min by (instance, service) ({READY}) < 1", "5m", "critical",
        "{{ $labels.service }} does not answer", "GET /ready on the port of the metrics tells the reason.",
    ),
    Alert(
        "AnkisyncdErrors", f'sum(increase({REQUESTS}{{status="500"}}[5m])) > 0', "0m", "critical",
        "The server answered 500", "The log has the traceback, with the request's id.",
    ),
    Alert(
        "AnkisyncdFailingSyncs",
        f'sum(increase({REQUESTS}{{status=~"500|503"}}[15m])) > '
        f"clamp_min(0.2 * (sum(increase({SYNCS_BEGUN}[15m])) or vector(0)), 3)", "0m", "critical",
        "One sync in five fails", "The row Stores of the dashboard, and /ready.",
    ),
    Alert(
        "AnkisyncdStalled",
        f'sum(increase({REQUESTS}{{method="start",status="200"}}[30m])) >= 3 and '
        f'(sum(increase({SYNCS}{{kind="collection",outcome="done"}}[30m])) or vector(0)) < 1',
        "0m",
        "critical",
        "Syncs start and none comes to its end", "The reasons in the log's lines of sanityCheck2 and finish.",
    ),
    Alert(
        "AnkisyncdCorrupt", f'sum(increase({STORE_ERRORS}{{error="Corrupt"}}[5m])) > 0', "0m", "critical",
        "Stored bytes differ from what was written", "ankisyncctl doctor names the databases.",
    ),
    Alert(
        "AnkisyncdStoreFaults", f"sum by (store) (increase({STORE_ERRORS}{{{_FAULTS}}}[15m])) > 2", "0m",
        "warning", "{{ $labels.store }} fail", "Bucket, table or disk: the reasons are in the log.",
    ),
    Alert(
        "AnkisyncdThrottled", f"sum by (service) (increase({AWS_THROTTLES}[5m])) > 10", "0m", "warning",
        "AWS throttles {{ $labels.service }}", "Which operations, and whether more users came.",
    ),
    Alert(
        "AnkisyncdSanityFailures", f'sum(increase({SYNCS}{{outcome="sanity"}}[1d])) > 2', "0m", "warning",
        "Sanity checks fail: devices have to sync one way", "The log has both sides' counts.",
    ),
    Alert(
        "AnkisyncdSlow",
        f'histogram_quantile(0.95, sum by (le) (rate({REQUEST_SECONDS}_bucket{{method="meta"}}[15m]))) > 2',
        "5m", "warning", "The first request of one sync in twenty takes over 2 s",
        "CPU, disk and the latency of the stores.",
    ),
    Alert(
        "AnkisyncdLoginsAway", f'sum(increase({LOGINS}{{outcome="away"}}[10m])) > 2', "0m", "warning",
        "The identity provider does not answer", "Devices that are logged in go on for an hour.",
    ),
    Alert(
        "AnkisyncdMaintenanceMissed", f"time() - max({MAINTAINED}) > 30 * 3600", "10m", "warning",
        "No maintenance came to its end for 30 hours", "The log of maintenance, or of the scheduled task.",
    ),
    Alert(
        "AnkisyncdRestoreUnverified", f"time() - max({VERIFIED}) > 3 * 86400", "10m", "warning",
        "No restore was verified for three days", "The log of the check.",
    ),
)  # fmt: skip

RECORDED: Final = {
    "ankisyncd:syncs_nothing_to_do:rate5m": (
        f'clamp_min(sum(rate({SYNCS_BEGUN}{{kind="collection"}}[5m])) - '
        f'sum(rate({SYNCS}{{kind!="media"}}[5m])), 0)'
    ),
    "ankisyncd:cache_hits:ratio5m": (
        f'1 - sum(rate({CHECKOUTS}{{source="store"}}[5m])) / sum(rate({CHECKOUTS}[5m]))'
    ),
}
"""Recording rules: what is told by two metrics together."""

CLOUDWATCH: Final = {
    "syncs-begun": f'{REQUESTS}{{method="meta",status="200"}}',
    "syncs-started": f'{REQUESTS}{{method="start",status="200"}}',
    "syncs-finished": f'{REQUESTS}{{method="finish",status="200"}}',
    "sync-conflicts": f'{REQUESTS}{{status="409"}}',
    "logins-refused": f'{REQUESTS}{{method="hostKey",status="403"}}',
    "failed-requests": f'{REQUESTS}{{status=~"5.."}}',
    "backend-away": f'{REQUESTS}{{status="503"}}',
    "server-errors": f'{REQUESTS}{{status="500"}}',
    "corrupt-storage": f'{STORE_ERRORS}{{error="Corrupt"}}',
    "maintenance-done": MAINTAINED,
    "meta-ms": f'{REQUEST_SECONDS}{{method="meta"}}',
}
"""The metrics that terraform/observability.tf counts from the log's lines, and what says the same here."""
