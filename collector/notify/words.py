"""The words of messages, in English and Chinese."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from collector.notify.settings import Language


@dataclass(frozen=True, slots=True)
class Words:
    """All texts of a message except names and figures."""

    events: Mapping[str, str]
    severities: Mapping[str, str]
    measures: Mapping[str, str]
    """Columns that have a special name; others are written by their column names."""
    labels: Mapping[str, str]
    """Also the order of the labels."""
    conditions: Mapping[str, str]
    """What the figure was compared with, by condition."""
    unusual: Mapping[str, str]
    """Parts of the sentence of condition `anomaly`, as patterns; what is not in it stays as it is."""
    samples: str
    comma: str
    pause: str
    colon: str
    silent: str
    silent_for: str
    insufficient: str
    since: str
    line_since: str
    ended: str
    ended_by: str
    forgotten: str
    lasted: str
    window: str
    late: str
    durations: tuple[str, str, str, str]
    rule: str
    severity: str
    evidence: str
    runbook: str
    sql: str
    alert: str
    alerts: str
    more: str
    short_more: str
    short_since: str
    service: str


ENGLISH = Words(
    events={"firing": "FIRING", "resolved": "RESOLVED", "escalated": "ESCALATED", "acknowledged": "ACKNOWLEDGED"},
    severities={"critical": "critical", "warning": "warning", "info": "info"},
    measures={
        "loss_ratio": "loss",
        "error_ratio": "errors",
        "latency_us": "latency",
        "jitter_us": "jitter",
        "bits_per_second": "bandwidth",
        "sent_bits_per_second": "bandwidth sent",
        "received_bits_per_second": "bandwidth received",
        "in_bits_per_second": "bandwidth in",
        "out_bits_per_second": "bandwidth out",
        "packets_per_second": "packet rate",
        "new_connections_per_second": "new connections",
        "export_loss_ratio": "export loss",
        "sampling_loss_ratio": "sampling loss",
        "datapath_lost": "lost by the datapath",
        "clock_skew_us": "clock skew",
    },
    labels={
        "src_vm": "Source VM",
        "dst_vm": "Destination VM",
        "vm": "VM",
        "src_host": "Source host",
        "dst_host": "Destination host",
        "host": "Host",
        "interface": "Interface",
        "exporter": "Exporter",
        "network": "Network",
        "agent": "sFlow agent",
        "domain": "Domain",
        "protocol": "Protocol",
    },
    conditions={
        "threshold": "Threshold: {}",
        "trend": "Heads for the limit of {}",
        "baseline": "Usual at this hour: {}",
        "anomaly": "Edge of the usual: {}",
        "absent": "Threshold: {}",
    },
    unusual={},
    samples="{} samples",
    comma=", ",
    pause="; ",
    colon=": ",
    silent="silent, nothing received",
    silent_for="nothing received for {}",
    insufficient="no figure",
    since="Since: {} ({})",
    line_since="since {} ({})",
    ended="from {} to {} ({})",
    ended_by="ended by {}",
    forgotten="cannot be measured any more",
    lasted="for {}",
    window="Window: {} from {}",
    late="Late: {} after the window, whose rows had waited",
    durations=("d", "h", "min", "s"),
    rule="Rule: {}",
    severity="Severity: {}",
    evidence="Evidence: {}",
    runbook="Runbook: {}",
    sql="To look closer:",
    alert="Alert: {}",
    alerts="{} alerts",
    more="... and {} more",
    short_more=" +{} more",
    short_since=" since {}",
    service="vmflow itself",
)

CHINESE = Words(
    events={"firing": "告警", "resolved": "已恢复", "escalated": "已升级", "acknowledged": "已确认"},
    severities={"critical": "严重", "warning": "警告", "info": "提示"},
    measures={
        "loss_ratio": "丢包率",
        "error_ratio": "错误率",
        "utilisation": "利用率",
        "latency_us": "时延",
        "jitter_us": "抖动",
        "bits_per_second": "带宽",
        "sent_bits_per_second": "发送带宽",
        "received_bits_per_second": "接收带宽",
        "in_bits_per_second": "入方向带宽",
        "out_bits_per_second": "出方向带宽",
        "packets_per_second": "包速率",
        "new_connections_per_second": "新建连接速率",
        "export_loss_ratio": "导出丢失率",
        "sampling_loss_ratio": "采样丢失率",
        "datapath_lost": "数据通路丢弃",
        "drops": "丢弃包数",
        "kernel_drops": "内核丢弃数",
        "clock_skew_us": "时钟偏差",
    },
    labels={
        "src_vm": "源虚拟机",
        "dst_vm": "目的虚拟机",
        "vm": "虚拟机",
        "src_host": "源宿主机",
        "dst_host": "目的宿主机",
        "host": "宿主机",
        "interface": "接口",
        "exporter": "导出器",
        "network": "网络",
        "agent": "sFlow 代理",
        "domain": "观测域",
        "protocol": "协议",
    },
    conditions={
        "threshold": "阈值：{}",
        "trend": "正趋向上限 {}",
        "baseline": "该时段常值：{}",
        "anomaly": "常值边界：{}",
        "absent": "阈值：{}",
    },
    unusual={
        r"sudden rise": "突然升高",
        r"sudden fall": "突然下降",
        r"rougher than usual": "波动大于平常",
        r"flatter than usual": "波动小于平常",
        r"higher than usual": "高于常值",
        r"lower than usual": "低于常值",
        r"higher than usual at this hour": "高于该时段常值",
        r"lower than usual at this hour": "低于该时段常值",
        r"higher than usual over (.+)": r"\1 内均值高于常值",
        r"lower than usual over (.+)": r"\1 内均值低于常值",
        r"higher than usual at this hour over (.+)": r"\1 内均值高于该时段常值",
        r"lower than usual at this hour over (.+)": r"\1 内均值低于该时段常值",
        r"this level stays: it is the usual one from now on": "此水平持续不变，今后视为常值",
        r"usual (.+) to (.+)": r"常值范围 \1 至 \2",
        r"about once in (.+) days among 1,000 series": r"每 1000 个序列约 \1 天一次",
        r"about (.+) times a day among 1,000 series": r"每 1000 个序列每天约 \1 次",
        r"since (.+)": r"始于 \1",
        r"masked: moved to another hypervisor": "暂不告警：已迁移到其他宿主机",
        r"masked: its exporter or vmflow began again": "暂不告警：其导出器或 vmflow 已重启",
        r"masked: its sampling rate changed": "暂不告警：其采样率已改变",
        r"masked: it was away for long": "暂不告警：曾长时间无数据",
        r"masked too often in the last day: no more": "最近一天暂不告警过于频繁，不再暂停",
    },
    samples="样本 {} 个",
    comma="，",
    pause="；",
    colon="：",
    silent="静默，未收到数据",
    silent_for="已有 {} 未收到数据",
    insufficient="无数值",
    since="开始时间：{}（{}）",
    line_since="始于 {}（{}）",
    ended="自 {} 至 {}（{}）",
    ended_by="由 {} 结束",
    forgotten="已无法测量",
    lasted="持续 {}",
    window="窗口：{}，起于 {}",
    late="迟报：窗口结束 {} 之后，其数据此前在等待写入",
    durations=("天", "小时", "分", "秒"),
    rule="规则：{}",
    severity="级别：{}",
    evidence="依据：{}",
    runbook="处理手册：{}",
    sql="进一步查询：",
    alert="告警编号：{}",
    alerts="{} 条告警",
    more="……另有 {} 条",
    short_more=" 另有 {} 条",
    short_since=" 始于 {}",
    service="vmflow 自身",
)

WORDS: Mapping[Language, Words] = {"en": ENGLISH, "zh": CHINESE}
