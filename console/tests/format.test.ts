import assert from "node:assert/strict";
import { digits, literal, lossState, text, ticks, written } from "../core/format.ts";
import { csv } from "../core/csv.ts";
import { parsed, sum } from "../core/metrics.ts";
import { part, unpart } from "../core/links.ts";
import { graph } from "../core/paths.ts";
import { ofTrip, spread, trips } from "../core/series.ts";
import { filled } from "../core/sql.ts";
import { instant, range } from "../core/state.ts";
import { verdict } from "../core/verdict.ts";
import { en } from "../text/en.ts";
import { zh } from "../text/zh.ts";

assert.equal(text({ value: 0.041, low: 0.032, high: 0.05, unit: "ratio" }), "4.1 % (3.2 … 5)");
assert.equal(text({ value: 41_230_000_000, low: 41_000_000_000, high: 41_500_000_000, unit: "bit/s" }), "41.2 Gbit/s (41 … 41.5)");
assert.equal(text({ value: 999_600, low: null, high: null, unit: "bit/s" }), "1000 kbit/s");
// One scale for all ends: the lower end of 1.2 Mbit/s is 0.9 Mbit/s, not 900.
assert.equal(text({ value: 1_200_000, low: 900_000, high: 1_500_000, unit: "bit/s" }), "1.2 Mbit/s (0.9 … 1.5)");
assert.equal(text({ value: 312, unit: "count", state: "atleast" }), "≥ 312");
assert.equal(text({ value: 5, low: 5, high: 5, unit: "count" }), "5");
// What was not measured is never 0.
assert.deepEqual(written({ value: null, low: 0, high: 1, unit: "ratio" }), { value: "–", interval: "" });
assert.equal(text({ value: 0, unit: "ratio" }), "0 %");
assert.equal(text({ value: 20_400, unit: "us" }), "20.4 ms");
assert.equal(digits(0.00042), "0.0004");
assert.equal(lossState("blind"), "blind");
assert.equal(lossState("blind", true), "within");
assert.equal(lossState("spread"), "measured");
// Names that spreadsheets would run, and what was not measured, in CSV.
assert.equal(csv(["a", "b"], [["=1+1", null], ['x,"y"', 0]]), "a,b\r\n'=1+1,\r\n\"x,\"\"y\"\"\",0\r\n");
// Also behind what a spreadsheet takes for the end of a cell, and in full width.
assert.equal(csv(["a"], [["x;=1+1"], [" @y"], ["\uff1d1"]]), "a\r\nx;'=1+1\r\n '@y\r\n'\uff1d1\r\n");
// Numbers that come as text stay numbers; what is inside stays readable.
assert.equal(csv(["a"], [["-5"], ["+1e3"], ["-1+1"], [{ b: [1] }], [["x", { c: 2 }]], [["-2"]]]), "a\r\n-5\r\n+1e3\r\n'-1+1\r\n\"{\"\"b\"\":[1]}\"\r\n\"x {\"\"c\"\":2}\"\r\n-2\r\n");
// The hash of a pair has more digits than a number holds.
assert.equal(filled("a = {pair:UInt64} AND b = {vm:String} {x:Y}", { pair: "18446744073709551615", vm: "o'1" }), "a = 18446744073709551615 AND b = 'o\\'1' {x:Y}");
// A VM may be named like a step of a path.
for (const name of [".", "..", "~", "~..", "a/b", "...", "100 %"]) {
  assert.equal(unpart(new URL(`http://h/vms/${part(name)}/x`).pathname.split("/")[2]!), name);
}
assert.deepEqual(trips(["round_trip", "", "one_way"]), ["one_way", "round_trip"]);
assert.deepEqual(ofTrip(["one_way", "round_trip"], "one_way", [1, 2]), [1, null]);
// Where an alert lies: the widest group that is like it; few or unmeasured pairs decide nothing.
const group = (beside: string, measured: number, lossy: number) => ({ beside, measured, lossy, timed: 0, slow: 0 });
assert.equal(verdict([group("pair", 1, 1), group("rest", 10, 1)], "loss"), "whyPair");
assert.equal(verdict([group("pair", 1, 1), group("to_host", 4, 3), group("rest", 10, 1)], "loss"), "whyToHost");
assert.equal(verdict([group("to_host", 4, 3), group("rest", 10, 5)], "loss"), "whyEverywhere");
assert.equal(verdict([group("pair", 1, 1), group("from_vm", 1, 1), group("rest", 0, 0)], "loss"), "whyUnknown");
assert.equal(verdict([group("to_host", 4, 3), group("rest", 10, 5)], "latency"), "whyUnknown");
// Paths: the rest of a layer is one, an empty name is another; intervals add up in quadrature.
const way = (n0: string, k0: number, n1: string, bits: number, low: number) => ({ n0, k0, n1, k1: 1, bits, bits_low: low, bits_high: bits, pairs: 1, lossy: 0, blind: 0 });
const { nodes, links, unmeasured } = graph([way("a", 1, "h", 10, 7), way("", 0, "h", 5, 5), way("", 1, "h", 2, 2), way("a", 1, "h", 10, 6), way("b", 1, "h", 0, 0)], 2);
assert.deepEqual(nodes.map((one) => [one.name, one.other, one.bits, one.below]), [["a", false, 20, 5], ["h", false, 27, 5], ["", true, 5, 0], ["", false, 2, 0]]);
assert.equal(unmeasured, 1);
assert.deepEqual(links.map((one) => [one.bits, one.below, one.pairs]), [[20, 5, 2], [5, 0, 1], [2, 0, 1]]);
// 10 s for minutes of one pair, never for lists of VMs; an hour for days.
const span = (from: string, more = "") => new URLSearchParams(`from=${from}${more}`);
assert.equal(range(span("-5m"), "/pairs/a/b", 1e9).level, "10s");
assert.equal(range(span("-5m"), "/pairs", 1e9).level, "1m");
assert.equal(range(span("-1h", "&level=10s"), "/", 1e9).level, "10s");
assert.equal(range(span("-1h", "&level=10s"), "/vms", 1e9).level, "1m");
assert.equal(range(span("-7d"), "/pairs/a/b", 1e9).level, "1h");
assert.equal(instant("-90m", 10_000), 4600);
assert.equal(sum(parsed("# HELP a_total x\na_total{b=\"}\"} 2\na_total{b=\"c d\"} 3.5\n"), "a_total"), 5.5);
assert.deepEqual(ticks(0.9), [0, 0.5, 1]);
assert.deepEqual(ticks(37), [0, 10, 20, 30, 40]);
assert.deepEqual(ticks(0), [0, 1]);
// A window that is missing is a gap in the line, not a line across it.
assert.deepEqual(spread([0, 10, 40], 10, [1, 2, 3]), { time: [0, 10, 20, 40], values: [1, 2, null, 3] });
// A VM may be named like a pattern: a silence for it holds nothing else back.
assert.equal(literal("*"), "\\*");
assert.equal(literal("we?b\\"), "we\\?b\\\\");
assert.deepEqual(Object.keys(zh).sort(), Object.keys(en).sort());
for (const key of Object.keys(en) as (keyof typeof en)[])
  assert.deepEqual((zh[key].match(/\{\w+\}/g) ?? []).sort(), (en[key].match(/\{\w+\}/g) ?? []).sort(), key);
