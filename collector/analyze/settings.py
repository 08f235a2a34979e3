"""Settings of windows and of what is computed per window."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, Field, model_validator


class AnalyzeSettings(BaseModel, frozen=True, extra="forbid"):
    """When windows close, and how latency is computed."""

    lateness_seconds: float = Field(default=5, ge=0, le=600)
    """A window closes this long after its end, by the newest time of receipt: rows wait up to 1 s for their insert
    (`store.batch_age_seconds`), and decoding and inserting a second of full load take about as long again."""
    idle_seconds: float = Field(default=5, gt=0, le=600)
    """With nothing received for this long, the clock moves windows on instead: silence must be noticed, too."""
    check_seconds: float = Field(default=0.5, gt=0, le=60)
    """How often to look whether a window is over: a twentieth of the shortest one."""
    clock_step_seconds: float = Field(default=60, gt=0)
    """A system clock that goes back by more than this was set: windows start again.  A smaller step is waited out."""
    catch_up_windows: int = Field(default=360, ge=1, le=100_000)
    """Windows of one length that close at once after a pause of the process: an hour of the shortest ones.  Older ones
    are passed over, and counted."""
    subscriber_seconds: float = Field(default=5, gt=0)
    """A subscriber that takes longer for one window is interrupted, and counted: half of the shortest window."""

    latency_enabled: bool = True
    """Compute latency from unsampled Open vSwitch IPFIX, once per 10 s."""
    latency_seconds: float = Field(default=8, gt=0)
    """Longest time of that query: less than a window, so that it cannot fall behind."""
    latency_bytes: int = Field(default=256 * 2**20, ge=2**20)
    """Memory of that query: a quarter of what the embedded store may have."""
    latency_flows: int = Field(default=50_000, ge=1)
    """Flows read per window and switch; of more, a random choice of about this many.  Each takes 2 to 3 kB of memory
    for a moment, and all of them 2 s of a core."""
    latency_records: int = Field(default=10_000_000, ge=1)
    """IPFIX records received in `flow_quiet_seconds` + `record_delay_seconds` from which latency is computed: 100,000 a
    second take half of a core.  With more there are no readings, and that is counted."""
    flow_quiet_seconds: float = Field(default=60, ge=1, le=3600)
    """A flow without records for this long counts as new.  Must be longer than the exporter's `cache_active_timeout`
    (10 s recommended), or the parts of one flow would look like new ones."""
    record_delay_seconds: float = Field(default=30, ge=1, le=3600)
    """Longest time between the receipt of the first records of the two directions of a flow, or of two switches:
    somewhat more than `cache_active_timeout`."""
    max_latency_us: int = Field(default=900_000, ge=1)
    """A longer time is not a latency but a lost first packet: TCP repeats it after 1 s at the earliest (RFC 6298)."""
    clock_drift_ppm: float = Field(default=50, ge=0, le=100_000)
    """How fast the clocks of two hosts may drift apart: at worst, as uncorrected quartz."""
    clock_lookback_seconds: float = Field(default=600, ge=10, le=86_400)
    """How long a bound of two clocks' offset is useful: after that, 50 ppm have widened it by 30 ms."""

    doctor_enabled: bool = True
    """Check exporters, and write what is wrong to the column `findings` of table `exporters`."""
    doctor_seconds: float = Field(default=60, ge=1, le=86_400)
    """How often.  A check looks back this far, and at least a minute."""

    traffic_metrics: bool = False
    """Report the traffic itself in `/metrics`: hypervisors, and the busiest VM pairs.  Off by default: anyone who may
    scrape could read names of VMs, and each pair that comes and goes is one more series in Prometheus."""
    traffic_level: Literal["10s", "1m"] = "1m"
    """Length of the windows: at least the usual pause between two scrapes, so that none is left out twice."""
    traffic_pairs: int = Field(default=50, ge=0, le=1000)
    """Pairs with most bits per second that are reported, with up to 9 series each; 0: none."""
    traffic_hosts: int = Field(default=200, ge=0, le=2000)
    """Hypervisors that are reported, those with most bits per second first, with 6 series each; 0: none."""
    traffic_seconds: float = Field(default=10, gt=0, le=600)
    """Longest time of a query for these figures."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.check_seconds > self.idle_seconds:
            raise ValueError("check_seconds must not be longer than idle_seconds")
        return self
