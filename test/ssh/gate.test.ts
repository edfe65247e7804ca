import { expect, test } from 'vitest'
import { Gate, GATE_LIMITS } from '../../src/ssh/gate.ts'

const MINUTE = 60_000
/** Times are handed in: these tests do not wait. */
const START = 1_000_000_000

const admitted = (gate: Gate, count: number, address = 'A') =>
  Array.from({ length: count }, () => gate.admit(address, START)).filter(Boolean).length

test('below ten all are admitted, from sixty on none, between them by the dice', () => {
  expect(admitted(new Gate(GATE_LIMITS, () => 0), 100)).toBe(10)
  expect(admitted(new Gate(GATE_LIMITS, () => 0.9999), 100)).toBe(60)
  const gate = new Gate(GATE_LIMITS, () => 0.3)
  // At ten waiting the chance to be dropped is 30 %: a die of 0.3 is just above it, and below it at eleven.
  expect(admitted(gate, 100)).toBe(11)
})

test('each address has its own count, and whoever logs in or leaves makes room', () => {
  const gate = new Gate(GATE_LIMITS, () => 0)
  expect(admitted(gate, 20, '10.0.0.1')).toBe(10)
  expect(admitted(gate, 20, '10.0.0.2')).toBe(10)
  gate.settle('10.0.0.1')
  expect(admitted(gate, 20, '10.0.0.1')).toBe(1)
})

test('over all addresses there is a larger figure', () => {
  const gate = new Gate(GATE_LIMITS, () => 0)
  let total = 0
  for (let index = 0; index < 1000; index++) total += admitted(gate, 1, `10.0.${index >> 8}.${index & 255}`)
  expect(total).toBe(200)
})

test('an IPv6 network counts as one visitor, an IPv4 address by itself', () => {
  const gate = new Gate(GATE_LIMITS, () => 0)
  let total = 0
  for (let index = 1; index <= 20; index++) total += admitted(gate, 1, `2001:db8::${index.toString(16)}`)
  expect(total).toBe(10)
  expect(admitted(gate, 20, '2001:db8:0:1::1')).toBe(10)
  expect(admitted(gate, 1, '2001:db8:0:0:ffff::1')).toBe(0)
})

function fail(gate: Gate, times: number, everyMs = 0, address = 'A', startMs = START): void {
  for (let index = 0; index < times; index++) gate.failed(address, startMs + index * everyMs)
}

test('ten failures ban for ten minutes, nine do not', () => {
  const gate = new Gate(GATE_LIMITS)
  fail(gate, 9)
  expect(gate.bannedUntilMs('A', START)).toBeUndefined()
  fail(gate, 1)
  expect(gate.bannedUntilMs('A', START)).toBe(START + 10 * MINUTE)
  expect(gate.bannedUntilMs('A', START + 10 * MINUTE - 1)).toBe(START + 10 * MINUTE)
  expect(gate.bannedUntilMs('A', START + 10 * MINUTE)).toBeUndefined()
  expect(gate.bannedUntilMs('B', START)).toBeUndefined()
})

test('failures spread over more than ten minutes do not ban', () => {
  const gate = new Gate(GATE_LIMITS)
  fail(gate, 50, 70_000)
  expect(gate.bannedUntilMs('A', START + 50 * 70_000)).toBeUndefined()
})

test('an address that logged in within the hour is not banned, and can be after it', () => {
  const gate = new Gate(GATE_LIMITS)
  gate.loggedIn('A', START)
  fail(gate, 100, 0, 'A', START + 30 * MINUTE)
  expect(gate.bannedUntilMs('A', START + 31 * MINUTE)).toBeUndefined()
  fail(gate, 10, 0, 'A', START + 61 * MINUTE)
  expect(gate.bannedUntilMs('A', START + 62 * MINUTE)).toBe(START + 71 * MINUTE)
})

test('a banned address is heard one connection at a time', () => {
  const gate = new Gate(GATE_LIMITS, () => 0.9999)
  fail(gate, 10)
  expect(admitted(gate, 20)).toBe(1)
  gate.settle('A')
  expect(admitted(gate, 20)).toBe(1)
})

test('it remembers a bounded number of addresses, the connected ones among them, at bounded cost', () => {
  const gate = new Gate(GATE_LIMITS, () => 0)
  expect(admitted(gate, 10, '192.0.2.1')).toBe(10)
  fail(gate, 9, 0, '192.0.2.2')
  const started = performance.now()
  for (let index = 0; index < 100_000; index++)
    gate.failed(`10.${index >> 16}.${(index >> 8) & 255}.${index & 255}`, START)
  expect(performance.now() - started).toBeLessThan(2000)
  expect(admitted(gate, 1, '192.0.2.1')).toBe(0)
  fail(gate, 1, 0, '192.0.2.2')
  expect(gate.bannedUntilMs('192.0.2.2', START)).toBeUndefined()
})
