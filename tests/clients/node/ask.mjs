// Asks an endpoint by @clickhouse/client: `ask.mjs URL DATABASE`, first plain, then compressed both ways.  Prints a line
// for each thing asked, name and answer with a tab between.
import { ClickHouseLogLevel, createClient } from '@clickhouse/client'

const [url, database] = process.argv.slice(2)

async function ask(client, prefix) {
  const say = (name, value) => console.log(`${prefix}${name}\t${value}`)
  const rows = async (query, more = {}) => (await client.query({ query, format: 'JSONCompactEachRow', ...more })).json()
  const failure = (work) => work().then(() => 'passed', (error) => `${error.code} ${error.message}`)
  say('valid', (await client.ping({ select: true })).success)
  say('types', JSON.stringify(await rows(
    "SELECT toString(toUInt64(18446744073709551615)), 'it''s', toDateTime64('2026-01-02 03:04:05.678', 3, 'UTC'), NULL, toIPv6('2001:db8::1'), [1, 2]")))
  say('parameters', JSON.stringify(await rows('SELECT {n:UInt8} + 1, {t:String}', { query_params: { n: 41, t: "it's" } })))
  say('settings', JSON.stringify(await rows('SELECT 1', { clickhouse_settings: {
    date_time_input_format: 'best_effort', log_comment: 'tests', select_sequential_consistency: '1', use_query_cache: 1, wait_end_of_query: 1,
  } })))
  let count = 0
  let letters = 0
  const large = await client.query({ query: "SELECT repeat('x', number % 300) FROM numbers(100000)", format: 'JSONCompactEachRow' })
  for await (const some of large.stream()) for (const row of some) { count += 1; letters += row.json()[0].length }
  say('large', `${count} ${letters}`)
  say('error', await failure(() => rows('SELECT nope FROM flows')))
  say('insert', await failure(() => client.insert({ table: 'flows', values: [{ vni: 7 }], format: 'JSONEachRow' })))
  say('exec', await failure(() => client.command({ query: 'DROP TABLE flows' })))
  await client.close()
}

const options = { url, database, log: { level: ClickHouseLogLevel.OFF } }
await ask(createClient(options), '')
await ask(createClient({ ...options, compression: { request: true, response: true } }), 'compressed ')
